"""What is measured: the registry of detectors, their torch modules, their FP32 ONNX exports, their head contracts."""

from __future__ import annotations

import copy
import json
import os
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowbit import files
from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet, load_calibration
from lowbit.data.load import images_of, load_data, load_images, load_unlabelled
from lowbit.declare import Declared
from lowbit.decode import HeadContract, HeadKind
from lowbit.errors import InputError, LowbitError, UnavailableError
from lowbit.fetch import default_folder

if TYPE_CHECKING:
    import torch

ASSETS_VARIABLE = "LOWBIT_ASSETS"
OPSET = 17
# Ultralytics' default, for checkpoints that leave it open.
DEFAULT_SIZE = 640
# Ultralytics' detection heads.
_HEADS = ("Detect", "v10Detect")
RANDOM = "@random"
# Official checkpoints whose pickles are known: sha256 to file name (Git-LFS pointers of the releases of
# THU-MIG/yolov10, jameslahm/yolov10 or ultralytics/assets).
TRUSTED_CHECKPOINTS = {
    "55e1563d55db0a2bf89446d30131f0462c23a56c87b9c73a64c2f73cb5959365": "yolov10n.pt",
    "ead771e17479ccd099353b3240437822ec04b8b7a6292678b544cfcf427183b9": "yolov10s.pt",
    "36a0daa37ed8bdc7698d38e56a071dde503ae1d9333c50c212e8240b637bed7e": "yolov10m.pt",
}
_BUNDLED_WEIGHTS = Path(__file__).parent / "bundled" / "shapes10n.safetensors"
_BUNDLED_VAL, _BUNDLED_CALIBRATION, _BUNDLED_TRAINING = 200, 64, 256


@dataclass(frozen=True)
class Detector:
    """One detector and the data that it is measured on.

    It comes from ``weights``, a checkpoint of ``architecture`` (Ultralytics' YAML by name, or its content), from
    ``onnx``, somebody's export, or from neither: then its weights are drawn from ``seed``, and it is there for timings
    only. ``head``: the contract of what is deployed. ``load_data``, ``load_calibration`` and ``load_training``
    (unlabelled pictures for fine-tuning) take the folder where drawn data may be kept.
    """

    name: str
    input: InputSpec
    head: HeadContract
    architecture: str | dict[str, Any] | None
    weights: Path | None
    onnx: Path | None
    load_data: Callable[[Path], Dataset]
    load_calibration: Callable[[Path], CalibrationSet]
    load_training: Callable[[Path], CalibrationSet]
    trust: bool = False
    seed: int | None = None

    @property
    def source(self) -> Path:
        """The file that the detector comes from; of a random one, the name of its architecture."""
        return self.weights or self.onnx or Path(str(self.architecture))

    def identity(self) -> dict[str, Any]:
        """What shapes the FP32 export: enters the key of every artifact."""
        return {
            **({"sha256": files.sha256(self.source)} if self.seed is None else {"seed": self.seed}),
            "architecture": self.architecture,
            "size": self.input.size,
            "classes": self.head.classes,
            "opset": OPSET,
        }

    def contract(self, kind: HeadKind | None = None) -> HeadContract:
        """The contract of the export with a head of ``kind``, the deployed one by default; an ONNX file has only one."""
        return self.head if kind is None or self.onnx is not None else replace(self.head, kind=kind)

    def torch_module(self) -> torch.nn.Module:
        """The detector as Ultralytics' ``DetectionModel`` in evaluation mode, float32, BatchNorm not folded.

        Raises :class:`UnavailableError` for a detector that is only an ONNX file, :class:`InputError` for a checkpoint
        that is not trusted or does not fit.
        """
        if self.onnx is not None:
            raise UnavailableError(f"{self.name}: is an ONNX file; torch-side schemes need a checkpoint.")
        from ultralytics.nn.tasks import DetectionModel

        if self.weights is None:
            return _drawn(self)
        model: torch.nn.Module = DetectionModel(copy.deepcopy(self.architecture), nc=self.head.classes, verbose=False)
        state = load_state(self.weights, trust=self.trust)
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"{self.weights}: does not fit {self.architecture} with {self.head.classes} classes "
                f"({str(error).splitlines()[-1].strip()[:200]})."
            ) from error
        return model.float().eval()

    def fused_module(self) -> Any:
        """:meth:`torch_module` with BatchNorm folded and only the head that deployment uses."""
        model: Any = self.torch_module()
        if self.head.kind is HeadKind.END2END:
            model.model[-1].end2end = True  # before fusing, which drops the head that is not used
        model.fuse(verbose=False)
        return model

    def export(self, path: Path, kind: HeadKind | None = None) -> None:
        """Write the FP32 ONNX: input ``images`` 1x3xSxS, output ``output0`` of ``contract(kind).output_shape``."""
        import onnx
        import torch

        if self.onnx is not None:
            from lowbit import graph

            onnx.save(graph.fixed(self.onnx, graph.load(self.onnx), self.input.size), str(path))
            return
        contract = self.contract(kind)
        model = self.fused_module()
        last = model.model[-1]
        last.export = contract.kind is not HeadKind.RAW
        last.format = "onnx"
        network = _RawHead(model) if contract.kind is HeadKind.RAW else model
        example = torch.zeros(1, 3, self.input.size, self.input.size)
        with torch.inference_mode(), warnings.catch_warnings():
            # Of a tracer whose successor does not trace this head, and of sizes that are fixed on purpose.
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
            network(example)  # settles the head's anchors before tracing
            torch.onnx.export(
                network,
                (example,),
                str(path),
                input_names=["images"],
                output_names=["output0"],
                opset_version=OPSET,
                dynamo=False,
            )
        exported = onnx.load(str(path))
        dims = exported.graph.output[0].type.tensor_type.shape.dim
        expected = contract.output_shape
        with torch.inference_mode():
            shape = tuple(network(example).shape)
        if shape != expected or len(dims) != len(expected):
            raise LowbitError(f"{self.name}: the export gives {shape} where a {contract.kind} head gives {expected}.")
        for dim, value in zip(dims, expected, strict=True):
            # The tracer can lose a static size behind TopK; consumers rely on it.
            dim.Clear()
            dim.dim_value = value
        onnx.checker.check_model(exported)
        onnx.save(exported, str(path))


def _drawn(detector: Detector) -> torch.nn.Module:
    """An architecture with seeded weights, whose BatchNorm has seen noise, so that activations have sane ranges, and whose
    logits stay near 0, so that no two scores are equal."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    assert detector.seed is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(detector.seed)
        model: torch.nn.Module = DetectionModel(
            copy.deepcopy(detector.architecture), nc=detector.head.classes, verbose=False
        )
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain average of what it sees
                module.reset_running_stats()
        # Patches of all sizes, as pictures have: fine noise alone has next to no contrast after a few convolutions.
        noise = torch.cat(
            [torch.nn.functional.interpolate(torch.rand(1, 3, side, side), (320, 320)) for side in (5, 20, 80, 320)]
        )
        with torch.no_grad():
            model.train()(noise)
            # Convolutions that no BatchNorm follows.
            last = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
            hooks = [one.register_forward_hook(_to_small_logits) for one in last]
            model.eval()(noise)
            for hook in hooks:
                hook.remove()
    return model.float()


def _to_small_logits(module: Any, _: Any, output: torch.Tensor) -> None:
    """A forward hook: scale a convolution by what it gave. Pictures call forth up to ten times more than noise."""
    module.weight.div_(10 * output.std())
    module.bias.zero_()


def _RawHead(model: Any) -> torch.nn.Module:  # noqa: N802 - a module class made where torch is imported
    """The one-to-one head's box and class logits, [1, 4 * reg_max + classes, anchors]."""
    import torch

    class RawHead(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            _, heads = self.model(images)
            logits = heads.get("one2one", heads)
            return torch.cat((logits["boxes"], logits["scores"]), 1)

    # The exporter restores the mode that it finds, for the children too.
    return RawHead().eval()


def load_state(path: Path, *, trust: bool = False) -> dict[str, torch.Tensor]:
    """A checkpoint's state dict, float32.

    ``.safetensors`` is data and always read. Anything else is a pickle, which runs code when it is read: only with a
    known sha256 (:data:`TRUSTED_CHECKPOINTS`) or ``trust=True``. Raises :class:`InputError`.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: is no readable safetensors file ({error}).") from error
    else:
        state = _unpickled(path, trust=trust).state_dict()
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: {broken[0]!r} holds NaN or infinity ({len(broken)} tensors). Take another checkpoint."
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _unpickled(path: Path, *, trust: bool) -> Any:
    """The model in a pickled checkpoint. Raises :class:`InputError` unless it is known or trusted, and has one."""
    import torch

    try:
        found = files.sha256(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    if not trust and found not in TRUSTED_CHECKPOINTS:
        raise InputError(
            f"{path}: is a pickle with the unknown sha256 {found}; reading it would run whatever is in it. If you "
            "trust its origin, say --trust-checkpoint, or convert it to safetensors."
        )
    try:
        loaded: Any = torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle can raise anything
        raise InputError(
            f"{path}: is no readable checkpoint ({type(error).__name__}: {str(error)[:200]}). Fetch it again."
        ) from error
    module: Any = (loaded.get("ema") or loaded.get("model")) if isinstance(loaded, dict) else loaded
    if not hasattr(module, "state_dict"):
        raise InputError(f"{path}: holds no model, but a {type(module).__name__}.")
    return module


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
        head=HeadContract(HeadKind.END2END, 320, 10),
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
            head=HeadContract(HeadKind.END2END, 640, 80),
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


def find(
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
    from ultralytics.nn.tasks import yaml_model_load

    from lowbit.bundled.data import calibration, training, validation

    architecture = f"{name.removesuffix(RANDOM)}.yaml"
    try:
        content = yaml_model_load(architecture)
    except (OSError, ValueError) as error:
        raise InputError(f"{name}: Ultralytics has no {architecture}. yolov10n, s, m, b, l and x are there.") from error
    last = content["head"][-1][2]
    if last not in _HEADS:
        raise InputError(f"{name}: its head is {last}; detection heads ({', '.join(_HEADS)}) are supported.")
    end2end = last == "v10Detect" or content.get("end2end")
    head = HeadContract(HeadKind.END2END if end2end else HeadKind.DECODED, size, content["nc"])
    return Detector(
        name=name,
        input=InputSpec(size),
        head=head,
        architecture=architecture,
        weights=None,
        onnx=None,
        # The drawn pictures have other classes than it; nothing is measured on them but time.
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
        from lowbit import graph

        model = graph.fixed(path, graph.load(path), declared.size)
        head = graph.contract_of(path, model, declared.head, declared.strides)
        spec = InputSpec(head.size, declared.colors, declared.mean, declared.std)
        return Detector(name=name, input=spec, head=head, architecture=None, weights=None, onnx=path, **data)
    spec = InputSpec(declared.size or DEFAULT_SIZE)
    if (spec.colors, spec.mean, spec.std) != (declared.colors, declared.mean, declared.std):
        raise InputError(
            f"{path}: Ultralytics' checkpoints take RGB in [0, 1]; colors, mean and std are for ONNX files."
        )
    architecture, classes, kind = _architecture_of(path, declared.architecture, trust=trust)
    head = HeadContract(kind, spec.size, classes, declared.strides)
    return Detector(name=name, input=spec, head=head, architecture=architecture, weights=path, onnx=None, **data)


def _architecture_of(
    path: Path, architecture: str | None, *, trust: bool
) -> tuple[str | dict[str, Any], int, HeadKind]:
    """What a checkpoint is of: Ultralytics' YAML (its name or content), the number of classes, the deployed head."""
    from ultralytics.nn.tasks import yaml_model_load

    state = load_state(path, trust=trust)
    content: str | dict[str, Any]
    if architecture is not None:
        content = architecture
    elif path.suffix == ".safetensors":
        raise InputError(f"{path}: safetensors hold no architecture. Declare it: architecture = 'yolov8n.yaml'.")
    else:
        found = getattr(_unpickled(path, trust=trust), "yaml", None)
        if not isinstance(found, dict):
            raise InputError(f"{path}: holds no Ultralytics detector with its architecture. Declare architecture.")
        content = json.loads(json.dumps(found, default=str))
    try:
        layers = yaml_model_load(content)["head"] if isinstance(content, str) else content["head"]
        name = str(layers[-1][2])
    except (OSError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path}: architecture {str(content)[:80]!r} is no YAML of Ultralytics' ({error}).") from error
    if name not in _HEADS:
        raise InputError(f"{path}: its head is {name}; detection heads ({', '.join(_HEADS)}) are supported.")
    # The class branch's last convolution has an output channel a class.
    branches = {key: value for key, value in state.items() if re.search(r"\.(?:one2one_)?cv3\.0\.\d+\.bias$", key)}
    if not branches:
        raise InputError(f"{path}: has no class branch (cv3) as Ultralytics' detection heads have.")
    last = max(branches, key=lambda key: int(key.split(".")[-2]))
    end2end = any(".one2one_cv3." in key for key in state)
    return content, len(state[last]), HeadKind.END2END if end2end else HeadKind.DECODED


def rebuild(source: Path, identity: Mapping[str, Any], kind: HeadKind, *, trust: bool) -> Detector:
    """A detector from its file and :meth:`Detector.identity`, without data: for builds in other processes."""

    def nothing(_: Path) -> Any:
        raise LowbitError(f"{source}: a detector that was rebuilt for a build has no data.")

    size, architecture = identity["size"], identity["architecture"]
    return Detector(
        name=source.stem,
        input=InputSpec(size),
        head=HeadContract(kind, size, identity["classes"]),
        architecture=architecture,
        weights=source if architecture and "seed" not in identity else None,
        onnx=None if architecture else source,
        seed=identity.get("seed"),
        load_data=nothing,
        load_calibration=nothing,
        load_training=nothing,
        trust=trust,
    )
