"""``lowbit sweep``, ``lowbit layers`` and ``lowbit search``: the library for people at a prompt."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lowbit import files, host, runtime
from lowbit.data.lists import CalibrationSet
from lowbit.detector import Detector, declare
from lowbit.errors import InputError
from lowbit.evaluate import Case, Evaluation, Given
from lowbit.gate import points
from lowbit.markdown import table
from lowbit.measure import latency, metrics
from lowbit.progress import Progress, Step
from lowbit.quantize import Job, ort
from lowbit.quantize.offers import Offers
from lowbit.schemes import CATALOGUE
from lowbit.sensitivity import GRID, assignment, bit_allocation, fake_quant, find_combination, layermap, layerwise
from lowbit.sensitivity import sweep as sweeping
from lowbit.store.store import Store, default_root

# Of runs of FP32 and of a candidate, for its speed-up.
_PAIRS = 20


def sweep(options: argparse.Namespace, progress: Progress) -> str:
    """Run or merge a sweep; returns where its index is and what it counts."""
    if options.merge:
        index = sweeping.merge(options.merge, options.to)
    else:
        detector, calibration, path = _given(options, evaluation_of(options, progress))
        size = min(options.size, detector.input.size)
        what = sweeping.Sweep(detector, path, calibration, size, options.to.resolve())
        cells = [find_combination(name) for name in options.only] if options.only else GRID
        for number, cell in enumerate(cells, 1):
            manifest = sweeping.measure(what, cell, progress)
            reason = (manifest["reason"] or "").splitlines()
            ended = f"{manifest['status']}{f' ({reason[0]})' if reason else ''}"
            progress(Step(f"{number} of {len(cells)}: {cell.id}: {ended}"))
        index = sweeping.write_index(what.place)
    counts = json.loads(index.read_text(encoding="utf-8"))["counts"]
    return f"{index}: {', '.join(f'{count} {status}' for status, count in counts.items())}"


def layers(options: argparse.Namespace, progress: Progress) -> str:
    """The harm of every convolution as a Markdown table."""
    detector, calibration, path = _given(options, evaluation_of(options, progress))
    floating = fake_quant.FloatGraph(path, detector.head, detector.input, calibration.paths)
    found = layerwise.measure(floating, options.weight, fake_quant.Form(options.activation), progress=progress)
    module_of = layermap.convolutions(floating.model)
    lines = [
        f"# Convolutions of {detector.name}, weights {options.weight}, inputs {options.activation}, "
        f"{len(calibration.paths)} images, most harmful alone first",
        "",
    ]
    rows = (
        (rank, f"`{module_of[one.node]}`", one.parameters, *one.alone.cells, *one.leave_one_out.cells)
        for rank, one in enumerate(found, 1)
    )
    return "\n".join(lines + table(("rank", "convolution", "weights", *layerwise.HARM_HEADINGS), "rlrrrrr", rows))


def search(options: argparse.Namespace, progress: Progress) -> str:
    """Search, measure every candidate as it would be deployed, check the chosen one on the evaluation set, and leave it
    with ``search.json`` and the Pareto curves."""
    if not 0 < options.max_drop < 1:
        raise InputError(f"--max-drop {options.max_drop}: is no fraction between 0 and 1; 0.01 is one point of AP.")
    if round(options.max_drop, 4) != options.max_drop:
        raise InputError(
            f"--max-drop {options.max_drop}: is finer than a hundredth of a point. Say at most four decimals."
        )
    evaluation = evaluation_of(options, progress)
    if evaluation.detector(options.detector).seed is None:  # what the result is checked on, before anything is built
        evaluation.check_detector(options.detector)
        for note in evaluation.notes:
            progress(Step(note))
    detector, calibration, path = _given(options, evaluation)
    tool = "ort" if options.objective == "latency" else "native"
    digest = files.digest([detector.identity(), calibration.digest, options.max_drop, options.objective])[:12]
    folder = options.to.resolve() / f"search-{detector.name}-{digest}"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        output = Path(scratch) / "model.onnx"
        candidates: assignment.Candidates
        if tool == "ort":
            job = Job(
                scheme="search",
                settings={},
                source=path,
                identity={},
                input=detector.input,
                calibration=calibration,
                output=output,
                unfinished=Path(scratch),
                progress=progress,
            )
            offers = Offers()
            candidates = ort.candidates(job, ort.prepared(job, ort.source_of(job, offers)[0], offers), detector.head)
        else:
            candidates = assignment.Weights(path, detector.head, detector.input, calibration.paths, progress)
        timed = _timing(
            evaluation.session(_float(options)), candidates, next(calibration.first(1).batches(detector.input))
        )
        built: list[_Built] = []
        best, tried = candidates.cheapest(options.max_drop, output, lambda file: built.append(timed(file)))
        verified = _verify(options, evaluation, output, candidates.options)
        output.replace(folder / "model.onnx")
    graph = candidates.floating
    cost = bit_allocation.storage(candidates.offered, graph.parameters, graph.channels)
    bits = [bit_allocation.weight_bits(point.dtypes, cost, graph.parameters) for point in tried]
    scheme = f"mixed-{tool}-d{round(options.max_drop * 100, 2)}"
    chosen = tried.index(best)
    rows = [
        {**point, "bits": count, "bytes": one.bytes, "speedup": [one.ratio, one.low, one.high]}
        for point, count, one in zip(bit_allocation.trace(tried), bits, built, strict=True)
    ]
    files.write_json(
        folder / "search.json",
        {
            "detector": detector.name,
            "identity": detector.identity(),
            "calibration": calibration.digest,
            "objective": options.objective,
            "max_drop": options.max_drop,
            "scheme": scheme,
            "host": host.name(with_gpu=False),
            "chosen": chosen,
            "verified": verified,
            "tried": rows,
        },
    )
    _draw(folder / "pareto.png", built, [point.drop for point in tried], chosen, options)
    lines = [
        f"# {detector.name}: least {options.objective} within {options.max_drop * 100:.2f} points of agreement",
        "",
        f"Times on {host.name(with_gpu=False)}, interleaved with FP32.",
        "",
    ]
    kinds_of = f"convolutions in {' / '.join(candidates.offered)}"
    headings = "MB", "bits a weight", "drop of agreement, points", "speed-up [95 %]", kinds_of, ""
    cells = []
    for index in sorted(range(len(tried)), key=lambda i: (tried[i].cost, tried[i].drop)):
        kinds = list(tried[index].dtypes.values())
        counts = " / ".join(str(kinds.count(dtype)) for dtype in candidates.offered)
        one, mark = built[index], "**chosen**" if index == chosen else ""
        sizes = f"{one.bytes / 1e6:.2f}", f"{bits[index]:.2f}", f"{tried[index].drop * 100:.2f}"
        cells.append((*sizes, f"{one.ratio:.2f}x [{one.low:.2f}, {one.high:.2f}]", counts, mark))
    lines += [
        *table(headings, "rrrlll", cells),
        "",
        verified["sentence"],
        f"As a scheme: `pytest --detector {options.detector} --scheme {scheme}`",
    ]
    return "\n".join([*lines, "", *(str(folder / leaf) for leaf in ("model.onnx", "search.json", "pareto.png"))])


@dataclasses.dataclass(frozen=True)
class _Built:
    """What a candidate's file weighs, and its speed-up against FP32 with an interval."""

    bytes: int
    ratio: float
    low: float
    high: float


def _timing(reference: Any, candidates: assignment.Candidates, tensor: Any) -> Callable[[Path], _Built]:
    """What measures a candidate's file. ``tensor``: float32 [1, 3, size, size]."""
    feed = {reference.get_inputs()[0].name: tensor}

    def measure(path: Path) -> _Built:
        session = runtime.open_session(path, candidates.options)
        runs = [functools.partial(one.run, None, feed) for one in (reference, session)]
        found, _, _ = latency.interleave(runs[0], runs[1], pairs=_PAIRS)
        return _Built(path.stat().st_size, found.ratio, found.low, found.high)

    return measure


def _verify(
    options: argparse.Namespace, evaluation: Evaluation, path: Path, deployed: runtime.SessionOptions
) -> dict[str, Any]:
    """The drop of the chosen candidate's file on the evaluation set, which is looked at this once."""
    name = options.detector
    detector, case = evaluation.detector(name), _float(options)
    if detector.seed is not None:
        return {"sentence": f"{detector.name} has random weights: its accuracy means nothing and was not measured."}
    dataset = evaluation.dataset(name)
    if not dataset.labelled:
        return {"sentence": f"{dataset.name} has no labels: gate the scheme with --labels none."}

    session = runtime.open_session(path, case.runtime.for_many(deployed))
    first = evaluation.evidence(case).accuracy
    second, _ = evaluation.score(name, evaluation.seen_by(session, name, "the chosen one"))
    low, high = metrics.drop_interval(first, second, len(dataset.images))
    drop = first.map - second.map
    return {
        "dataset": dataset.name,
        "images": len(dataset.images),
        "map": [first.map, second.map],
        "drop": drop,
        "drop_ci": [low, high],
        "sentence": f"On {len(dataset.images)} images of {dataset.name}, looked at once: AP {first.map:.4f} to "
        f"{second.map:.4f}, drop {points(drop)} [{points(low)}, {points(high)}] points.",
    }


def _draw(
    path: Path, built: Sequence[_Built], drops: Sequence[float], chosen: int, options: argparse.Namespace
) -> None:
    """Every candidate as a point, agreement lost against size and against speed; readable without colour."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    lost = [drop * 100 for drop in drops]
    for axes, values, name in (
        (panels[0], [one.bytes / 1e6 for one in built], "size of the file, MB"),
        (panels[1], [one.ratio for one in built], "measured speed-up against FP32"),
    ):
        axes.plot(values, lost, "ko", fillstyle="none", label="built")
        axes.plot([values[chosen]], [lost[chosen]], "k*", markersize=14, label="chosen")
        axes.axhline(options.max_drop * 100, linestyle="--", color="0.4", label="allowed")
        axes.set(xlabel=name)
    panels[0].set(ylabel="drop of agreement, points of AP")
    panels[0].legend()
    figure.suptitle(options.detector)
    figure.savefig(path, dpi=120)


def evaluation_of(options: argparse.Namespace, progress: Progress) -> Evaluation:
    """The evaluation of what a command's options name; a command need not have all of them."""
    given = Given(
        dataset=getattr(options, "dataset", None),
        calibration=options.calibration,
        image_size=options.image_size,
        trust=options.trust_checkpoint,
        allow_similar=getattr(options, "allow_similar", False),
        declared=declare.load(Path.cwd()).detectors,
    )
    return Evaluation(Store(default_root(), progress=progress), given, progress)


def _float(options: argparse.Namespace) -> Case:
    return Case(options.detector, CATALOGUE["fp32"], runtime.find_runtime(runtime.DEFAULT))


def _given(options: argparse.Namespace, evaluation: Evaluation) -> tuple[Detector, CalibrationSet, Path]:
    """The detector, the first ``--images`` of its calibration list, and its FP32 graph."""
    if options.images < 1:
        raise InputError(f"--images {options.images}: needs one or more.")
    name, calibration = options.detector, evaluation.calibration(options.detector)
    return (
        evaluation.detector(name),
        calibration.first(options.images),
        evaluation.artifact(name, CATALOGUE["fp32"]).path,
    )
