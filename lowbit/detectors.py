"""What is measured: the registry of detectors, their torch modules, their FP32 ONNX exports, their head contracts."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowbit import files
from lowbit.datasets import CalibrationSet, Dataset, load_calibration, load_coco, pictures_of
from lowbit.decode import HeadContract, HeadKind
from lowbit.errors import InputError, LowbitError, UnavailableError
from lowbit.fetch import default_folder

if TYPE_CHECKING:
    import torch

ASSETS_VARIABLE = "LOWBIT_ASSETS"
OPSET = 17
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

    Exactly one of ``weights`` (a checkpoint of ``architecture``) and ``onnx`` (somebody's export) is set. ``load_data``,
    ``load_calibration`` and ``load_training`` (unlabelled pictures for fine-tuning) take the folder where drawn data
    may be kept.
    """

    name: str
    size: int
    architecture: str | None
    weights: Path | None
    onnx: Path | None
    load_data: Callable[[Path], Dataset]
    load_calibration: Callable[[Path], CalibrationSet]
    load_training: Callable[[Path], CalibrationSet]
    class_count: int
    trust: bool = False

    @property
    def source(self) -> Path:
        """The file that the detector comes from."""
        path = self.weights or self.onnx
        assert path is not None
        return path

    def identity(self) -> dict[str, Any]:
        """What shapes the FP32 export: enters the key of every artifact."""
        return {
            "sha256": files.sha256(self.source),
            "architecture": self.architecture,
            "size": self.size,
            "classes": self.class_count,
            "opset": OPSET,
        }

    def contract(self, head: HeadKind = HeadKind.END2END) -> HeadContract:
        """The contract of the export with ``head``; a user's ONNX has the one head that it has."""
        if self.onnx is not None:
            from lowbit import graph

            return graph.contract_of(self.onnx, graph.load(self.onnx))
        return HeadContract(head, self.size, self.class_count)

    def torch_module(self) -> torch.nn.Module:
        """The detector as Ultralytics' ``DetectionModel`` in evaluation mode, float32, BatchNorm not folded.

        Raises :class:`UnavailableError` for a detector that is only an ONNX file, :class:`InputError` for a checkpoint
        that is not trusted or does not fit.
        """
        if self.weights is None or self.architecture is None:
            raise UnavailableError(f"{self.name}: is an ONNX file; torch-side schemes need a checkpoint.")
        from ultralytics.nn.tasks import DetectionModel

        model: torch.nn.Module = DetectionModel(self.architecture, nc=self.class_count, verbose=False)
        state = load_state(self.weights, trust=self.trust)
        try:
            model.load_state_dict(state, strict=True)
        except RuntimeError as error:
            raise InputError(
                f"{self.weights}: does not fit {self.architecture} with {self.class_count} classes "
                f"({str(error).splitlines()[-1].strip()[:200]})."
            ) from error
        return model.float().eval()

    def fused_module(self) -> Any:
        """:meth:`torch_module` with BatchNorm folded and only the head that deployment uses."""
        model: Any = self.torch_module()
        model.model[-1].end2end = True  # before fusing, which drops the head that is not used
        model.fuse(verbose=False)
        return model

    def export(self, path: Path, head: HeadKind = HeadKind.END2END) -> None:
        """Write the FP32 ONNX: input ``images`` 1x3xSxS, output ``output0`` of ``contract(head).output_shape``."""
        import onnx
        import torch

        if self.onnx is not None:
            from lowbit import graph

            onnx.save(graph.load(self.onnx), str(path))
            return
        model = self.fused_module()
        last = model.model[-1]
        last.export = head is HeadKind.END2END
        last.format = "onnx"
        network = model if head is HeadKind.END2END else _RawHead(model)
        example = torch.zeros(1, 3, self.size, self.size)
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
        expected = self.contract(head).output_shape
        with torch.inference_mode():
            shape = tuple(network(example).shape)
        if shape != expected or len(dims) != len(expected):
            raise LowbitError(f"{self.name}: the export gives {shape} where a {head} head gives {expected}.")
        for dim, value in zip(dims, expected, strict=True):
            # The tracer can lose a static size behind TopK; consumers rely on it.
            dim.Clear()
            dim.dim_value = value
        onnx.checker.check_model(exported)
        onnx.save(exported, str(path))


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
    import torch

    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: is no readable safetensors file ({error}).") from error
    else:
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
        state = module.state_dict()
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: {broken[0]!r} holds NaN or infinity ({len(broken)} tensors). Take another checkpoint."
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


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
        size=320,
        architecture="yolov10n.yaml",
        weights=_BUNDLED_WEIGHTS,
        onnx=None,
        load_data=lambda folder: validation(folder, _BUNDLED_VAL),
        load_calibration=lambda folder: calibration(folder, _BUNDLED_CALIBRATION),
        load_training=lambda folder: training(folder, _BUNDLED_TRAINING),
        class_count=10,
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
            size=640,
            architecture=f"{name}.yaml",
            weights=found[0],
            onnx=None,
            load_data=lambda _: load_coco(_first_of(coco / "annotations", *_EVALUATED_ON)),
            load_calibration=lambda _: load_calibration(coco / "calib100.txt"),
            load_training=lambda _: pictures_of(coco / "annotations" / "instances_train363.json"),
            class_count=80,
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


def find(name: str, *, trust: bool = False) -> Detector:
    """A registered detector, or somebody's ``.onnx`` file.

    Raises :class:`InputError` for an unknown name, :class:`UnavailableError` where its files are not on this machine.
    """
    import dataclasses

    if name in REGISTRY:
        return dataclasses.replace(REGISTRY[name](), trust=trust)
    path = Path(name)
    if path.suffix != ".onnx":
        raise InputError(f"there is no detector {name!r}. Known: {', '.join(REGISTRY)}, or the path of an .onnx file.")
    from lowbit import graph

    contract = graph.contract_of(path, graph.load(path))

    def needs(option: str) -> Callable[[Path], Any]:
        def refuse(_: Path) -> Any:
            raise InputError(f"{path}: a detector of your own needs {option}.")

        return refuse

    return Detector(
        name=path.stem,
        size=contract.size,
        architecture=None,
        weights=None,
        onnx=path,
        load_data=needs("--dataset path/to/instances.json"),
        load_calibration=needs("--calibration path/to/list.txt"),
        load_training=needs("--training path/to/list.txt"),
        class_count=contract.classes,
    )
