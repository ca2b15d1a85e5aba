"""One combination of the sweep: ModelOpt AutoQuant's per-layer sensitivity of a detector's torch module.

AutoQuant (https://nvidia.github.io/Model-Optimizer) perturbs a layer's output by quantizing the layer and weighs the
perturbation with the loss' gradient there: a diagonal Fisher estimate of how much the loss grows. A gradient needs a
loss that the float detector does not minimize, so it is measured on the raw head against the detector's own hard
decisions: binary cross entropy of every class logit with whether the detector is confident, and cross entropy of every
side's distribution with its likeliest bin, weighted by confidence. A loss on the decoded output would be dominated by
the coordinates in pixels.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import files
from lowbit.errors import UnavailableError
from lowbit.markdown import table
from lowbit.progress import Progress, Step
from lowbit.sensitivity import BITS, Combination, config_of, fake_quant, layerwise
from lowbit.sensitivity.layermap import layer_map
from lowbit.sensitivity.layerwise import LayerHarm, RankComparison

if TYPE_CHECKING:
    import torch

    from lowbit.detector.torch_module import RawHead

STATE = "autoquant_state.pt"
CONFIDENT = 0.25


@dataclass(frozen=True, slots=True)
class LayerScore:
    """A layer's share of the harm. ``score``: growth of the loss by AutoQuant's estimate, or of the error; larger is more
    sensitive. ``parameters``: elements of its weight; ``share``: of all layers' weights."""

    layer: str
    score: float
    parameters: int
    share: float


def rank(scores: dict[str, float], parameters: dict[str, int]) -> list[LayerScore]:
    """Layers by falling score; equal scores by name, so that the same scores give the same ranking."""
    total = sum(parameters.values())
    order = sorted(scores, key=lambda name: (-scores[name], name))
    return [LayerScore(name, scores[name], parameters[name], parameters[name] / total) for name in order]


def measure(
    network: RawHead,
    combination: Combination,
    images: Sequence[NDArray[np.float32]],
    folder: Path,
    progress: Progress,
) -> tuple[list[LayerScore], dict[str, Any], dict[str, Any]]:
    """Score every convolution of a fused detector; returns the ranking, ModelOpt's configuration and what was changed
    in its preset. ``network`` is not usable afterwards; ``folder`` receives AutoQuant's state and resumes from it.

    Raises :class:`UnavailableError` for a combination that ModelOpt cannot do.
    """
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of CUDA extensions that a CPU does not need
        import modelopt.torch.quantization as mtq

    try:
        config, changed = config_of(combination, mtq)
    except ValueError as reason:
        raise UnavailableError(str(reason)) from reason
    tensors = [torch.from_numpy(image) for image in images]
    parameters = _convolutions(network)
    # The answer to compare with is the float detector's own.
    with torch.no_grad():
        answers = [_decisions(network(tensor)) for tensor in tensors]
    data = list(zip(tensors, answers, strict=True))
    done = 0

    def loss(output: Any, batch: Any) -> torch.Tensor:
        nonlocal done
        done += 1
        progress(Step("scoring", done, len(data), "images"))
        return _loss(output, batch[1])

    # Between the quantized and the float layer's bits: what AutoQuant then picks is not used.
    bits = (BITS[combination.weight] + 16) / 2
    network.requires_grad_(True)
    _, state = mtq.auto_quantize(
        network,
        constraints={"effective_bits": bits},
        quantization_formats=[config],
        data_loader=data,
        forward_step=lambda model, batch: model(batch[0]),
        loss_func=loss,
        num_calib_steps=len(data),
        num_score_steps=len(data),
        disabled_layers=["*dfl*"],
        checkpoint=str(folder / STATE),
    )
    scores = {}
    for name, stats in state["candidate_stats"].items():
        layer = name.removesuffix(".quant_recipe").removeprefix("model.")
        if layer in parameters:  # the distribution focal loss' convolution has a place of its own: the decode tail
            scores[layer] = float(max(stats["scores"]))
    missing = sorted(set(parameters) - set(scores))
    if missing:
        raise UnavailableError(f"AutoQuant scored {len(scores)} of {len(parameters)} convolutions, not {missing[:3]}.")
    return rank(scores, parameters), config, changed


def _convolutions(network: RawHead) -> dict[str, int]:
    from lowbit.detector.torch_module import convolutions

    return {name.removeprefix("model."): conv.weight.numel() for name, conv in convolutions(network).items()}


def _decisions(raw: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The detector's own hard answers: confident classes, likeliest bins, and how confident it is of an anchor."""
    _, boxes, scores = raw
    probability = scores.sigmoid()
    batch, rows, anchors = boxes.shape
    return (
        (probability >= CONFIDENT).float(),
        boxes.view(batch, 4, rows // 4, anchors).argmax(2),
        probability.amax(1),
    )


def _loss(raw: Any, answer: tuple[torch.Tensor, torch.Tensor, torch.Tensor]) -> torch.Tensor:
    from torch.nn import functional

    _, boxes, scores = raw
    classes, bins, confidence = answer
    batch, rows, anchors = boxes.shape
    objects = confidence.sum().clamp(min=1)
    sides = functional.log_softmax(boxes.view(batch, 4, rows // 4, anchors), 2).gather(2, bins[:, :, None])[:, :, 0]
    found: torch.Tensor = functional.binary_cross_entropy_with_logits(scores, classes, reduction="sum")
    return (found - (sides.sum(1) * confidence).sum()) / objects


@dataclass(frozen=True, slots=True)
class GraphSensitivity:
    """Layer-wise sensitivity of the ONNX graph, to cross-check a combination's AutoQuant ranking. ``layers``: by module name, in
    AutoQuant's order; ``images``: on how many it was measured."""

    layers: dict[str, LayerHarm]
    comparison: RankComparison
    images: int

    @classmethod
    def of(
        cls,
        ranking: Sequence[LayerScore],
        floating: fake_quant.FloatGraph,
        combination: Combination,
        progress: Progress,
    ) -> GraphSensitivity:
        """Measure it. Raises :class:`lowbit.errors.BuildError` if modules and nodes cannot be matched by name."""
        per_channel = combination.granularity == "per_channel"
        form = fake_quant.Form(combination.activation, 0 if per_channel else None, 1 if per_channel else None)
        node_of = layer_map(floating.model, [layer.layer for layer in ranking])
        found = {
            layer.node: layer for layer in layerwise.measure(floating, combination.weight, form, progress=progress)
        }
        module_of = {node: module for module, node in node_of.items()}
        comparison = layerwise.compare_rankings([layer.layer for layer in ranking], [module_of[node] for node in found])
        return cls({name: found[node] for name, node in node_of.items()}, comparison, floating.images)


def write_report(
    folder: Path,
    ranking: Sequence[LayerScore],
    on_graph: GraphSensitivity,
    combination: Combination,
    facts: dict[str, Any],
    config: dict[str, Any],
) -> None:
    """Leave a combination's files: configuration, and both rankings side by side as JSON and Markdown."""
    import yaml

    files.write_atomic(folder / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
    second = {name: rank for name, _, rank in on_graph.comparison.rows}
    files.write_json(
        folder / "layer-sensitivity-report.json",
        {
            "combination": asdict(combination),
            **facts,
            "layers": [asdict(layer) for layer in ranking],
            "on_the_graph": {
                "images": on_graph.images,
                "rank_correlation": on_graph.comparison.correlation,
                "disagreements": [list(row) for row in on_graph.comparison.disagreements],
                "layers": {name: {"rank": second[name], **asdict(harm)} for name, harm in on_graph.layers.items()},
            },
        },
    )
    lines = [f"# Sensitivity of {facts['detector']}, {combination.id}", "", _sentence(facts, on_graph), ""]
    rows = []
    for number, layer in enumerate(ranking, 1):
        harm, own = on_graph.layers[layer.layer], (f"{layer.score:.6g}", layer.parameters, f"{layer.share:.2%}")
        rows.append(
            (number, f"`{layer.layer}`", *own, second[layer.layer], *harm.alone.cells, *harm.leave_one_out.cells)
        )
    headings = "rank", "layer", "score", "parameters", "share of weights", "rank on the graph", *layerwise.HARM_HEADINGS
    lines += table(headings, "rlrrrrrrrr", rows)
    lines += ["", "Where the two disagree most:", ""]
    ranks = [(f"`{name}`", one, two) for name, one, two in on_graph.comparison.disagreements]
    lines += table(("layer", "rank by AutoQuant", "rank on the graph"), "lrr", ranks)
    files.write_atomic(folder / "layer-sensitivity-report.md", "\n".join(lines) + "\n")


def plain(value: Any) -> Any:
    """A configuration in JSON's types."""
    return json.loads(json.dumps(value, default=str))


def _sentence(facts: dict[str, Any], on_graph: GraphSensitivity) -> str:
    return (
        f"ModelOpt {facts['tool_versions']['nvidia-modelopt']} AutoQuant, {facts['images']} calibration images at "
        f"{facts['size']} px, loss on the raw head's logits; most sensitive first. Next to it the layer-wise sensitivity of the "
        f"ONNX graph on {on_graph.images} images: each convolution quantized alone, and leave-one-out. Spearman's rank "
        f"correlation of the two rankings: {on_graph.comparison.correlation:.2f}."
    )


@functools.cache
def packages() -> tuple[str, ...]:
    """What shapes a ranking."""
    return ("nvidia-modelopt", "torch", "ultralytics")
