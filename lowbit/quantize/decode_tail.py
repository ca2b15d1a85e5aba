"""The same detections with less work: the decode tail of an end-to-end detector for survivors only."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.detector import heads
from lowbit.detector.decoding import anchor_points
from lowbit.detector.heads.end2end import End2End
from lowbit.errors import UnavailableError
from lowbit.quantize import Job
from lowbit.quantize.offers import Offers
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx


def lean_tail(path: Path, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of an end-to-end detector that decodes the boxes of surviving anchors only.

    Ultralytics' export decodes every anchor's box, 8400 at 640 px, through a softmax along a strided axis, and then
    keeps 300. Here every level's best anchors by their best class logit are gathered first; sigmoid is monotonic, so the
    survivors are the same, and only they are decoded. All nodes after the head's last convolutions are replaced; input
    and output stay what they were. Detections of equal score may change their order.

    Raises :class:`UnavailableError` for another head, one whose last convolutions are not a box and a class branch a
    level, boxes by distribution focal loss, and one behind which non-maximum suppression chooses.
    """
    import onnx
    from onnx import numpy_helper

    head = heads.recognise(path, model)
    if not isinstance(head, End2End):
        raise UnavailableError(f"{path.name}: has a {head.kind} head; only an end-to-end head skips anchors.")
    tail = set(graph.decode_tail(model))
    if any(node.op_type == "NonMaxSuppression" for node in model.graph.node if node.name in tail):
        raise UnavailableError(f"{path.name}: has non-maximum suppression inside, which stays.")
    kept = int(model.graph.output[0].type.tensor_type.shape.dim[1].dim_value)
    if not kept:
        raise UnavailableError(f"{path.name}: how many detections it gives depends on the image.")
    bins = graph.dfl_bins(model)
    if bins is None:
        raise UnavailableError(f"{path.name}: its boxes are not distributions over bins; there is nothing to save.")
    levels = _levels(path, model, head, len(bins))
    name = model.graph.output[0].name
    build = _Builder(graph.opset(model))
    _write_tail(build, head, levels, bins, kept, name)
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    body = copied.graph
    nodes = [node for node in body.node if node.name not in tail] + build.nodes
    used = {name for node in nodes for name in node.input}
    nodes = [node for node in nodes if node.op_type != "Constant" or used & set(node.output)]
    stored = [tensor for tensor in body.initializer if tensor.name in used]
    stored += [numpy_helper.from_array(value, name) for name, value in build.values.items()]
    for field, values in ((body.node, nodes), (body.initializer, stored)):
        values = list(values)
        del field[:]
        field.extend(values)
    del body.value_info[:]
    onnx.checker.check_model(copied)
    return copied


# Images with objects that an equivalence is proved on, and images that are looked at for them.
PROBES, _LOOKED_AT = 4, 64
# Where two executions of the same network may differ: rounding of the last digits.
_PIXELS, _SCORE, _SEEN = 0.05, 1e-4, 0.01


def prove(model: onnx.ModelProto, rewritten: onnx.ModelProto, images: Iterable[NDArray[np.float32]]) -> int:
    """Compare the detections, of a score of 0.01 or more, of an end-to-end detector and its rewritten form.

    ``images``: float32 [1, 3, height, width] each, read until :data:`PROBES` of them had detections. Returns how many
    detections were compared. Raises :class:`UnavailableError` if one has no equal, or there were none: a proof that
    compared nothing is none.
    """
    sessions = [plain_session(one) for one in (model, rewritten)]
    compared = seen = looked_at = 0
    for looked_at, tensor in enumerate(islice(images, _LOOKED_AT), 1):
        one, two = (session.run(None, {session.get_inputs()[0].name: tensor})[0][0] for session in sessions)
        before = compared
        for mine, theirs in ((one, two), (two, one)):
            for row in mine[mine[:, 4] >= _SEEN]:
                near = (np.abs(theirs[:, :4] - row[:4]).max(1) < _PIXELS) & (np.abs(theirs[:, 4] - row[4]) < _SCORE)
                if not (near & (theirs[:, 5] == row[5])).any():
                    raise UnavailableError(f"differs on calibration image {looked_at}: {row.tolist()} has no equal.")
                compared += 1
        seen += compared > before
        if seen == PROBES:
            break
    if not compared:
        raise UnavailableError(
            f"is not proved: the detector sees nothing on {looked_at} calibration images. List images with objects first."
        )
    return compared


# In manifests.
NAME = "lean decode tail"


def offer(job: Job, model: onnx.ModelProto, offers: Offers) -> onnx.ModelProto:
    """``model``, the graph of ``job.source``, with a lean tail where it fits and is proved on the calibration images."""

    def rewrite(copied: onnx.ModelProto) -> None:
        copied.CopyFrom(lean_tail(job.source, copied))

    def proof(one: onnx.ModelProto, two: onnx.ModelProto) -> int:
        return prove(one, two, job.calibration.batches(job.input))

    return offers.take(NAME, model, rewrite, proof)


def _levels(path: Path, model: onnx.ModelProto, head: End2End, bins: int) -> list[tuple[str, str]]:
    """The outputs of the box and the class branch's last convolution, level by level, finest first."""
    shapes = graph.shapes(model)
    outputs = graph.head_outputs(model)
    found = []
    for stride in head.strides:
        height, width = (side // stride for side in head.sides)
        at = [name for name in outputs if shapes.get(name, ())[2:] == (height, width)]
        # A detector with as many classes as a box has logits is told by the order of export: boxes first.
        boxes = [name for name in at if shapes[name][1] == 4 * bins]
        classes = [name for name in at if shapes[name][1] == head.classes and name not in boxes[:1]]
        if len(at) != 2 or not boxes or not classes:
            raise UnavailableError(f"{path.name}: its head has no box and class branch of {height} x {width} cells.")
        found.append((boxes[0], classes[0]))
    return found


def _write_tail(
    build: _Builder,
    head: End2End,
    levels: list[tuple[str, str]],
    bins: NDArray[np.float32],
    kept: int,
    output: str,
) -> None:
    points, strides = anchor_points(head.sides, head.strides)
    best: list[str] = []
    logits: list[str] = []
    sides: list[str] = []
    places: list[str] = []
    start = 0
    for (boxes, classes), stride in zip(levels, head.strides, strict=True):
        cells = (head.sides[0] // stride) * (head.sides[1] // stride)
        here = slice(start, start + cells)
        # A row an anchor: an integer convolution's output lies so already, and rows are gathered whole.
        flat, box = (
            build("Reshape", build("Transpose", name, perm=[0, 2, 3, 1]), build.constant([cells, width]))
            for name, width in ((classes, head.classes), (boxes, 4 * len(bins)))
        )
        values, chosen = build.two("TopK", build.highest(flat), build.constant([min(kept, cells)]), axis=0)
        grid = build.constant(np.concatenate([points[here], strides[here, None]], 1).astype(np.float32))
        best.append(values)
        for parts, source in ((logits, flat), (sides, box), (places, grid)):
            parts.append(build("Gather", source, chosen, axis=0))
        start += cells
    _, chosen = build.two("TopK", build("Concat", *best, axis=0), build.constant([kept]), axis=0)
    scores, boxes, grid = (
        build("Gather", build("Concat", *parts, axis=0), chosen, axis=0) for parts in (logits, sides, places)
    )
    # One detection a (anchor, class) pair, best first.
    score, pair = build.two("TopK", build("Reshape", scores, build.constant([-1])), build.constant([kept]), axis=0)
    classes = build.constant(head.classes)
    anchor, label = build("Div", pair, classes), build("Mod", pair, classes)
    boxes, grid = (build("Gather", part, anchor, axis=0) for part in (boxes, grid))
    shares = build("Softmax", build("Reshape", boxes, build.constant([kept, 4, len(bins)])), axis=2)
    distance = build("ReduceSum", build("Mul", shares, build.constant(bins)), build.constant([2]), keepdims=0)
    near, far = build.two("Split", distance, build.constant([2, 2]), axis=1)
    centre, pitch = build.two("Split", grid, build.constant([2, 1]), axis=1)
    corners = build("Concat", build("Sub", centre, near), build("Add", centre, far), axis=1)
    columns = [
        build("Mul", corners, pitch),
        build("Unsqueeze", build("Sigmoid", score), build.constant([1])),
        build("Unsqueeze", build("Cast", label, to=1), build.constant([1])),  # 1: FLOAT
    ]
    build("Unsqueeze", build("Concat", *columns, axis=1), build.constant([0]), output=output)


class _Builder:
    """Nodes and constants under names that no exporter uses."""

    def __init__(self, opset: int) -> None:
        self._opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[str, NDArray[Any]] = {}

    def constant(self, value: Any) -> str:
        """A stored tensor; whole numbers are int64."""
        name = f"/lean/constant_{len(self.values)}"
        self.values[name] = np.asarray(value, None if isinstance(value, np.ndarray) else np.int64)
        return name

    def __call__(self, op: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """A node with one output; returns the output's name."""
        return self._node(op, inputs, [output or f"/lean/{op}_{len(self.nodes)}_output_0"], attributes)[0]

    def highest(self, rows: str) -> str:
        """The largest value of every row of [rows, columns]; ReduceMax takes its axes as an input since opset 18."""
        if self._opset < 18:
            return self("ReduceMax", rows, axes=[1], keepdims=0)
        return self("ReduceMax", rows, self.constant([1]), keepdims=0)

    def two(self, op: str, *inputs: str, **attributes: Any) -> tuple[str, str]:
        """A node with two outputs."""
        names = [f"/lean/{op}_{len(self.nodes)}_output_{number}" for number in range(2)]
        first, second = self._node(op, inputs, names, attributes)
        return first, second

    def _node(self, op: str, inputs: tuple[str, ...], outputs: list[str], attributes: dict[str, Any]) -> list[str]:
        import onnx

        name = f"/lean/{op}_{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(op, list(inputs), outputs, name=name, **attributes))
        return outputs
