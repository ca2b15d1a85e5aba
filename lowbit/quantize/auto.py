"""An INT8 recipe that is found for one detector, by measurement on calibration images only.

One thing is changed at a time. Its effect is the raw head's SQNR where objects are
(:class:`lowbit.quantize.emulated.Probe`), on images that are held out from calibration. Tried are
the method by which ranges are found, for all tensors, then by kind of tensor and by depth, and what may compute in
float: kinds of operators and single convolutions. What helps and costs time is joined by an integer program
(:func:`lowbit.sensitivity.bit_allocation.assign`) within what the recipe may cost. The joined recipes are built, opened
as deployed, and held against the float graph's detections on all held-out images. Evaluation data are never used.

Cost is a model (:class:`Cost`) and the budget is work (:mod:`lowbit.quantize.budget`). Neither is a clock's, so the same
input gives the same artifact.

Not among the candidates: 16-bit activations, for which ONNX Runtime's CPU provider has no integer convolution, so that
they cost what float does. Weights have 8 bits, and fewer where products would not fit 16 bits
(:mod:`lowbit.quantize.portable`).

Settings: ``max_drop`` (of agreement, a fraction: the cheapest recipe within it ships, or the one with the least drop),
``minutes`` (the budget), ``least_speed`` (the share of the all-INT8 artifact's speed that is kept, by the model).
"""

from __future__ import annotations

import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowbit import graph, runtime
from lowbit.data.lists import CalibrationSet
from lowbit.detector import heads
from lowbit.errors import InputError
from lowbit.graph import layout
from lowbit.progress import Step
from lowbit.quantize import Job, emulated, ort, ranges
from lowbit.quantize.budget import COLLECTING, EMULATED, Budget
from lowbit.quantize.offers import Offers
from lowbit.sensitivity import assignment, bit_allocation, fake_quant

if TYPE_CHECKING:
    import onnx

# At most so many images are held out, the first of them for SQNR; of a short list two fifths.
HELD_OUT = assignment.NOISE_IMAGES + assignment.AGREEMENT_IMAGES
# What a change has to win to be kept, in dB: less is the images' choice.
_GAIN = 0.1
# Shares of what may be spent that joined recipes are built with, the cheapest first.
_SPENT = (0.25, 0.5, 1.0)
# Builds that the search keeps the budget for: min-max, the best ranges, and everything joined.
_LAST_BUILDS = 3


def split(images: Sequence[Path]) -> tuple[Sequence[Path], Sequence[Path]]:
    """Images for calibration, and those held out. Raises :class:`InputError` for fewer than five."""
    if len(images) < 5:
        raise InputError(f"{len(images)} calibration images; a search needs five or more, better a hundred.")
    held = min(HELD_OUT, 2 * len(images) // 5)
    return images[:-held], images[-held:]


@dataclass(frozen=True)
class Recipe:
    """``methods``: how the ranges of every group of tensors are found; ``floating``: convolutions, by node name, and kinds
    of operators (:func:`operators`) that compute in float."""

    methods: Mapping[str, str]
    floating: frozenset[str] = frozenset()

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return {"ranges": dict(sorted(self.methods.items())), "float": sorted(self.floating)}


@dataclass(frozen=True)
class Built:
    """A recipe's artifact: ``drop`` of agreement on the held-out images, a fraction; ``sqnr_db`` of its raw head."""

    recipe: Recipe
    path: Path
    drop: float
    sqnr_db: float
    placed: dict[str, int]
    left_out: list[dict[str, str]]


def operators(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of the nodes of every kind of operator that may compute in float by itself, up to the head's end."""
    tail = set(graph.decode_tail(model))
    nodes = [node for node in model.graph.node if node.name not in tail]
    gates = {node.output[0] for node in nodes if node.op_type == "Sigmoid"}
    found: dict[str, list[str]] = {}
    for node in nodes:
        if node.op_type == "Sigmoid" or (node.op_type == "Mul" and gates & set(node.input)):
            found.setdefault("SiLU", []).append(node.name)
        elif node.op_type in ("Add", "Concat"):
            found.setdefault(node.op_type, []).append(node.name)
        elif node.op_type in ("MatMul", "Softmax"):
            found.setdefault("attention", []).append(node.name)
    return found


class Cost:
    """What a graph costs in ONNX Runtime's kernels on a CPU, in units of one 8-bit multiply-accumulate.

    A model, of what YOLOv10n takes on two cores with AVX-512 VNNI: float convolutions twice as long as integer ones, SiLU
    about 130 of the unit a number, joins 80. What is in float among integers is dequantized and quantized besides.
    """

    _FLOAT_MAC, _SILU, _JOIN, _CONVERSION = 1, 130, 80, 60

    def __init__(self, model: onnx.ModelProto) -> None:
        shapes, tail = graph.shapes(model), set(graph.decode_tail(model))
        macs = graph.macs(model)
        numbers = {node.name: math.prod(shapes.get(node.output[0], (0,))) for node in model.graph.node if node.output}
        kinds = operators(model)
        convolutions = [node.name for node in graph.weighted_convolutions(model) if node.name not in tail]
        self.macs = sum(macs.get(name, 0) for name in convolutions)
        #: By convolution and by kind of operator, what it costs more in float.
        self.extra = {
            kind: float(self._CONVERSION * sum(numbers[name] for name in names)) for kind, names in kinds.items()
        } | {
            name: float(self._FLOAT_MAC * macs.get(name, 0) + self._CONVERSION * numbers[name]) for name in convolutions
        }
        silu = sum(numbers[name] for name in kinds.get("SiLU", ())) / 2
        joined = sum(numbers[name] for kind in ("Add", "Concat") for name in kinds.get(kind, ()))
        #: Of the all-INT8 graph.
        self.total = float(self.macs + self._SILU * silu + self._JOIN * joined)

    def speed(self, floating: frozenset[str]) -> float:
        """As a share of the all-INT8 graph's."""
        return self.total / (self.total + sum(self.extra[name] for name in floating))

    def slack(self, least_speed: float) -> float:
        """What a recipe may cost more that keeps this share."""
        return self.total * (1 / least_speed - 1)


@dataclass
class Search:
    """The search on one float graph, as :func:`lowbit.quantize.ort.prepared` gives it. ``tried``: every measurement in
    order; ``stopped``: why it ended."""

    job: Job
    model: onnx.ModelProto
    folder: Path
    tried: list[dict[str, Any]] = field(default_factory=list)
    stopped: str = "everything was tried"
    _spans: dict[tuple[str, str], ranges.Range] = field(default_factory=dict)

    def __post_init__(self) -> None:
        calibration, held = split(self.job.calibration.paths)
        self.calibration = CalibrationSet(self.job.calibration.source, tuple(calibration))
        head = heads.recognise(self.job.source, graph.load(self.job.source))
        self.held = fake_quant.FloatGraph(self.job.source, head, self.job.input, held)
        if self.held.truth is None:
            raise InputError(f"{self.job.source}: has no confident detections on {len(held)} calibration images.")
        self.probe = emulated.Probe(self.model, self.job.input, held[: assignment.NOISE_IMAGES], head.classes)
        self.cost = Cost(self.model)
        self.kinds_of_operators = operators(self.model)
        self.stem = frozenset(layout.better_in_float(self.model))
        self.budget = Budget(self.job.settings["minutes"], self.cost.macs, len(self.model.graph.node))

    @cached_property
    def histograms(self) -> dict[str, ranges.Histogram]:
        """Of every tensor, on the images for calibration."""
        self.budget.charge(self.budget.runs(len(self.calibration.paths), COLLECTING))
        return ranges.collect(self.model, self.calibration, self.job.input, self.job.progress)

    @cached_property
    def groups(self) -> dict[str, str]:
        """Of every tensor, that whose method it has."""
        return ranges.groups(self.model, self.histograms)

    @cached_property
    def base(self) -> onnx.ModelProto:
        """The graph with every quantizer placed, from which recipes are emulated."""
        self.budget.charge(self.budget.build(0))
        path = self.folder / "base.onnx"
        self._place(Recipe(dict.fromkeys(self.groups.values(), "minmax")), path)
        return graph.load(path)

    def run(self) -> list[Built]:
        """Search; returns what was built, in order: min-max first."""
        start = Recipe(dict.fromkeys(sorted(set(self.groups.values())), "minmax"))
        first = self._try("start", "min-max everywhere, all in INT8", start)
        if first is None:
            return [self._build(start, "min-max everywhere, all in INT8")]
        self.tried[-1]["kept"] = True
        ranged, level = self._choose_ranges(start, first)
        candidates = self._effects(ranged, level)
        built = [self._build(start, "min-max everywhere, all in INT8")]
        if ranged != start and not self._enough(built) and self._allowed(self._building):
            built.append(self._build(ranged, "the best ranges, all in INT8"))
        for share in _SPENT:
            joined = self._joined(ranged, candidates, share)
            if self._enough(built) or any(one.recipe == joined for one in built):
                continue
            if self._allowed(self._building):
                built.append(self._build(joined, f"{share:.0%} of what may be spent in float"))
        if self._enough(built):
            self.stopped = "a recipe is within the drop"
        return built

    def _enough(self, built: Sequence[Built]) -> bool:
        return min(one.drop for one in built) <= self.job.settings["max_drop"]

    @property
    def _building(self) -> float:
        return self.budget.build(self.held.images)

    def _allowed(self, seconds: float, reserved: float = 0.0) -> bool:
        if self.budget.allows(seconds, reserved):
            return True
        self.stopped = "the budget ended"
        return False

    def _try(self, step: str, changed: str, recipe: Recipe) -> float | None:
        """The SQNR of a recipe in dB, emulated; None where the budget has ended."""
        base = self.base
        seconds = self.budget.runs(self.probe.images, EMULATED)
        if not self._allowed(seconds, _LAST_BUILDS * self._building):
            return None
        self.budget.charge(seconds)
        quantizers = {name: ranges.quantizer(ends) for name, ends in self._ends(recipe).items()}
        found = self.probe.sqnr(emulated.recipe(self.model, base, quantizers, self._floating_nodes(recipe)))
        self._say(step, changed, recipe, sqnr_db=found)
        return found

    def _say(self, step: str, changed: str, recipe: Recipe, **found: float) -> None:
        row = {"step": step, "changed": changed, "speed": self.cost.speed(recipe.floating), "kept": False, **found}
        self.tried.append(row)
        said = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
        print(f"auto: {step}: {changed}: {said}; {self.budget.seconds:.0f} s charged", flush=True)
        self.job.progress(Step(f"{step}: {changed}", detail=said))

    def _choose_ranges(self, start: Recipe, level: float) -> tuple[Recipe, float]:
        """The best method for all tensors, then by kind and then by group the best one while the others stay."""
        best, found = start, level
        for said, chosen in self._wholes(sorted(start.methods)):
            here, row = best, None
            for method in ranges.methods(chosen):
                tried = replace(here, methods={**here.methods, **dict.fromkeys(chosen, method)})
                if tried == here:
                    continue
                sqnr = self._try("ranges", f"{said} by {method}", tried)
                if sqnr is None:
                    return best, found
                if sqnr > found + _GAIN:
                    if row is not None:
                        row["kept"] = False
                    best, found, row = tried, sqnr, self.tried[-1]
                    row["kept"] = True
        return best, found

    def _wholes(self, groups: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
        """What is given one method at once, and how that is called: everything, kinds, and groups of a kind with several."""
        kinds = {kind: [group for group in groups if ranges.kind_of(group) == kind] for kind in ranges.KINDS}
        several = [group for same in kinds.values() if len(same) > 1 for group in same]
        return [
            ("all tensors", groups),
            *((f"tensors of kind {kind}", same) for kind, same in kinds.items() if same),
            *((f"tensors of kind {group}", [group]) for group in several),
        ]

    def _effects(self, recipe: Recipe, level: float) -> dict[str, float]:
        """How much noise goes if one convolution or kind of operator alone computes in float, of those that may be spent
        on."""
        slack = self.cost.slack(self.job.settings["least_speed"])
        found: dict[str, float] = {}
        # Kinds of operators, then convolutions in the graph's order: noise of the first passes through all others.
        for name, extra in self.cost.extra.items():
            if name in self.stem or extra > slack:
                continue
            sqnr = self._try("float", name, replace(recipe, floating=frozenset({name})))
            if sqnr is None:
                break
            if sqnr > level + _GAIN:
                found[name] = bit_allocation.noise_of(level) - bit_allocation.noise_of(sqnr)
        return found

    def _joined(self, recipe: Recipe, gains: Mapping[str, float], share: float) -> Recipe:
        """The recipe with what takes away the most noise within a share of what may be spent in float."""
        limit = share * self.cost.slack(self.job.settings["least_speed"])
        noise = {name: {"int8": gain, bit_allocation.FLOAT: 0.0} for name, gain in gains.items()}
        cost = {name: {"int8": 0.0, bit_allocation.FLOAT: self.cost.extra[name]} for name in gains}
        chosen = (bit_allocation.assign(cost, noise, limit) if gains else {}) or {}
        return replace(recipe, floating=frozenset(n for n, dtype in chosen.items() if dtype == bit_allocation.FLOAT))

    def _ends(self, recipe: Recipe) -> dict[str, ranges.Range]:
        return {name: self._span(name, recipe.methods[self.groups[name]]) for name in self.histograms}

    def _span(self, name: str, method: str) -> ranges.Range:
        if (name, method) not in self._spans:
            self._spans[name, method] = ranges.span(self.histograms[name], method)
        return self._spans[name, method]

    def convolutions(self, recipe: Recipe) -> list[str]:
        """Those in float, the ones at the image that are better there among them, in the graph's order."""
        kept = recipe.floating | self.stem
        return [node.name for node in graph.weighted_convolutions(self.model) if node.name in kept]

    def apart(self, recipe: Recipe) -> list[str]:
        """Other nodes in float, but for those that only convolutions in float feed."""
        return [name for kind, names in self.kinds_of_operators.items() if kind in recipe.floating for name in names]

    def _floating_nodes(self, recipe: Recipe) -> frozenset[str]:
        convolutions = self.convolutions(recipe)
        below = graph.downstream(self.model, convolutions)
        return frozenset({*graph.decode_tail(self.model), *convolutions, *below, *self.apart(recipe)})

    def _place(self, recipe: Recipe, output: Path) -> dict[str, int]:
        copied = type(self.model)()
        copied.CopyFrom(self.model)
        return ort.place_quantizers(
            replace(self.job, output=output),
            copied,
            "minmax",
            exclude=self.convolutions(recipe),
            apart=self.apart(recipe),
            ends=self._ends(recipe),
        )

    def _build(self, recipe: Recipe, changed: str) -> Built:
        self.budget.charge(self._building)
        path, offers = self.folder / f"{len(self.tried)}.onnx", Offers()
        placed = self._place(recipe, path)
        sqnr = self.probe.sqnr(graph.load(path))
        ort.lay_out(replace(self.job, output=path, calibration=self.calibration), offers)
        drop = assignment.drop_of_file(self.held, path, runtime.deployed_options("int8"))
        self._say("built", changed, recipe, sqnr_db=sqnr, drop=drop)
        return Built(recipe, path, drop, sqnr, placed, offers.left_out)


def build(job: Job) -> dict[str, Any]:
    """Search on ``job.source`` and write the cheapest recipe within the drop, or the one that loses least. Returns what
    the manifest should know: the recipe, every measurement in order, and why the search ended."""
    offers = Offers()
    model, info = ort.source_of(job, offers)
    model = ort.prepared(job, model, offers)
    with tempfile.TemporaryDirectory() as folder:
        search = Search(job, model, Path(folder))
        built = search.run()
        within = [one for one in built if one.drop <= job.settings["max_drop"]]
        best = within[0] if within else min(built, key=lambda one: one.drop)
        shutil.copyfile(best.path, job.output)
    print(f"auto: {search.stopped}; ships {best.recipe.as_json()}", flush=True)
    return {
        **info,
        **best.placed,
        "recipe": best.recipe.as_json(),
        "float_convolutions": search.convolutions(best.recipe),
        "float_nodes": search.apart(best.recipe),
        "agreement_drop": best.drop,
        "sqnr_db": best.sqnr_db,
        "within_drop": bool(within),
        "speed_by_cost_model": search.cost.speed(best.recipe.floating),
        "held_out_images": search.held.images,
        "charged_seconds": round(search.budget.seconds, 1),
        "stopped": search.stopped,
        "tried": search.tried,
        "left_out": [*offers.left_out, *best.left_out],
    }
