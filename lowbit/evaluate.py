"""The flow: a case to its artifact, the artifact to evidence, the evidence to a verdict. :mod:`lowbit.entries` makes the
entry of results.json of it.

pytest's fixtures are an :class:`Evaluation` too: they add parametrization, skips, progress and reporting.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from lowbit import capability, gate, graph, host, runtime
from lowbit.artifact import Artifact
from lowbit.data.dataset import Dataset
from lowbit.data.detections import Detections
from lowbit.data.leak import check_leak
from lowbit.data.letterbox import preprocess
from lowbit.data.lists import CalibrationSet, load_calibration
from lowbit.data.load import load_data, load_images, load_unlabelled
from lowbit.data.pseudo_labels import labelled_by
from lowbit.detector import Detector, checkpoint, declare, naming, registry
from lowbit.errors import InputError, LowbitError, UnavailableError
from lowbit.measure import alone, collapse, emulation, error_kinds, executed_kernels, parity, predict, pycocotools_check
from lowbit.measure.metrics import (
    DEPLOYED_CONFIDENCE,
    Accuracy,
    DropInterval,
    class_drops,
    compare,
    evaluate,
    uncertainty,
    worst_class,
)
from lowbit.measure.operating_point import OperatingPoint, operating_point
from lowbit.measure.parity import Parity
from lowbit.progress import Progress, Step
from lowbit.quantize import tool
from lowbit.runtime import Kernels, Runtime, Session
from lowbit.schemes import CATALOGUE, Scheme, find_scheme, origins
from lowbit.store.code import code_of
from lowbit.store.key import BuildRequest
from lowbit.store.measured import Measured, Measurement
from lowbit.store.requests import export_request, graph_request, torch_request, widened_request
from lowbit.store.store import Store

# Images that a test runs where it needs a few.
PROBES = 4


@dataclass(frozen=True)
class Case:
    """One scheme on one detector and one runtime: the parameter of every suite test."""

    detector: str
    scheme: Scheme
    runtime: Runtime

    @property
    def name(self) -> str:
        """The detector's name; a file's is its stem."""
        return detector_name(self.detector)

    @property
    def id(self) -> str:
        """``<detector>-<scheme>``, and the runtime where it is not the default."""
        return f"{self.name}-{self.scheme.id}" + ("" if self.on_default else f"-{self.runtime.name}")

    @property
    def on_default(self) -> bool:
        """Whether it runs on the default runtime."""
        return self.runtime.name == runtime.DEFAULT


def detector_name(given: str) -> str:
    """What a detector is called in test ids and results: a registered or declared name, or a file's stem."""
    return Path(given).stem if given.endswith((".onnx", ".pt")) else given


def emulates(case: Case) -> bool:
    """Whether the runtime has no kernels of the case's precision, so that its time says nothing."""
    return case.scheme.precision == "fp8" and not case.runtime.times_fp8


def reference_of(case: Case) -> Case:
    """FP32 on the same detector and runtime: what a case is compared with."""
    return dataclasses.replace(case, scheme=CATALOGUE["fp32"])


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What one artifact saw on the data set, scored, and how it differs from FP32 on the same runtime.

    ``checked``: pycocotools' AP of the same detections. ``when`` the detections were made, UTC. ``operating_point``: None for FP32 itself, and where its own
    detections are the objects: its precision is 1 by definition there. ``errors``: by kind, at the user's threshold.
    """

    accuracy: Accuracy
    checked: pycocotools_check.Checked
    detections: dict[int, Detections]
    when: str
    drops: dict[str, float]
    worst_class: str
    class_drops: dict[str, float]
    uncertainty: DropInterval
    parity: Parity
    operating_point: OperatingPoint | None
    errors: error_kinds.ErrorKinds

    @property
    def drop(self) -> float:
        """The drop of mAP."""
        return self.drops["map"]


@dataclass(frozen=True)
class Given:
    """What the user names instead of a detector's own, and how it is read.

    ``dataset``: annotations, or without labels images; ``labels``: ``dataset`` or ``none``; ``calibration``: a list of
    images; ``training``: images that a recovery may learn from; ``image_size``: side of the input in pixels, for files
    that leave it open; ``trust``: unpickle checkpoints of unknown origin; ``allow_similar``: take calibration images that
    look like evaluation images; ``declared``: detectors that ``lowbit.toml`` declares, by name; ``confidence``: the
    threshold that detectors are deployed with, in [0, 1]; ``images``: how many of the data set are evaluated, all if None;
    ``search_minutes``: the budget of auto schemes, theirs if None; ``tf32``: FP32 on GPUs may be TF32. Raises :class:`InputError` for values that can't be.
    """

    dataset: Path | None = None
    labels: str | None = None
    calibration: Path | None = None
    training: Path | None = None
    image_size: int | None = None
    trust: bool = False
    allow_similar: bool = False
    declared: Mapping[str, declare.Declared] = dataclasses.field(default_factory=dict)
    confidence: float | None = None
    images: int | None = None
    search_minutes: float | None = None
    tf32: bool = True

    def __post_init__(self) -> None:
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise InputError(
                f"--confidence {self.confidence:g}: is no threshold on scores, which lie between 0 and 1. Give the one that "
                "you deploy the float detector with."
            )
        if self.search_minutes is not None and not 0 < self.search_minutes < math.inf:
            raise InputError(f"--search-minutes {self.search_minutes:g}: is no budget. Give minutes, above 0.")


class Evaluation:
    """What is known of any number of cases. Methods are cached: asking twice costs nothing."""

    def __init__(self, store: Store, given: Given, progress: Progress, *, remeasure: bool = False) -> None:
        """``remeasure``: measure again what an earlier run did with the same artifact, data, runtime and processor."""
        self.store, self.given, self.progress = store, given, progress
        self.measured = Measured(store.root / "measured", again=remeasure)
        self._notes: dict[str, None] = {}
        # Bound per instance, so that the caches end with it.
        self.detector = cache(self._detector)
        self.weights = cache(self._weights)
        self.check_detector = cache(self._check_detector)
        self.dataset = cache(self._dataset)
        self.truth = cache(self._truth)
        self.detections = cache(self._detections)
        self.calibration = cache(self._calibration)
        self.training = cache(self._training)
        self.artifact = cache(self._artifact)
        self.structure = cache(self._structure)
        self.evidence = cache(self._evidence)
        self.session = cache(self._session)
        self.timed_session = cache(self._timed_session)
        self.kernels = cache(self._kernels)
        self.collapse = cache(self._collapse)
        self.footprint = cache(self._footprint)
        self.process_speedup = cache(self._process_speedup)
        self.saturates = cache(self._saturates)

    def _weights(self, name: str) -> str:
        return self.detector(name).weights_sha256

    def _check_detector(self, name: str) -> None:
        """Raise :class:`LowbitError` unless detector, data set and calibration list fit each other."""
        dataset = self.dataset(name)
        self._note(dataset.notes)
        declared = self.given.declared.get(name)
        mapped = declared is not None and declared.classes is not None
        self._note(naming.contradictions(self.detector(name).names, dataset, declared=mapped))
        self._note(check_leak(dataset, self.calibration(name), allow_similar=self._allow_similar(name)))
        self.detector(name).prove_canonical(self.inputs(name, objects=True))

    def _allow_similar(self, name: str) -> bool:
        declared = self.given.declared.get(name)
        return bool(self.given.allow_similar or (declared and declared.allow_similar))

    def confidence(self, name: str) -> float:
        """The threshold that a detector is deployed with: the user's, or :data:`DEPLOYED_CONFIDENCE`."""
        declared = self.given.declared.get(name)
        given = (self.given.confidence, declared.confidence if declared else None)
        return next((one for one in given if one is not None), DEPLOYED_CONFIDENCE)

    def _note(self, notes: Iterable[str]) -> None:
        self._notes.update(dict.fromkeys(notes))

    @property
    def notes(self) -> tuple[str, ...]:
        """What was dropped or assumed in reading the data, each said once."""
        return tuple(self._notes)

    def unable(self, case: Case, *, timed: bool, scored: bool) -> str | None:
        """Why a case can't be built or measured here, or None. ``timed``, ``scored``: what would be measured of it."""
        if reason := capability.missing(case.scheme, case.runtime):
            return reason
        if timed and emulates(case):
            return f"{case.runtime.title} has no FP8 kernels and emulates it: its time would say nothing"
        try:
            case.runtime.with_tf32(runtime.SessionOptions(case.runtime.name), self.given.tf32)
            detector = self.detector(case.detector)
        except UnavailableError as error:
            return str(error)
        if scored and detector.seed is not None:
            return f"{detector.name} has random weights: it is there for timings, and its accuracy means nothing"
        on_torch = [one.tool for one in origins(case.scheme) if one.quantized and tool(one.tool).takes_checkpoint]
        if on_torch and detector.onnx is not None:
            return f"{on_torch[0]} quantizes a torch module, and {detector.name} is an ONNX file"
        return None

    def _detector(self, name: str) -> Detector:
        found = registry.find_detector(
            name,
            trust=self.given.trust,
            size=self.given.image_size,
            declared=self.given.declared,
        )
        if found.onnx is None and (reason := checkpoint.missing()):
            raise UnavailableError(f"{found.name}: {reason}")
        return found

    def _dataset(self, name: str) -> Dataset:
        whole = self._whole_dataset(name)
        return whole.sampled(self.given.images) if self.given.images else whole

    def _whole_dataset(self, name: str) -> Dataset:
        detector, declared = self.detector(name), self.given.declared.get(name)
        given: Path | None = self.given.dataset
        labels = self.given.labels or (declared.labels if declared else "dataset")
        if labels == "none":
            place = given.resolve() if given else declared.dataset if declared else None
            place = place or detector.load_data(self.store.data).annotations
            return load_unlabelled(place, detector.head.classes)
        dataset = load_data(given.resolve()) if given else detector.load_data(self.store.data)
        return dataset.fitted(detector.head.classes, detector.name, declared.classes if declared else None)

    def _truth(self, name: str) -> Dataset:
        """The data set that accuracy is measured on: where nobody labelled it, FP32's confident boxes on the CPU are
        the objects, so that AP is agreement with them."""
        dataset = self.dataset(name)
        if dataset.labelled:
            return dataset
        seen = self.detections(Case(name, CATALOGUE["fp32"], runtime.find_runtime(runtime.DEFAULT)))
        return labelled_by(dataset, seen.value, DEPLOYED_CONFIDENCE, self.store.data)

    def _calibration(self, name: str) -> CalibrationSet:
        given = self.given.calibration
        return load_calibration(given.resolve()) if given else self.detector(name).load_calibration(self.store.data)

    def _training(self, name: str) -> CalibrationSet:
        given = self.given.training
        return load_images(given.resolve()) if given else self.detector(name).load_training(self.store.data)

    def request(self, name: str, scheme: Scheme) -> BuildRequest:
        """What the store is asked for: everything that shapes the artifact of a scheme on a detector."""
        detector = self.detector(name)
        if scheme == CATALOGUE["fp32"]:
            return export_request(detector)
        self.check_detector(name)
        if self.given.search_minutes is not None and "minutes" in scheme.settings:
            scheme = dataclasses.replace(scheme, settings={**scheme.settings, "minutes": self.given.search_minutes})
        calibration, start = self.calibration(name), scheme.settings.get("start")
        origin = self.artifact(name, find_scheme(start)) if start else None
        if tool(scheme.tool).takes_checkpoint:
            training, labels = self._training_of(name, scheme), None
            if training and scheme.settings["recovery"].get("labels"):
                labels = self._labels(name, scheme, training.source)
            return torch_request(scheme, detector, calibration, training, labels, origin)
        return graph_request(scheme, self.artifact(name, CATALOGUE["fp32"]), detector.input, calibration, origin)

    def _training_of(self, name: str, scheme: Scheme) -> CalibrationSet | None:
        """The training images of a scheme that learns from them; any other learns from the calibration list."""
        if scheme.settings.get("recovery", {}).get("images") != "training":
            return None
        training = self.training(name)
        self._note(check_leak(self.dataset(name), training, allow_similar=self._allow_similar(name)))
        return training

    def _labels(self, name: str, scheme: Scheme, source: Path) -> Dataset:
        """The training images with their labels, with the detector's classes as the evaluation set has them."""
        if source.suffix == ".txt":
            raise UnavailableError(f"{scheme.id}: learns from labels, and {source} is a list of images without any.")
        detector, declared = self.detector(name), self.given.declared.get(name)
        return load_data(source).fitted(detector.head.classes, detector.name, declared.classes if declared else None)

    def _artifact(self, name: str, scheme: Scheme) -> Artifact:
        return self.store.get(self.request(name, scheme))

    def _structure(self, name: str, scheme: Scheme) -> graph.Structure:
        return graph.structure(graph.load(self.artifact(name, scheme).path))

    def options(self, case: Case) -> runtime.SessionOptions:
        """The session options with which the case's artifact ships."""
        options = case.runtime.options(
            case.scheme.precision,
            weights_only=case.scheme.weights_only,
            saturates=case.runtime.emulated and self.saturates(case.detector, case.scheme),
        )
        options = case.runtime.with_tf32(options, self.given.tf32)
        return dataclasses.replace(options, cache=self.store.engines) if case.runtime.compiles else options

    def _saturates(self, name: str, scheme: Scheme) -> bool:
        """Whether this processor's kernels would lose sums of the scheme's artifact."""
        options = runtime.deployed_options(scheme.precision, weights_only=scheme.weights_only)
        return emulation.saturates_here(graph.load(self.artifact(name, scheme).path), options.config)

    def inputs(
        self, name: str, count: int = PROBES, *, objects: bool = False
    ) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
        """The first images of a detector's data set, preprocessed: fixed, realistic inputs. ``objects``: those that are
        labelled with any, if there are such."""
        spec, dataset = self.detector(name).input, self.dataset(name)
        labelled = {entry["image_id"] for entry in dataset.coco["annotations"]} if objects else set()
        chosen = [image for image in dataset.images if image.id in labelled] or list(dataset.images)
        return [preprocess(image.path, spec, as_stored=image.as_stored)[0] for image in chosen[:count]]

    def deployed(self, case: Case) -> Artifact:
        """What the case's runtime loads: the artifact, or its INT8 form where the runtime has no INT4."""
        artifact = self.artifact(case.detector, case.scheme)
        if case.runtime.int4 or case.scheme.weight_bits != 4:
            return artifact
        return self.store.get(widened_request(artifact, case.scheme, self.detector(case.detector).input))

    def _session(self, case: Case) -> Session:
        return runtime.open_session(self.deployed(case).path, self.options(case))

    def timed_options(self, case: Case) -> runtime.SessionOptions:
        """The same with every thread on a processor of its own."""
        return case.runtime.for_timing(self.options(case))

    def _timed_session(self, case: Case) -> Session:
        options = self.timed_options(case)
        if options == self.options(case):
            return self.session(case)
        return runtime.open_session(self.deployed(case).path, options)

    def _kernels(self, case: Case) -> Kernels:
        path, options = self.deployed(case).path, self.options(case)
        return self.measured.value(
            "kernels",
            self.depends(case, options, executed_kernels),
            Kernels,
            lambda: executed_kernels.kernels(path, options, self.inputs(case.detector, 1)[0]),
        ).value

    def depends(self, case: Case, options: runtime.SessionOptions, *modules: ModuleType) -> dict[str, Any]:
        """What a measurement of a case depends on. ``modules``: those that measure; the runtime's and the head's are among
        them always."""
        detector = self.detector(case.detector)
        code = code_of(
            *(one.__name__ for one in modules), type(case.runtime).__module__, type(detector.head).__module__
        )
        return {
            "artifact": self.deployed(case).sha256,
            "head": detector.head.as_json(),
            "input": [*detector.input.sides, detector.input.preprocessing],
            "dataset": self.dataset(case.detector).digest,
            "runtime": case.runtime.name,
            "options": options.as_json(),
            "host": host.name(with_gpu=case.runtime.gpu),
            "code": code.digest,
            "packages": {**code.packages, **{name: host.package_version(name) for name in case.runtime.packages}},
        }

    def _detections(self, case: Case) -> Measurement[dict[int, Detections]]:
        path, deployed = self.deployed(case).path, self.options(case)
        options = case.runtime.for_many(deployed)

        def measure() -> dict[int, Detections]:
            session = self.session(case) if options == deployed else runtime.open_session(path, options)
            return self.seen_by(session, case.detector, case.id, in_turns=case.runtime.in_turns)

        return self.measured.detections(self.depends(case, options, predict), measure)

    def seen_by(self, session: Session, name: str, title: str, *, in_turns: bool = False) -> dict[int, Detections]:
        """What a session sees on a detector's data set, by image id. ``title``: for the progress; ``in_turns``: as for
        :func:`lowbit.measure.predict.predict`."""

        def progress(done: int, total: int) -> None:
            self.progress(Step(f"{title}: evaluating", done, total, "images"))

        detector, dataset = self.detector(name), self.dataset(name)
        return predict.predict(session, detector.head, dataset, detector.input, progress, in_turns=in_turns)

    def score(self, name: str, found: dict[int, Detections]) -> tuple[Accuracy, pycocotools_check.Checked]:
        """The accuracy of detections on a detector's data set, its recall at the user's threshold, and pycocotools' AP.

        Raises :class:`lowbit.errors.MetricError` if the two differ.
        """
        dataset = self.truth(name)
        accuracy = evaluate(dataset, found, self.confidence(name))
        return accuracy, pycocotools_check.check(dataset, found, accuracy)

    def _evidence(self, case: Case) -> Evidence:
        # Before accuracy is measured: a number from a session that computes something else means nothing.
        guard = self._parity(case)
        seen, dataset = self.detections(case), self.truth(case.detector)
        accuracy, checked = self.score(case.detector, seen.value)
        reference = accuracy if case.scheme.id == "fp32" else self.evidence(reference_of(case)).accuracy
        images, point = len(dataset.images), None
        if reference is not accuracy and self.dataset(case.detector).labelled:
            point = operating_point(reference, accuracy, images, self.confidence(case.detector))
        return Evidence(
            accuracy,
            checked,
            seen.value,
            seen.when,
            compare(reference, accuracy),
            worst_class(reference, accuracy)[0],
            class_drops(reference, accuracy),
            DropInterval((0.0, 0.0), (0.0, 0.0)) if reference is accuracy else uncertainty(reference, accuracy, images),
            guard,
            point,
            error_kinds.find(dataset, seen.value, self.confidence(case.detector)),
        )

    def _collapse(self, case: Case) -> collapse.Collapse:
        """Where the case's artifact departs from FP32, as its graph says it. Raises :class:`LowbitError`
        if nothing could be compared."""
        reference, artifact = (self.artifact(case.detector, one) for one in (CATALOGUE["fp32"], case.scheme))
        depends = self.depends(case, self.options(case), collapse) | {"reference": reference.sha256}

        def measure() -> collapse.Collapse:
            self.progress(Step(f"{case.id}: comparing its graph with FP32's"))
            return self.compared(case, reference.path, artifact.path, emulated=False)

        return self.measured.value("collapse", depends, collapse.Collapse, measure).value

    def compared(self, case: Case, reference: Path, artifact: Path, *, emulated: bool) -> collapse.Collapse:
        """The same of two files: the case's artifact, and FP32 of its detector. ``emulated``: with what is lost without
        VNNI, which no verdict depends on: sessions are deployed so that nothing is."""
        options = runtime.deployed_options(case.scheme.precision, weights_only=case.scheme.weights_only)
        images = self.inputs(case.detector, collapse.IMAGES, objects=True)
        try:
            return collapse.explain(
                graph.load(reference), graph.load(artifact), images, options.config, emulated=emulated
            )
        except LowbitError as error:
            raise type(error)(f"{artifact}: compared with {reference}: {error}") from error

    def _parity(self, case: Case) -> Parity:
        path, options = self.deployed(case).path, self.options(case)

        def measure() -> Parity:
            inputs = self.inputs(case.detector, parity.IMAGES, objects=True)
            return parity.check_parity(path, self.session(case), options, self.detector(case.detector).head, inputs)

        return self.measured.value("parity", self.depends(case, options, parity), Parity, measure).value

    def untimed(self) -> str | None:
        """Why this evaluation takes no times, or None."""
        return None

    def _footprint(self, case: Case) -> alone.Footprint:
        return self.measured.value(
            "footprint",
            self.depends(case, self.timed_options(case), alone),
            alone.Footprint,
            lambda: alone.footprint(self._as_timed(case), self.inputs(case.detector, 1)[0], self.progress),
        ).value

    def _process_speedup(self, case: Case) -> alone.ProcessSpeedup:
        reference = reference_of(case)
        others = self.depends(reference, self.timed_options(reference), alone)
        return self.measured.value(
            "speed-up over processes",
            {"reference": others, "candidate": self.depends(case, self.timed_options(case), alone)},
            alone.ProcessSpeedup,
            lambda: alone.speedup(
                self._as_timed(reference), self._as_timed(case), self.inputs(case.detector, 1)[0], self.progress
            ),
        ).value

    def _as_timed(self, case: Case) -> alone.Deployed:
        return alone.Deployed(self.deployed(case).path, self.timed_options(case))

    def costs(self, case: Case, limits: dict[str, float]) -> gate.Costs:
        """What ``limits`` ask to know of what deploying a case costs, measured now if it was not yet."""
        untimed = self.untimed()
        weighed = any(name in limits for name in gate.FOOTPRINT)
        timed = "min_speedup" in limits and untimed is None and not emulates(case)
        return gate.Costs(
            self.footprint(case) if weighed else None,
            self.process_speedup(case) if timed else None,
            untimed,
            emulates(case),
        )

    def verdict(self, case: Case, limits: dict[str, float], *, inconclusive: gate.Policy = gate.WARN) -> gate.Verdict:
        """What the gate says of a case. ``limits``: as :func:`lowbit.gate.absolute` gives them; ``inconclusive``: as
        for :func:`lowbit.gate.decide`."""
        evidence, dataset = self.evidence(case), self.truth(case.detector)
        if case.scheme.id == "fp32":
            return gate.judge_reference(evidence.accuracy.map, case.detector, dataset.annotations)
        return gate.judge(
            limits,
            evidence.drops,
            evidence.uncertainty.interval,
            evidence.uncertainty.bounds,
            self.kernels(case).int8_mac_fraction if case.on_default else None,
            # Of other runtimes a share of MACs in integer kernels is not asked.
            kernels_hidden=not case.on_default,
            size_bytes=self.artifact(case.detector, case.scheme).size_bytes,
            costs=self.costs(case, limits),
            inconclusive=inconclusive,
            images=len(dataset.images),
        )
