"""Layer-wise sensitivity on the ONNX graph that ships: each convolution quantized alone, and leave-one-out, each alone in
float; and how far two rankings of the layers agree."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lowbit import graph
from lowbit.progress import Progress, Step
from lowbit.sensitivity.fake_quant import FloatGraph, Form, Harm

if TYPE_CHECKING:
    import onnx

# Over the cells of a convolution's harm, alone and leave-one-out.
HARM_HEADINGS = ("alone: SQNR, dB", "agreement", "leave-one-out: SQNR, dB", "agreement")


@dataclass(frozen=True, slots=True)
class LayerHarm:
    """One convolution. ``alone``: it alone is quantized; ``leave_one_out``: it alone stays in float."""

    node: str
    parameters: int
    alone: Harm
    leave_one_out: Harm


def measure(
    floating: FloatGraph, dtype: str, form: Form, *, progress: Progress, only: Collection[str] | None = None
) -> list[LayerHarm]:
    """Every convolution quantized alone and left in float alone; most harm alone first.

    ``dtype``: of weights; ``only``: these nodes.
    """
    everything = dict.fromkeys(floating.nodes, dtype)
    parameters = floating.parameters
    names = [name for name in floating.nodes if only is None or name in only]
    found: list[LayerHarm] = []
    for number, name in enumerate(names, 1):
        alone = floating.harm(floating.quantized({name: dtype}, form))
        others = {other: same for other, same in everything.items() if other != name}
        found.append(LayerHarm(name, parameters[name], alone, floating.harm(floating.quantized(others, form))))
        progress(Step("measuring sensitivity", number, len(names), "convolutions"))
    return sorted(found, key=lambda layer: (layer.alone.sqnr_db, layer.node))


def sqnr_alone(floating: FloatGraph, dtype: str, form: Form, *, progress: Progress) -> dict[str, float]:
    """The raw head's SQNR in dB when one convolution alone is quantized, for each, in the graph's order."""
    found = {}
    for number, name in enumerate(floating.nodes, 1):
        found[name] = floating.sqnr(floating.quantized({name: dtype}, form))
        progress(Step(f"measuring sensitivity to {dtype}", number, len(floating.nodes), "convolutions"))
    return found


def sqnr_of_artifact(floating: FloatGraph, artifact: onnx.ModelProto, *, progress: Progress) -> dict[str, float]:
    """The raw head's SQNR in dB when one convolution alone has what an INT8 artifact gives it: its rounded weight, and
    its input's scale and zero point. Convolutions that the artifact keeps in float, names otherwise or folds are left out."""
    weights, quantizers = graph.dequantized_weights(artifact), graph.input_quantizers(artifact)
    shapes = {name: weight.shape for name, weight in weights.items()}
    names = [name for name in floating.nodes if shapes.get(name) == floating.weight(name).shape]
    found = {}
    for number, name in enumerate(names, 1):
        found[name] = floating.sqnr(floating.imitating(name, weights[name], quantizers.get(name)))
        progress(Step("measuring an artifact's sensitivity", number, len(names), "convolutions"))
    return found


def most_sensitive(sqnr: Mapping[str, float], count: int) -> list[str]:
    """The ``count`` nodes with the lowest SQNR, worst first."""
    return sorted(sqnr, key=lambda name: (sqnr[name], name))[:count]


@dataclass(frozen=True, slots=True)
class RankComparison:
    """Two rankings of the same layers. ``correlation``: Spearman's of their ranks, in [-1, 1]. ``rows``: layer, its rank
    in the first and in the second ranking. ``disagreements``: the rows that are furthest apart, furthest first."""

    correlation: float
    rows: tuple[tuple[str, int, int], ...]
    disagreements: tuple[tuple[str, int, int], ...]


def compare_rankings(first: Sequence[str], second: Sequence[str], worst: int = 10) -> RankComparison:
    """Compare two rankings, most sensitive first, of the same layers. Raises ``ValueError`` for different ones."""
    from scipy.stats import spearmanr

    if sorted(first) != sorted(second) or len(set(first)) != len(first):
        raise ValueError(f"the rankings are not of the same layers: {sorted(set(first) ^ set(second))[:5]}")
    place = {name: rank for rank, name in enumerate(second, 1)}
    rows = tuple((name, rank, place[name]) for rank, name in enumerate(first, 1))
    correlation = float(spearmanr([r[1] for r in rows], [r[2] for r in rows]).statistic) if len(rows) > 1 else 1.0
    apart = sorted(rows, key=lambda row: (-abs(row[1] - row[2]), row[1]))
    return RankComparison(correlation, rows, tuple(row for row in apart[:worst] if row[1] != row[2]))
