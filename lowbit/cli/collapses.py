"""``lowbit explain``: where a scheme of a run departs from FP32, by the run's own artifacts."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lowbit import files, results, runtime
from lowbit.artifact import MODEL
from lowbit.detector import declare
from lowbit.entries import collapse_record
from lowbit.errors import InputError
from lowbit.evaluate import Case, Evaluation, Given, detector_name
from lowbit.progress import Progress, Step
from lowbit.report import collapses
from lowbit.results import Entry, Status
from lowbit.schemes import find_scheme
from lowbit.store.store import Store, default_root

_LABELLED = (".json", ".yaml", ".yml")


def explain(options: argparse.Namespace, progress: Progress) -> str:
    """What is found of a run's scheme, as Markdown or JSON.

    Raises :class:`InputError` for a folder that is no run, a scheme or detector that the run does not have, and an artifact
    or a detector that is not what the run measured.
    """
    scheme, run = find_scheme(options.scheme), results.read(options.run / "results.json")
    if scheme.precision == "fp32":
        raise InputError(f"{scheme.id}: is what the others are compared with. Name another scheme of the run.")
    entry = _entry(options, run.entries, scheme.id)
    others = [one for one in run.entries if one.detector == entry.detector]
    reference = next((one for one in others if one.scheme == "fp32" and one.artifact), None)
    if reference is None:
        raise InputError(
            f"{options.run}: has no FP32 artifact of {entry.detector} to compare {scheme.id} with. Run the gate with "
            f"--scheme fp32 --scheme {scheme.id}."
        )
    paths = [_artifact(options.run, one) for one in (reference, entry)]
    name = options.detector or entry.detector
    dataset = options.dataset or (Path(entry.dataset_file) if entry.dataset_file else None)
    given = Given(
        dataset=dataset,
        labels=None if dataset is None or dataset.suffix in _LABELLED else "none",
        image_size=options.image_size,
        trust=options.trust_checkpoint,
        declared=declare.load(Path.cwd()).detectors,
    )
    evaluation = Evaluation(Store(default_root(), progress=progress), given, progress)
    case = Case(name, scheme, runtime.find_runtime(entry.provider))
    if entry.weights and evaluation.weights(name) != entry.weights:
        raise InputError(
            f"{name}: has other weights than the detector {entry.detector} of {options.run}. Name its file: --detector FILE."
        )
    progress(Step(f"comparing {scheme.id} with FP32"))
    found = evaluation.compared(case, *paths, emulated=True)
    passed = {one.scheme for one in others if one.status is Status.PASSED and one.on_default == entry.on_default}
    record = collapse_record(case, evaluation, found, passed)
    if options.json:
        return json.dumps(record.model_dump(mode="json"), indent=2)
    return "\n".join(collapses.markdown(entry, record))


def _entry(options: argparse.Namespace, entries: list[Entry], scheme: str) -> Entry:
    """The run's entry of a scheme: of the detector that was named, on the CPU if it was measured there."""
    of_scheme = [one for one in entries if one.scheme == scheme]
    if not of_scheme:
        there = ", ".join(dict.fromkeys(one.scheme for one in entries)) or "none"
        raise InputError(f"{options.run}: has no scheme {scheme!r}. It has: {there}.")
    wanted = detector_name(options.detector) if options.detector else None
    fit = [one for one in of_scheme if wanted in (None, one.detector)]
    names = sorted({one.detector for one in fit or of_scheme})
    if not fit or len(names) > 1:
        told = f"has no detector {wanted!r} with" if not fit else "has several detectors with"
        raise InputError(f"{options.run}: {told} {scheme}. Name one with --detector: {', '.join(names)}.")
    built = [one for one in fit if one.artifact]
    if not built:
        reason = (fit[0].reason or "no reason given").splitlines()[0]
        raise InputError(f"{options.run}: {scheme} was not built ({reason}), so there is nothing to explain.")
    return min(built, key=lambda one: not one.on_default)


def _artifact(run: Path, entry: Entry) -> Path:
    """The file of an entry, by the run's link or where it was made. Raises :class:`InputError` if it is not that file."""
    assert entry.artifact is not None
    made = Path(entry.artifact.path)
    links = sorted((run / "artifacts" / entry.scheme).glob("*")) if (run / "artifacts").is_dir() else []
    linked = [link / MODEL for link in links if made.parent.name.startswith(link.name)]
    places = [*linked, made]
    there = [path for path in places if path.is_file()]
    again = f"Build it again: run the gate with --scheme {entry.scheme}."
    if not there:
        raise InputError(f"{places[0]}: the artifact of {entry.scheme} is not there any more. {again}")
    whole = next((path for path in there if files.sha256(path) == entry.artifact.sha256), None)
    if whole is None:
        raise InputError(f"{there[0]}: is not the artifact that the run measured: its SHA-256 is another. {again}")
    return whole
