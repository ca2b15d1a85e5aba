"""The same numbers in the form that ONNX Runtime's integer kernels on the CPU take the least time for: rewrites of the float
graph before it is quantized, of the convolutions at the image, and of the quantized graph."""

from lowbit.graph.layout.first_convolution import better_in_float, fold_columns, folded_sums
from lowbit.graph.layout.float_graph import cut_channels, join_whole, own_parameters, repeat_rows
from lowbit.graph.layout.quantized_graph import channels_last, move_integers, sink_dequantize, softmax_in_float
from lowbit.graph.layout.shared import PART, keep_used

__all__ = [
    "PART",
    "better_in_float",
    "channels_last",
    "cut_channels",
    "fold_columns",
    "folded_sums",
    "join_whole",
    "keep_used",
    "move_integers",
    "own_parameters",
    "repeat_rows",
    "sink_dequantize",
    "softmax_in_float",
]
