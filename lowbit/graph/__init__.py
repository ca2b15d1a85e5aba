"""ONNX files: read and checked once, and what a graph says about itself: its decode tail, what in it is quantized, shapes."""

from lowbit.graph.canonical_form import MAX_SIDE, Canonical, canonical, fixed
from lowbit.graph.equality import prove
from lowbit.graph.head import (
    decode_tail,
    deployed_outputs,
    ends_in_sigmoid,
    head_nodes,
    head_outputs,
    last_convolutions,
    made_by,
    raw_head_of_batch,
    with_head_outputs,
)
from lowbit.graph.image_input import SIZE_INPUTS
from lowbit.graph.loading import embed, load
from lowbit.graph.nodes import (
    PASSING,
    dfl_bins,
    downstream,
    inputs,
    opset,
    replace_nodes,
    shape_of,
    stem,
    stored_weights,
    weighted_convolutions,
)
from lowbit.graph.qdq import (
    Quantizer,
    activation_scales,
    biases,
    dequantized_weights,
    input_quantizers,
    nudged,
    pairs,
    weight_scales,
    with_biases,
)
from lowbit.graph.shape_inference import macs, shapes
from lowbit.graph.structures import Structure, Weight, structure

__all__ = [
    "MAX_SIDE",
    "PASSING",
    "SIZE_INPUTS",
    "Canonical",
    "Quantizer",
    "Structure",
    "Weight",
    "activation_scales",
    "biases",
    "canonical",
    "decode_tail",
    "deployed_outputs",
    "dequantized_weights",
    "dfl_bins",
    "downstream",
    "embed",
    "ends_in_sigmoid",
    "fixed",
    "head_nodes",
    "head_outputs",
    "input_quantizers",
    "inputs",
    "last_convolutions",
    "load",
    "macs",
    "made_by",
    "nudged",
    "opset",
    "pairs",
    "prove",
    "raw_head_of_batch",
    "replace_nodes",
    "shape_of",
    "shapes",
    "stem",
    "stored_weights",
    "structure",
    "weight_scales",
    "weighted_convolutions",
    "with_biases",
    "with_head_outputs",
]
