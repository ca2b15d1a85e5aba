"""Whether two forms of a graph compute the same, checked by running both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit.data.detections import Detections
from lowbit.errors import InputError
from lowbit.graph.head import head_outputs
from lowbit.graph.nodes import inputs, name_nodes, shape_of
from lowbit.graph.shape_inference import blank, noise
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

# How far a number may be off, as a share of its channel's largest: what fusing BatchNormalization changes in float32 stays
# below 1e-4; float16 carries 11 bits through some dozens of layers.
_SAME, _SAME_HALF = 1e-3, 5e-2


# Reads the outputs of one image, in the graph's order.
Decode = Callable[[Sequence[NDArray[Any]]], Detections]
# Detections of a score of at least the first number are compared; the others say how far two of them may be apart, in pixels
# and in score, and what share must have an equal: suppression may choose another one of two boxes that lie as well.
_SEEN = 0.05
_NEAR, _NEAR_HALF = (0.5, 0.01, 0.98), (4.0, 0.05, 0.9)


def prove(
    path: Path,
    original: onnx.ModelProto,
    model: onnx.ModelProto,
    images: Sequence[NDArray[Any]] = (),
    decode: Decode | None = None,
) -> None:
    """Run both on the same images and compare outputs and raw heads; raises :class:`InputError` where they differ.

    A graph of a fixed batch gets as many different images at once, and each must come out as it does alone. ``images``:
    real ones, float32 [1, 3, height, width], as the network takes them; without, a black one and noise. ``decode``: what
    reads the outputs; detections are compared then, and not every box that nobody sees.
    """
    from onnx import helper

    (before,), (after,) = inputs(original), inputs(model)
    half = _in_half(original)
    made = [{name for node in one.graph.node for name in node.output} for one in (original, model)]
    raw = [name for name in head_outputs(model) if name in made[0] & made[1]]
    kind = helper.tensor_dtype_to_np_dtype(before.type.tensor_type.elem_type)
    first, second = (_session(path, one, raw) for one in (original, model))
    # In float16 the choice of the best boxes is another one: what they are chosen from is compared.
    skipped = len(original.graph.output) if half and raw else 0
    batch, compared = max(1, shape_of(before)[0]), 0
    for together in _of_batch(images, batch) if images else _batches(after, batch, 255 if kind == np.uint8 else 1):
        fed = np.concatenate(together)
        same = fed.transpose(0, 2, 3, 1) if shape_of(before)[3:] == (3,) and shape_of(before)[1] != 3 else fed
        try:
            wanted = first.run(None, {before.name: same.astype(kind)})
        except Exception as error:
            raise InputError(f"{path}: does not run on one image ({str(error).strip()[:200]}).") from error
        for number, image in enumerate(together):
            own = [value[number : number + 1] if value.shape[:1] == (batch,) else value for value in wanted]
            found = second.run(None, {after.name: image})
            outputs = len(original.graph.output)
            if decode:
                compared += _seen_alike(
                    path, decode([_single(value) for value in own[:outputs]]), decode(found[:outputs]), half=half
                )
            for name, one, two in list(zip(_names(original, raw), own, found, strict=True))[
                outputs if decode else skipped :
            ]:
                compared += _same(path, name, one, two, _SAME_HALF if half else _SAME)
    if not compared:
        raise InputError(
            f"{path}: had to be changed to be measured, and nothing shows that it still computes the same: it has no "
            f"detections on {'these images' if images else 'noise'} and no convolutions in common. Export it with fixed dimensions and opset 17."
        )


def _in_half(model: onnx.ModelProto) -> bool:
    """Whether any stored value is float16, be it an initializer's or a Constant node's, in a function's body too."""
    from onnx import TensorProto

    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    constants = (attribute.t for node in nodes for attribute in node.attribute if attribute.HasField("t"))
    return any(tensor.data_type == TensorProto.FLOAT16 for tensor in (*model.graph.initializer, *constants))


def _batches(value: onnx.ValueInfoProto, batch: int, largest: int) -> list[list[NDArray[Any]]]:
    """A black image and noise up to ``largest``, as batches: one after the other, or in one with noise of other seeds and
    brightness."""
    if batch == 1:
        images = [[blank(value)], [noise(value)]]
    else:
        drawn: list[NDArray[Any]] = [noise(value, seed) for seed in range(1, batch)]
        images = [[blank(value), *(image * np.float32((seed + 1) / batch) for seed, image in enumerate(drawn, 1))]]
    return images if largest == 1 else [[np.rint(image * largest) for image in together] for together in images]


def _of_batch(images: Sequence[NDArray[Any]], batch: int) -> list[list[NDArray[Any]]]:
    """Images in batches, each of different ones as far as there are so many; the last batch is filled up from the first."""
    return [
        [images[place % len(images)] for place in range(start, start + batch)] for start in range(0, len(images), batch)
    ]


def _single(value: NDArray[Any]) -> NDArray[Any]:
    """Float16 as float32, in which heads are read: an exponential overflows in float16."""
    return value.astype(np.float32) if value.dtype == np.float16 else value


def _seen_alike(path: Path, one: Detections, two: Detections, *, half: bool) -> int:
    """How many detections were compared, in both directions."""
    pixels, score, share = _NEAR_HALF if half else _NEAR
    compared = equal = 0
    for mine, theirs in ((one, two), (two, one)):
        for row in np.flatnonzero(mine.scores >= _SEEN):
            near = (np.abs(theirs.boxes - mine.boxes[row]).max(1, initial=0) < pixels) & (
                theirs.classes == mine.classes[row]
            )
            equal += bool((near & (np.abs(theirs.scores - mine.scores[row]) < score)).any())
            compared += 1
    if equal < share * compared:
        raise InputError(
            f"{path}: its canonical form detects something else on real images: {compared - equal} of {compared} detections "
            "have no equal. Export it with fixed dimensions and opset 17."
        )
    return compared


def _names(model: onnx.ModelProto, raw: Sequence[str]) -> list[str]:
    own = [value.name for value in model.graph.output]
    return [*own, *(name for name in raw if name not in own)]


def _session(path: Path, model: onnx.ModelProto, raw: Sequence[str]) -> Any:
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    name_nodes(copied)  # ONNX Runtime takes no two nodes of one name
    more = _names(model, raw)[len(model.graph.output) :]
    copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in more)
    try:
        return plain_session(copied)
    except Exception as error:
        raise InputError(f"{path}: does not run ({str(error).strip()[:200]}).") from error


def _same(path: Path, name: str, one: NDArray[Any], two: NDArray[Any], share: float) -> int:
    """How many numbers were compared. Rows of equal score may have changed their order."""
    if one.shape == two.shape and (_close(one, two, share) or _close(_sorted_rows(one), _sorted_rows(two), share)):
        return one.size
    raise InputError(
        f"{path}: its canonical form computes something else at {name!r}. Export it with fixed dimensions and opset 17."
    )


def _close(one: NDArray[Any], two: NDArray[Any], share: float) -> bool:
    """Channel by channel, for boxes of hundreds of pixels lie beside scores of at most 1."""
    values, others = (np.atleast_2d(np.asarray(array, float)) for array in (one, two))
    channels = 1 if values.ndim == 4 else values.ndim - (2 if values.shape[-2] < values.shape[-1] else 1)
    rest = tuple(axis for axis in range(values.ndim) if axis != channels)
    largest = np.abs(values).max(rest, keepdims=True, initial=0)
    # 1e-6: scores of 1e-9, a sigmoid's tail, are all nothing.
    return bool((np.abs(values - others) <= share * largest + 1e-6).all())


def _sorted_rows(values: NDArray[Any]) -> NDArray[Any]:
    rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
    return np.asarray(rows[np.lexsort(np.round(rows, 2).T[::-1])])
