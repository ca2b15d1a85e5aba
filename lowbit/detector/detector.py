"""What is measured: a detector, where it comes from, its head and its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.dataset import Dataset
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.detector import checkpoint, heads
from lowbit.detector.checkpoint import OPSET
from lowbit.detector.head import Head
from lowbit.errors import LowbitError, UnavailableError
from lowbit.files import digest
from lowbit.graph.external import contents

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Detector:
    """One detector and the data that it is measured on.

    It comes from ``weights``, a checkpoint of ``architecture`` (Ultralytics' YAML by name, or its content), from
    ``onnx``, somebody's export, or from neither: then its weights are drawn from ``seed``, and it is there for timings
    only. ``head``: what is deployed. ``names``: its classes' names, where its file has them. ``changes``: what
    its canonical form changed in its file. ``load_data``, ``load_calibration`` and ``load_training``
    (unlabelled images for fine-tuning) take the folder where drawn data may be kept.
    """

    name: str
    input: InputSpec
    head: Head
    architecture: str | dict[str, Any] | None
    weights: Path | None
    onnx: Path | None
    load_data: Callable[[Path], Dataset]
    load_calibration: Callable[[Path], CalibrationSet]
    load_training: Callable[[Path], CalibrationSet]
    trust: bool = False
    seed: int | None = None
    names: tuple[str, ...] = ()
    changes: tuple[str, ...] = ()

    @property
    def source(self) -> Path:
        """The file that the detector comes from; of a random one, the name of its architecture."""
        return self.weights or self.onnx or Path(str(self.architecture))

    @property
    def weights_sha256(self) -> str:
        """SHA-256 of what holds its weights: its file, whatever it is called, with the files of external weights.

        Raises :class:`lowbit.errors.InputError` for a file that cannot be read.
        """
        if self.seed is not None:
            return digest({"seed": self.seed, "architecture": self.architecture})
        found = contents(self.source)
        return digest(found) if "external" in found else str(found["sha256"])

    def identity(self) -> dict[str, Any]:
        """What shapes the FP32 export: enters the key of every artifact."""
        return {
            **(contents(self.source) if self.seed is None else {"seed": self.seed}),
            "architecture": self.architecture,
            "head": self.head.as_json(),
            "opset": OPSET,
        }

    def torch_module(self) -> torch.nn.Module:
        """The detector as Ultralytics' ``DetectionModel`` in evaluation mode, float32, BatchNorm not folded.

        Raises :class:`UnavailableError` for a detector that is only an ONNX file, :class:`InputError` for a checkpoint
        that is not trusted or does not fit.
        """
        if self.onnx is not None:
            raise UnavailableError(f"{self.name}: is an ONNX file; torch-side schemes need a checkpoint.")
        assert self.architecture is not None
        if self.weights is None:
            assert self.seed is not None
            return checkpoint.drawn(str(self.architecture), self.head.classes, self.seed).eval()
        return checkpoint.rebuilt(self.weights, self.architecture, self.head.classes, trust=self.trust).eval()

    def fused_module(self) -> Any:
        """:meth:`torch_module` with BatchNorm folded and only the head that deployment uses."""
        return checkpoint.fused(self.torch_module())

    def prove_canonical(self, images: Sequence[NDArray[np.float32]]) -> None:
        """Where the canonical form changed its file: run both on real images, float32 [1, 3, height, width], and compare raw
        heads and detections. Raises :class:`lowbit.errors.InputError` where they differ, or nothing was compared."""
        if self.onnx is None or not self.changes:
            return
        form = graph.canonical(self.onnx, self.input.sides)
        assert form.original is not None
        graph.prove(self.onnx, form.original, form.model, images, self.head.decode)

    def export(self, path: Path) -> None:
        """Write the FP32 ONNX: one input, float32 1 x 3 x height x width, and the outputs that ``head`` reads."""
        if self.onnx is None:
            checkpoint.export(self.fused_module(), self.head, path)
            return
        import onnx

        model = graph.canonical(self.onnx, self.input.sides).model
        heads.stamp(model, self.head)
        onnx.save(model, str(path))


def rebuild(source: Path, identity: Mapping[str, Any], *, trust: bool) -> Detector:
    """A detector from its file and :meth:`Detector.identity`, without data: for builds in other processes."""

    def nothing(_: Path) -> Any:
        raise LowbitError(f"{source}: a detector that was rebuilt for a build has no data.")

    head, architecture = heads.of_json(identity["head"]), identity["architecture"]
    return Detector(
        name=source.stem,
        input=InputSpec(*head.sides),
        head=head,
        architecture=architecture,
        weights=source if architecture and "seed" not in identity else None,
        onnx=None if architecture else source,
        seed=identity.get("seed"),
        load_data=nothing,
        load_calibration=nothing,
        load_training=nothing,
        trust=trust,
    )
