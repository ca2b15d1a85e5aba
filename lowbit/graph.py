"""What an ONNX graph says about itself: its decode tail, its head, what in it is quantized and how."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowbit.decode import HeadContract, HeadKind
from lowbit.errors import InputError, UnavailableError
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

MAX_SIZE = 4096
WEIGHTED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_BITS = {"INT4": 4, "UINT4": 4, "INT8": 8, "UINT8": 8, "FLOAT8E4M3FN": 8, "FLOAT8E5M2": 8, "FLOAT16": 16, "FLOAT": 32}
# Ops whose output has values of their inputs only: what was quantized before them still is.
PASSING = frozenset({"Split", "Slice", "Concat", "MaxPool", "Gather", "Reshape", "Transpose", "Resize", "Identity"})
_HEAD_PREFIX = re.compile(r"(/model\.\d+/)")


def load(path: Path) -> onnx.ModelProto:
    """Read and check an ONNX file. Raises :class:`InputError` if it is missing, not ONNX or not valid."""
    import onnx

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such ONNX file.") from error
    except Exception as error:  # protobuf, the checker and external data each raise types of their own
        said = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{path}: is no valid ONNX model ({said}). Export it again.") from error
    for tensor in model.graph.initializer:
        _check_tensor(path, tensor)
    return model


def _check_tensor(path: Path, tensor: onnx.TensorProto) -> None:
    """Refuse a tensor whose shape promises more than its data hold, and NaN or infinity among weights."""
    from onnx import numpy_helper

    shape = tuple(tensor.dims)
    try:
        if math.prod(shape) > 8 * max(tensor.ByteSize(), 1):  # no type has less than one bit an element
            raise ValueError("less data than its shape says")
        values = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError, MemoryError) as error:
        raise InputError(f"{path}: tensor {tensor.name[:80]!r} of shape {shape} is damaged ({error}).") from error
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise InputError(
            f"{path}: weight {tensor.name[:80]!r} holds NaN or infinity. Export a checkpoint that trained."
        )


def embed(path: Path) -> None:
    """Put weights that an ONNX file keeps in files beside it into the file, and remove those: what is hashed is then all
    that is run. A file that is no ONNX is left to :func:`load` to refuse."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    try:
        tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    except DecodeError:
        return
    beside = {path.parent / ExternalDataInfo(tensor).location for tensor in tensors if uses_external_data(tensor)}
    if beside:
        onnx.save(onnx.load(str(path)), str(path))
        for file in beside:
            file.unlink()


def replace_nodes(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto]) -> None:
    """Give a model these nodes, its own among them, in this order."""
    import onnx

    # Copies: nodes of the model end with the list that they are in.
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def fixed(path: Path, model: onnx.ModelProto, size: int | None = None) -> onnx.ModelProto:
    """A detector's graph with one image of a fixed size as its input: itself if it is so already.

    A dynamic batch becomes 1 and dynamic sides become ``size``; what follows from them is folded (onnxslim).

    Raises :class:`InputError` for sides that are dynamic without a ``size``, or fixed at another one.
    """
    inputs = _inputs(model)
    dims = list(inputs[0].type.tensor_type.shape.dim) if len(inputs) == 1 else []
    if len(dims) != 4:
        return model  # contract_of says what is wrong with it
    sides = {dim.dim_value for dim in dims[2:]}
    if size is not None and sides - {0, size}:
        raise InputError(f"{path}: its input is {sides} pixels wide or high, and {size} was asked for. Say its own.")
    if dims[0].dim_value == 1 and 0 not in sides:
        return model
    if 0 in sides and size is None and sides == {0}:
        raise InputError(
            f"{path}: its input has dynamic sides. Say which size is deployed, for example --image-size 640."
        )
    import onnx
    import onnxslim

    side = size or max(sides)
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    inputs = _inputs(copied)
    for dim, value in zip(inputs[0].type.tensor_type.shape.dim, (dims[0].dim_value or 1, 3, side, side), strict=True):
        dim.Clear()
        dim.dim_value = value
    for output in copied.graph.output:  # names of dimensions that are fixed now
        output.type.tensor_type.ClearField("shape")
    del copied.graph.value_info[:]
    slim = onnxslim.slim(copied)
    _settle_outputs(path, slim)
    return slim


def _inputs(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs without a stored value: some exporters list weights as inputs with a default."""
    stored = {tensor.name for tensor in model.graph.initializer}
    return [value for value in model.graph.input if value.name not in stored]


def _settle_outputs(path: Path, model: onnx.ModelProto) -> None:
    """Write the outputs' shapes, by running the graph once: shape inference loses them behind TopK and NMS."""
    try:
        session = plain_session(model)
        dims = [dim.dim_value for dim in _inputs(model)[0].type.tensor_type.shape.dim]
        found = session.run(None, {session.get_inputs()[0].name: np.zeros(dims, np.float32)})
    except Exception as error:  # ORT's exceptions have no common base of their own
        raise InputError(
            f"{path}: does not run on one picture of this size ({str(error)[:200]}). Export it with fixed dimensions."
        ) from error
    for value, array in zip(model.graph.output, found, strict=True):
        del value.type.tensor_type.shape.dim[:]
        for side in array.shape:
            value.type.tensor_type.shape.dim.add().dim_value = side


def contract_of(
    path: Path, model: onnx.ModelProto, kind: HeadKind | None = None, strides: tuple[int, ...] = (8, 16, 32)
) -> HeadContract:
    """Recognise a detector's head from its one input and one output, or check that it is of the declared ``kind``.

    Raises :class:`InputError` if it can't be.
    """
    inputs, outputs = _inputs(model), model.graph.output
    if len(inputs) != 1 or len(outputs) != 1:
        raise InputError(f"{path}: has {len(inputs)} inputs and {len(outputs)} outputs; one of each is supported.")
    shape_in, shape_out = (
        tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in (inputs[0], outputs[0])
    )
    if len(shape_in) != 4 or shape_in[:2] != (1, 3) or shape_in[2] != shape_in[3] or not 32 <= shape_in[2] <= MAX_SIZE:
        raise InputError(
            f"{path}: input {shape_in} is not 1 x 3 x size x size with a fixed size of 32 to {MAX_SIZE}. Export it so."
        )
    one = HeadContract(HeadKind.DECODED, shape_in[2], 0, strides)
    three = replace(one, kind=HeadKind.OBJECTNESS, transposed=True)
    candidates: list[HeadContract] = []
    if len(shape_out) == 3 and shape_out[0] == 1:
        if shape_out[1] == three.anchors and shape_out[2] > three.rows:
            candidates.append(replace(three, classes=shape_out[2] - three.rows))
        for values, anchors, transposed in ((*shape_out[1:], False), (*shape_out[:0:-1], True)):
            wanted = HeadKind.DECODED if kind is HeadKind.DECODED or _ends_in_sigmoid(model) else HeadKind.RAW
            head = replace(one, kind=wanted, transposed=transposed)
            if anchors == one.anchors and values > head.rows:
                candidates.append(replace(head, classes=values - head.rows))
        if shape_out[2] == 6 and not candidates:
            # An end-to-end output does not say how many classes there are: the class logits' last Conv does.
            candidates.append(replace(one, kind=HeadKind.END2END, classes=_classes_of_end2end(path, model)))
    for contract in candidates:
        if kind is None or contract.kind is kind:
            return contract
    raise InputError(
        f"{path}: output {shape_out} is {f'no {kind} head' if kind else 'none'} of 1 x n x 6 (end2end), 1 x (64 + "
        f"classes) x {one.anchors} (raw), 1 x (4 + classes) x {one.anchors} (decoded; both may be transposed) or "
        f"1 x {three.anchors} x (5 + classes) (objectness). Export the detector with one of these heads, or declare "
        "its strides."
    )


def _classes_of_end2end(path: Path, model: onnx.ModelProto) -> int:
    weights = _stored_weights(model)
    widths = Counter(weights[n.input[1]].dims[0] for n in _last_convs(model) if n.input[1] in weights)
    # Every stride has one box and one class Conv; boxes have 4 * reg_max = 64 channels.
    classes = [width for width in widths if width != 64] or [width for width, count in widths.items() if count > 3]
    if len(classes) != 1:
        raise InputError(f"{path}: the number of classes can't be read from its last convolutions ({dict(widths)}).")
    return int(classes[0])


def _ends_in_sigmoid(model: onnx.ModelProto) -> bool:
    makers = {output: node for node in model.graph.node for output in node.output}
    last = makers.get(model.graph.output[0].name)
    while last is not None and last.op_type in ("Transpose", "Identity", "Cast"):
        last = makers.get(last.input[0])
    if last is None or last.op_type != "Concat":
        return False
    return any(i in makers and makers[i].op_type == "Sigmoid" for i in last.input)


def _stored_weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """Initializers by name, and under the outputs of the Clip and the DequantizeLinear that read them."""
    weights = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:  # topologically sorted
        if node.op_type in ("Clip", "DequantizeLinear") and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]
    return weights


def _is_dfl(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Ultralytics' distribution focal loss is a Conv whose frozen 1 x n x 1 x 1 weight counts 0, 1, 2 ...

    Whatever its scale, for the weight may be stored in integers, and with half a bin of tolerance: checkpoints rebuilt
    from quantized ones count 0, 0.94, 2.01 ...
    """
    from onnx import numpy_helper

    tensor = weights.get(node.input[1]) if len(node.input) > 1 else None
    if tensor is None or len(tensor.dims) != 4 or tensor.dims[0] != 1 or tuple(tensor.dims[2:]) != (1, 1):
        return False
    bins = numpy_helper.to_array(tensor).ravel().astype(float)
    if len(bins) < 2 or bins[-1] <= 0:
        return False
    return bool(np.allclose(bins * (len(bins) - 1) / bins[-1], np.arange(len(bins)), rtol=0, atol=0.5))


Quantizer = tuple[NDArray[np.float32], NDArray[np.uint8]]


def activation_scales(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """Scale and zero point, as unsigned 8 bits, of every float tensor that a QDQ graph quantizes with one scale.

    A signed tensor's zero point moves by 128: the same values. Where a tensor is quantized several times, the first pair
    in the graph's order counts.
    """
    found: dict[str, Quantizer] = {}
    quantizers = pairs(model)
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and node.output[0] in quantizers:
            found.setdefault(node.input[0], quantizers[node.output[0]])
    return found


def input_quantizers(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """The same by convolution: how its input is quantized, by node name."""
    quantizers = pairs(model)
    inputs = {node.name: node.input[0] for node in weighted_convolutions(model)}
    return {node: quantizers[name] for node, name in inputs.items() if name in quantizers}


def pairs(model: onnx.ModelProto) -> dict[str, Quantizer]:
    """Scale and zero point, as unsigned 8 bits, of every QuantizeLinear and DequantizeLinear of an activation that has one
    scale, by its output."""
    stored = _constants(model)
    quantized = ("QuantizeLinear", "DequantizeLinear")
    nodes = (node for node in model.graph.node if node.op_type in quantized and node.input[0] not in stored)
    found = {node.output[0]: _quantizer(node, stored) for node in nodes}
    return {name: pair for name, pair in found.items() if pair}


def _constants(model: onnx.ModelProto) -> dict[str, NDArray[np.generic]]:
    from onnx import numpy_helper

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return stored | {
        node.output[0]: numpy_helper.to_array(node.attribute[0].t)
        for node in model.graph.node
        if node.op_type == "Constant" and node.attribute[0].name == "value"
    }


def _quantizer(node: onnx.NodeProto, stored: dict[str, NDArray[np.generic]]) -> Quantizer | None:
    """Scale and zero point of a quantizer with one 8-bit scale."""
    if node.input[1] not in stored:
        return None
    scale = stored[node.input[1]]
    zero = np.asarray(stored.get(node.input[2], np.uint8(0)) if len(node.input) > 2 else np.uint8(0))
    if scale.size != 1 or zero.dtype not in (np.int8, np.uint8):
        return None
    moved = int(zero.item()) + (128 if zero.dtype == np.int8 else 0)
    return np.asarray(scale, np.float32).reshape(()), np.asarray(moved, np.uint8)


def dequantized_weights(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The float values, [out, ...], of every convolution's weight that a QDQ graph stores in integers, by node name."""
    return {name: (values - zero) * scale for name, values, scale, zero in _integer_weights(model)}


def weight_scales(model: onnx.ModelProto) -> dict[str, NDArray[np.float32]]:
    """The scales, float32 [out], of the same weights, by node name; one scale for all channels is repeated."""
    return {name: np.broadcast_to(scale.ravel(), len(values)) for name, values, scale, _ in _integer_weights(model)}


def biases(model: onnx.ModelProto) -> dict[str, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Every convolution's bias, float32 [out], and the step that it is rounded to, [out], 0 in float; by node name."""
    stored = _constants(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    found = {}
    for node in weighted_convolutions(model):
        name = node.input[2] if len(node.input) > 2 else ""
        if name in stored:
            value = stored[name].astype(np.float32)
            found[node.name] = value, np.zeros_like(value)
        elif name in makers and makers[name].op_type == "DequantizeLinear":
            integers, scale = (stored[one] for one in makers[name].input[:2])
            # Products of 32-bit integers, in double precision as far as they go.
            value = (integers.astype(float) * scale.astype(float)).astype(np.float32)
            found[node.name] = value, np.broadcast_to(scale, value.shape).astype(np.float32)
    return found


def _integer_weights(
    model: onnx.ModelProto,
) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]]:
    """Node name, integers [out, ...], and scale and zero point as they broadcast to them."""
    from onnx import numpy_helper

    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in weighted_convolutions(model):
        feed = makers.get(node.input[1])
        if feed is None or feed.op_type != "DequantizeLinear":
            continue
        source = makers.get(feed.input[0])
        name = source.input[0] if source is not None and source.op_type == "Clip" else feed.input[0]
        if name not in stored or feed.input[1] not in stored:
            continue
        values, scale = (numpy_helper.to_array(stored[one]).astype(np.float32) for one in (name, feed.input[1]))
        zero = numpy_helper.to_array(stored[feed.input[2]]).astype(np.float32) if len(feed.input) > 2 else np.float32(0)
        shape = (-1, *[1] * (values.ndim - 1))
        yield node.name, values, np.reshape(scale, shape), np.reshape(zero, shape)


def dfl_bins(model: onnx.ModelProto) -> NDArray[np.float32] | None:
    """The values of the distribution focal loss' bins, float32 [n], as a float graph stores them; None without one."""
    from onnx import numpy_helper

    weights = _stored_weights(model)
    for node in model.graph.node:
        if node.op_type == "Conv" and _is_dfl(node, weights):
            return numpy_helper.to_array(weights[node.input[1]]).ravel().astype(np.float32)
    return None


def weighted_convolutions(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Every convolution with a stored weight, in the graph's order; not the distribution focal loss'."""
    weights = _stored_weights(model)
    return [n for n in model.graph.node if n.op_type == "Conv" and n.input[1] in weights and not _is_dfl(n, weights)]


def stem(model: onnx.ModelProto) -> list[str]:
    """Names of the convolutions that read the picture; empty where something else reads it."""
    picture = _inputs(model)[0].name
    return [node.name for node in model.graph.node if node.op_type == "Conv" and node.input[0] == picture]


def downstream(model: onnx.ModelProto, convolutions: Collection[str]) -> list[str]:
    """Names of the nodes that only these convolutions reach without another one between: their activations first of all."""
    sources: dict[str, frozenset[str]] = {}
    names = []
    for node in model.graph.node:
        if node.op_type == "Conv":
            found = frozenset({node.name})
        else:
            found = frozenset().union(*(sources.get(name, frozenset()) for name in node.input))
            if found and found <= set(convolutions):
                names.append(node.name)
        sources |= dict.fromkeys(node.output, found)
    return names


def _last_convs(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Convolutions that no other convolution follows, the DFL's not counted."""
    weights = _stored_weights(model)
    feeds_conv: dict[str, bool] = {}
    last = []
    for node in reversed(model.graph.node):  # topologically sorted, so consumers come first
        conv = node.op_type == "Conv" and not _is_dfl(node, weights)
        followed = any(feeds_conv.get(output, False) for output in node.output)
        if conv and not followed:
            last.append(node)
        for name in node.input:
            feeds_conv[name] = feeds_conv.get(name, False) or conv or followed
    return last


def head_outputs(model: onnx.ModelProto) -> list[str]:
    """Names of the tensors that the head's last convolutions give, in the graph's order: the raw head."""
    return [node.output[0] for node in reversed(_last_convs(model))]


def with_head_outputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that gives the raw head beside its own output, for comparing two graphs before the decode tail."""
    import onnx

    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    there = {value.name for value in copied.graph.output}
    copied.graph.output.extend(
        onnx.helper.make_empty_tensor_value_info(name) for name in head_outputs(model) if name not in there
    )
    return copied


def raw_head_of_batch(model: onnx.ModelProto, size: int) -> onnx.ModelProto:
    """A copy for ``size`` pictures at once that ends with the raw head: exports are made for one picture, and their decode
    tail (the choice of the best boxes) is written for one.

    Raises :class:`UnavailableError` for a graph whose inner shapes depend on its batch in another way than a Reshape's.
    """
    import onnx
    from onnx import numpy_helper

    heads, tail, stored = head_outputs(model), set(decode_tail(model)), _constants(model)
    batched = onnx.ModelProto()
    batched.CopyFrom(model)
    body = batched.graph
    replace_nodes(batched, [node for node in body.node if node.name not in tail])
    for number, node in enumerate(body.node):
        shape = stored.get(node.input[1]) if node.op_type == "Reshape" else None
        if shape is not None and len(shape) > 1 and shape[0] == 1:
            node.input[1] = f"{node.input[1]}/of_batch_{number}"
            # 0 is the batch of what is reshaped.
            body.initializer.append(numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), node.input[1]))
    del body.value_info[:], body.output[:]
    body.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in heads)
    _inputs(batched)[0].type.tensor_type.shape.dim[0].dim_value = size
    found = shapes(batched)
    if any(found.get(name, ())[:1] != (size,) for name in heads):
        raise UnavailableError(f"its graph can't take {size} pictures at once: a shape in it is made for one.")
    return batched


def decode_tail(model: onnx.ModelProto) -> list[str]:
    """Names of every node after the head's last convolutions: boxes to 640 and scores to 1 must not share a scale."""
    reached = {output for node in _last_convs(model) for output in node.output}
    tail = []
    for node in model.graph.node:
        if any(name in reached for name in node.input):
            reached.update(node.output)
            tail.append(node.name)
    return tail


def head_nodes(model: onnx.ModelProto) -> list[str]:
    """Names of all nodes of the detection head module, found by the name that its last convolutions share.

    Raises :class:`UnavailableError` for a graph whose names don't follow Ultralytics' ``/model.<n>/...``.
    """
    matches = [_HEAD_PREFIX.match(node.name) for node in _last_convs(model)]
    prefixes = {match.group(1) if match else "" for match in matches}
    if len(prefixes) != 1 or prefixes == {""}:
        raise UnavailableError("the detection head can't be told apart: its nodes are not named /model.<n>/...")
    prefix = prefixes.pop()
    return [node.name for node in model.graph.node if node.name.startswith(prefix)]


@dataclass(frozen=True, slots=True)
class Weight:
    """How the weight of one convolution or matrix product is stored.

    ``dtype``: ONNX's name of the stored type. ``axis``: the quantization axis, ``None`` for one scale a tensor.
    ``block``: block size along the axis, 0 without. ``input_quantized``: whether its data input is dequantized too.
    """

    node: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    axis: int | None
    block: int
    scales: int
    input_quantized: bool

    @property
    def count(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    @property
    def bits(self) -> int:
        """Bits an element as stored."""
        return _BITS[self.dtype]

    @property
    def quantized(self) -> bool:
        """Whether it is stored in eight bits or fewer."""
        return self.bits <= 8


@dataclass(frozen=True, slots=True)
class Structure:
    """What is quantized in a graph. ``ops``: op type to number of nodes all of whose float inputs are dequantized."""

    weights: tuple[Weight, ...]
    ops: dict[str, int]
    quantize_nodes: int
    dequantize_nodes: int
    tail_quantized: tuple[str, ...]
    input_dtypes: tuple[str, ...]

    @property
    def weight_bits(self) -> float:
        """Average bits a weight over all quantized weights, their float32 scales included; 32 if none is quantized."""
        quantized = [w for w in self.weights if w.quantized]
        if not quantized:
            return 32.0
        return sum(w.count * w.bits + w.scales * 32 for w in quantized) / sum(w.count for w in quantized)

    @property
    def quantized_fraction(self) -> float:
        """Share of the convolutions' and matrix products' weight elements that are stored in eight bits or fewer."""
        total = sum(w.count for w in self.weights)
        return sum(w.count for w in self.weights if w.quantized) / total if total else 0.0


def structure(model: onnx.ModelProto) -> Structure:
    """Read weights, Q/DQ nodes and what lies in the decode tail from a QDQ graph."""
    import onnx

    weights = {t.name: t for t in model.graph.initializer}
    stored = _stored_weights(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    type_name = onnx.TensorProto.DataType.Name
    tail = set(decode_tail(model))
    found: list[Weight] = []
    ops: Counter[str] = Counter()
    in_tail: list[str] = []
    input_dtypes: set[str] = set()
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant"):
            continue
        feeds = [makers[name] for name in node.input if name in makers]
        dequantized = [feed for feed in feeds if feed.op_type == "DequantizeLinear"]
        data = makers.get(node.input[0]) if node.input else None
        while data is not None and data.op_type in PASSING:
            data = makers.get(data.input[0])
        data_quantized = data is not None and data.op_type == "DequantizeLinear"
        inside = bool(dequantized) and node.name in tail and _consumes_quantized(node, tail, makers, weights)
        if inside:
            in_tail.append(node.name)
        # What the tail reads of the last convolutions' own pairs it computes with in float.
        if inside or node.name not in tail:
            whole = len(dequantized) == len([f for f in feeds if f.op_type != "Constant"])
            ops[node.op_type] += bool(dequantized) and whole
        if node.op_type not in WEIGHTED_OPS or len(node.input) < 2:
            continue
        if data_quantized and data is not None and len(data.input) > 2 and data.input[2] in weights:
            input_dtypes.add(type_name(weights[data.input[2]].data_type))
        weight = None if _is_dfl(node, stored) else _weight(node, weights, stored, makers, data_quantized)
        if weight is not None:
            found.append(weight)
    kinds = Counter(node.op_type for node in model.graph.node)
    return Structure(
        tuple(found),
        dict(+ops),
        kinds["QuantizeLinear"],
        kinds["DequantizeLinear"],
        tuple(in_tail),
        tuple(sorted(input_dtypes)),
    )


def _consumes_quantized(
    node: onnx.NodeProto,
    tail: set[str],
    makers: dict[str, onnx.NodeProto],
    weights: dict[str, onnx.TensorProto],
) -> bool:
    """Whether a tail node reads a tensor that was quantized inside the tail.

    The first tail nodes may read what the last convolution's own Q/DQ pair gives; that pair belongs to the Conv.
    """
    for name in node.input:
        dq = makers.get(name)
        if dq is None or dq.op_type != "DequantizeLinear" or dq.input[0] in weights:
            continue
        q = makers.get(dq.input[0])
        origin = makers.get(q.input[0]) if q is not None and q.op_type == "QuantizeLinear" else None
        if origin is not None and origin.name in tail and origin.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return True
    return False


def _weight(
    node: onnx.NodeProto,
    weights: dict[str, onnx.TensorProto],
    stored: dict[str, onnx.TensorProto],
    makers: dict[str, onnx.NodeProto],
    data_quantized: bool,
) -> Weight | None:
    import onnx

    type_name = onnx.TensorProto.DataType.Name
    name = node.input[1]
    if name in weights:
        tensor = weights[name]
        return Weight(
            node.name, node.op_type, tuple(tensor.dims), type_name(tensor.data_type), None, 0, 0, data_quantized
        )
    feed = makers.get(name)
    if feed is None or feed.op_type != "DequantizeLinear" or feed.input[0] not in stored:
        return None
    tensor, scale = stored[feed.input[0]], weights.get(feed.input[1])
    scales = int(np.prod(scale.dims)) if scale is not None else 1
    attributes = {a.name: a.i for a in feed.attribute}
    axis = attributes.get("axis", 1) if scales > 1 else None
    return Weight(
        node.name,
        node.op_type,
        tuple(tensor.dims),
        type_name(tensor.data_type),
        axis,
        attributes.get("block_size", 0),
        scales,
        data_quantized,
    )


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor that has a known one, 0 for a dimension that can't be told.

    By ONNX Runtime's symbolic inference: ONNX's own loses everything behind a Slice whose ends are computed, as
    PyTorch's tracer writes ``chunk``.
    """
    import onnx
    from onnxruntime.tools.symbolic_shape_infer import SymbolicShapeInference

    try:
        inferred = SymbolicShapeInference.infer_shapes(model, auto_merge=True).graph
    except Exception:  # it raises plain ones for ops that it does not know
        inferred = onnx.shape_inference.infer_shapes(model).graph
    found = {t.name: tuple(t.dims) for t in model.graph.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        found[value.name] = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
    return found


def macs(model: onnx.ModelProto) -> dict[str, int]:
    """Multiply-accumulates of every convolution and matrix product, under the node's name and under its output's.

    Of a convolution: its weight's elements times its output's positions; of a product: its output's elements times the
    inner size. Nodes whose shapes can't be inferred are left out.
    """
    sizes = shapes(model)
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type not in WEIGHTED_OPS:
            continue
        output, second = sizes.get(node.output[0]), sizes.get(node.input[1])
        if not output or not second or 0 in output or 0 in second:
            continue
        if node.op_type == "MatMul":
            count = int(np.prod(output)) * second[-2]
        else:  # for Gemm, the output has one position
            count = int(np.prod(second) * np.prod(output) // output[1])
        found[node.name] = found[node.output[0]] = count
    return found
