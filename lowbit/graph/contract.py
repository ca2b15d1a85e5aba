"""Which head a detector has, read from its one input and one output."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lowbit.decode import HeadContract, HeadKind
from lowbit.errors import InputError
from lowbit.graph.head import last_convolutions
from lowbit.graph.nodes import inputs, stored_weights

if TYPE_CHECKING:
    import onnx

MAX_SIZE = 4096


def contract_of(
    path: Path, model: onnx.ModelProto, kind: HeadKind | None = None, strides: tuple[int, ...] = (8, 16, 32)
) -> HeadContract:
    """Recognise a detector's head from its one input and one output, or check that it is of the declared ``kind``.

    Raises :class:`InputError` if it can't be.
    """
    given, outputs = inputs(model), model.graph.output
    if len(given) != 1 or len(outputs) != 1:
        raise InputError(f"{path}: has {len(given)} inputs and {len(outputs)} outputs; one of each is supported.")
    shape_in, shape_out = (
        tuple(d.dim_value for d in value.type.tensor_type.shape.dim) for value in (given[0], outputs[0])
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
    weights = stored_weights(model)
    widths = Counter(weights[n.input[1]].dims[0] for n in last_convolutions(model) if n.input[1] in weights)
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
