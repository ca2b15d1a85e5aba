"""ONNX files: read and checked once, and what a graph says about itself: its decode tail, what in it is quantized, shapes."""

from lowbit.graph.contract import contract_of
from lowbit.graph.head import decode_tail, head_nodes, head_outputs, raw_head_of_batch, with_head_outputs
from lowbit.graph.loading import embed, fixed, load
from lowbit.graph.nodes import PASSING, dfl_bins, downstream, replace_nodes, stem, weighted_convolutions
from lowbit.graph.qdq import (
    Quantizer,
    activation_scales,
    biases,
    dequantized_weights,
    input_quantizers,
    pairs,
    weight_scales,
)
from lowbit.graph.shape_inference import macs, shapes
from lowbit.graph.structures import Structure, Weight, structure

__all__ = [
    "PASSING",
    "Quantizer",
    "Structure",
    "Weight",
    "activation_scales",
    "biases",
    "contract_of",
    "decode_tail",
    "dequantized_weights",
    "dfl_bins",
    "downstream",
    "embed",
    "fixed",
    "head_nodes",
    "head_outputs",
    "input_quantizers",
    "load",
    "macs",
    "pairs",
    "raw_head_of_batch",
    "replace_nodes",
    "shapes",
    "stem",
    "structure",
    "weight_scales",
    "weighted_convolutions",
    "with_head_outputs",
]
