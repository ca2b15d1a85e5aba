"""Detectors by name: the bundled one, YOLOv10 with its assets, a project's own, any architecture with random weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowbit import graph
from lowbit.data.coco import load_coco
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import load_calibration
from lowbit.data.load import images_of, load_data, load_images, load_unlabelled
from lowbit.detector import checkpoint, heads
from lowbit.detector.declare import Declared
from lowbit.detector.detector import Detector
from lowbit.detector.fetch import default_folder
from lowbit.detector.head import class_names
from lowbit.detector.heads.decoded import Decoded
from lowbit.detector.heads.end2end import End2End
from lowbit.errors import InputError, UnavailableError

ASSETS_VARIABLE = "LOWBIT_ASSETS"


RANDOM = "@random"


# Ultralytics' default, for checkpoints that leave it open.
DEFAULT_SIZE = 640


_BUNDLED_WEIGHTS = Path(__file__).parents[1] / "bundled" / "shapes10n.safetensors"
_BUNDLED_VAL, _BUNDLED_CALIBRATION, _BUNDLED_TRAINING = 200, 64, 256


def assets_folder() -> Path | None:
    """``$LOWBIT_ASSETS``, or what ``lowbit fetch`` put into the user's cache, or None.

    Raises :class:`InputError` if the variable names no folder.
    """
    value = os.environ.get(ASSETS_VARIABLE)
    if not value:
        fetched = default_folder()
        return fetched if fetched.is_dir() else None
    path = Path(value).expanduser().resolve()
    if not path.is_dir():
        raise InputError(f"{path}: ${ASSETS_VARIABLE} is not a folder. Point it to a folder with yolov10n/ and coco/.")
    return path


def _shapes10n() -> Detector:
    from lowbit.bundled.data import calibration, training, validation

    return Detector(
        name="shapes10n",
        input=InputSpec(320),
        head=End2End((320, 320), 10),
        architecture="yolov10n.yaml",
        weights=_BUNDLED_WEIGHTS,
        onnx=None,
        load_data=lambda folder: validation(folder, _BUNDLED_VAL),
        load_calibration=lambda folder: calibration(folder, _BUNDLED_CALIBRATION),
        load_training=lambda folder: training(folder, _BUNDLED_TRAINING),
    )


def _yolov10(scale: str) -> Callable[[], Detector]:
    name = f"yolov10{scale}"

    def make() -> Detector:
        assets = assets_folder()
        if assets is None:
            raise UnavailableError(
                f"{name}: ${ASSETS_VARIABLE} is not set. Point it to a folder with {name}/ and coco/, or run: lowbit fetch "
                f"{name} coco-val5k coco-calib100"
            )
        found = [p for p in (assets / name / f"{name}.safetensors", assets / name / f"{name}.pt") if p.is_file()]
        if not found:
            raise UnavailableError(f"{name}: no {name}.safetensors or {name}.pt in {assets / name}.")
        coco = assets / "coco"
        return Detector(
            name=name,
            input=InputSpec(640),
            head=End2End((640, 640), 80),
            architecture=f"{name}.yaml",
            weights=found[0],
            onnx=None,
            load_data=lambda _: load_coco(_first_of(coco / "annotations", *_EVALUATED_ON)),
            load_calibration=lambda _: load_calibration(coco / "calib100.txt"),
            load_training=lambda _: images_of(coco / "annotations" / "instances_train363.json"),
        )

    return make


# What the registered COCO detectors are measured on: the first of these that is there.
_EVALUATED_ON = ("instances_val204.json", "instances_val2017.json", "instances_val100.json")


def _first_of(folder: Path, *names: str) -> Path:
    return next((folder / name for name in names if (folder / name).is_file()), folder / names[0])


REGISTRY: dict[str, Callable[[], Detector]] = {
    "shapes10n": _shapes10n,
    "yolov10n": _yolov10("n"),
    "yolov10s": _yolov10("s"),
    "yolov10m": _yolov10("m"),
}


def find_detector(
    name: str, *, trust: bool = False, size: int | None = None, declared: Mapping[str, Declared] | None = None
) -> Detector:
    """A registered detector, one that a ``lowbit.toml`` declares, somebody's ``.onnx`` file or ``.pt`` checkpoint, or
    ``<architecture>@random``, an architecture of Ultralytics with seeded weights, for timings.

    ``size``: side of the input in pixels, for files that leave it open.

    Raises :class:`InputError` for an unknown name, :class:`UnavailableError` where its files are not on this machine.
    """
    if declared and name in declared:
        return _of_file(name, declared[name], trust=trust)
    if name in REGISTRY:
        return replace(REGISTRY[name](), trust=trust)
    if name.endswith(RANDOM):
        return _random(name, size or DEFAULT_SIZE)
    path = Path(name)
    if path.suffix not in (".onnx", ".pt"):
        known = ", ".join([*REGISTRY, *(declared or ())])
        raise InputError(f"there is no detector {name!r}. Known: {known}, or the path of an .onnx or .pt file.")
    return _of_file(path.stem, Declared(model=path, size=size), trust=trust)


def _random(name: str, size: int) -> Detector:
    if reason := checkpoint.missing():
        raise UnavailableError(f"{name}: {reason}")
    from ultralytics.nn.tasks import yaml_model_load

    from lowbit.bundled.data import calibration, training, validation

    architecture = f"{name.removesuffix(RANDOM)}.yaml"
    try:
        content = yaml_model_load(architecture)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: Ultralytics has no {architecture}. yolov10n, s, m, b, l and x are there.") from error
    last = content["head"][-1][2]
    if last not in checkpoint.HEADS:
        raise InputError(f"{name}: its head is {last}; detection heads ({', '.join(checkpoint.HEADS)}) are supported.")
    end2end = last == "v10Detect" or content.get("end2end")
    head = (End2End if end2end else Decoded)((size, size), content["nc"])
    return Detector(
        name=name,
        input=InputSpec(size),
        head=head,
        architecture=architecture,
        weights=None,
        onnx=None,
        # The drawn images have other classes than it; nothing is measured on them but time.
        load_data=lambda folder: load_unlabelled(validation(folder, _BUNDLED_VAL).annotations, head.classes),
        load_calibration=lambda folder: calibration(folder, _BUNDLED_CALIBRATION),
        load_training=lambda folder: training(folder, _BUNDLED_TRAINING),
        seed=1,
    )


def _of_file(name: str, declared: Declared, *, trust: bool) -> Detector:
    """A detector of the user's own."""
    path = declared.model

    def needs(option: str, given: Path | None, load: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def refuse(_: Path) -> Any:
            raise InputError(f"{path}: a detector of your own needs {option}.")

        return refuse if given is None else lambda _: load(given)

    data: dict[str, Any] = {
        "load_data": needs("--dataset path/to/instances.json", declared.dataset, load_data),
        "load_calibration": needs("--calibration path/to/list.txt", declared.calibration, load_calibration),
        "load_training": needs("--training path/to/list.txt", declared.training, load_images),
        "trust": trust,
    }
    if path.suffix == ".onnx":
        form = graph.canonical(path, (declared.size, declared.size) if declared.size else None)
        head = heads.recognise(path, form.model, declared.hints)
        heads.try_on(path, head, form.samples)
        scaling = {"mean": (0.0,) * 3, "std": (1.0,) * 3} if form.pixels else {}
        spec = InputSpec(
            *head.sides, **{"resize": "stretch" if form.scaled else head.resize, **declared.preprocessing, **scaling}
        )
        names = class_names(path, form.model)
        return Detector(
            name=name,
            input=spec,
            head=head,
            architecture=None,
            weights=None,
            onnx=path,
            names=names,
            changes=form.changes,
            **data,
        )
    if reason := checkpoint.missing():
        raise InputError(f"{path}: {reason}. Or export it to ONNX where it was trained.")
    spec = InputSpec(declared.size or DEFAULT_SIZE)
    if spec != replace(spec, **declared.preprocessing):
        raise InputError(
            f"{path}: Ultralytics' checkpoints take RGB in [0, 1] in a letterbox; colors, mean, std and resize are for "
            "ONNX files."
        )
    architecture, head = checkpoint.architecture_of(
        path, declared.architecture, spec.size, declared.strides, trust=trust
    )
    return Detector(name=name, input=spec, head=head, architecture=architecture, weights=path, onnx=None, **data)
