"""``lowbit.toml``: a project's own detectors and how they are gated, declared once instead of typed as options.

.. code-block:: toml

    [detectors.mine]
    model = "exports/mine.onnx"       # or an Ultralytics checkpoint, .pt or .safetensors
    dataset = "data/instances.json"   # COCO annotations, or Ultralytics' data.yaml
    calibration = "data/calibration.txt"

    [gate]
    schemes = ["int8-ort-entropy", "int8-modelopt-entropy-headfp"]

Paths are relative to the file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, ConfigDict, Field, ValidationInfo, model_validator

from lowbit import toml
from lowbit.data.letterbox import Resize
from lowbit.detector import heads
from lowbit.detector.head import STRIDES, Hints

NAME = "lowbit.toml"


def _relative(path: Path, info: ValidationInfo) -> Path:
    return ((info.context or {}).get("folder", Path()) / path).resolve()


_Path = Annotated[Path, AfterValidator(_relative)]
Labels = Literal["dataset", "none"]


class DeclaredHead(toml.Table):
    """``kind``: a name in :data:`lowbit.detector.heads.KINDS`; other keys are that head's own options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _spelled_short(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _known(self) -> Self:
        heads.check(self.kind, {name: str(value) for name, value in (self.model_extra or {}).items()})
        return self


class Declared(toml.Table):
    """One detector.

    ``architecture``: Ultralytics' YAML, for a ``.safetensors`` checkpoint. ``labels``: ``none`` scores agreement with
    the float detector's confident boxes, for images without labels. ``size``: side of the input in pixels, where
    the file leaves it open. ``colors``, ``mean``, ``std``, ``resize``: as :class:`lowbit.data.letterbox.InputSpec` says;
    without a ``resize``, as the head's family does. ``head``: its
    kind, or a table of its kind and that kind's options, where the outputs leave them open. ``strides``: of its levels. ``classes``: the data set's category id of every
    class index, -1 for a class that the data set does not have; by default the categories in the order of their ids.
    ``allow_similar``: take calibration images that look like evaluation images, as frames of one fixed camera do.
    ``confidence``: the score from which on a detection counts where the detector is deployed.
    """

    model: _Path
    architecture: str | None = None
    dataset: _Path | None = None
    calibration: _Path | None = None
    training: _Path | None = None
    labels: Labels = "dataset"
    size: int | None = Field(None, ge=32, le=4096)
    colors: Literal["rgb", "bgr"] = "rgb"
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (255.0, 255.0, 255.0)
    resize: Resize | None = None
    head: DeclaredHead = DeclaredHead()
    strides: tuple[int, ...] = STRIDES
    classes: tuple[int, ...] | None = None
    allow_similar: bool = False
    confidence: float | None = Field(default=None, ge=0, le=1)

    @property
    def preprocessing(self) -> dict[str, Any]:
        """What is declared of the input, as fields of :class:`lowbit.data.letterbox.InputSpec`."""
        resize = {"resize": self.resize} if self.resize else {}
        return {"colors": self.colors, "mean": self.mean, "std": self.std, **resize}

    @property
    def hints(self) -> Hints:
        """What is declared of its head."""
        options = {name: str(value) for name, value in (self.head.model_extra or {}).items()}
        return Hints(self.head.kind, self.strides, len(self.classes) if self.classes else None, options)


class Gate(toml.Table):
    """How detectors are gated; every entry is the default of the option of the same name."""

    schemes: tuple[str, ...] | None = None
    thresholds: _Path | None = None
    expected_failures: _Path | None = None
    inconclusive: Literal["pass", "fail", "warn"] | None = None


class Project(toml.Table):
    """A whole file."""

    detectors: dict[str, Declared] = Field(default_factory=dict)
    gate: Gate = Gate()


def load(folder: Path) -> Project:
    """Read ``lowbit.toml`` in a folder; an empty project where there is none. Raises :class:`InputError`."""
    path = folder / NAME
    if not path.exists():
        return Project()
    return toml.read(path, Project, "docs/your-detector.md lists what can be declared.", {"folder": folder})
