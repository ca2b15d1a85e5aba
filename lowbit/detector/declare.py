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

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue

from lowbit import toml
from lowbit.data.letterbox import Resize
from lowbit.detector import heads
from lowbit.detector.head import STRIDES, Hints
from lowbit.schemes import CATALOGUE

NAME = "lowbit.toml"
_REMEDY = "docs/your-detector.md lists what can be declared."


def _relative(path: Path, info: ValidationInfo) -> Path:
    return ((info.context or {}).get("folder", Path()) / path).resolve()


_Path = Annotated[Path, AfterValidator(_relative)]
_Channels = tuple[float, float, float]
# Editors complete the catalogue's; others can be named too, such as another bound of a mixed scheme or a plug-in's.
_Scheme = Annotated[
    str, WithJsonSchema({"anyOf": [{"type": "string", "enum": list(CATALOGUE)}, {"type": "string", "minLength": 1}]})
]
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

    @classmethod
    def __get_pydantic_json_schema__(cls, _: Any, __: GetJsonSchemaHandler) -> JsonSchemaValue:
        """What :meth:`_spelled_short` and :meth:`_known` take, which pydantic cannot see."""
        tables = [
            {
                "type": "object",
                "properties": {"kind": {"enum": [kind]}}
                | {name: {"type": "string", "enum": list(values)} for name, values in head.options.items()},
                "required": ["kind"],
                "additionalProperties": False,
            }
            for kind, head in heads.KINDS.items()
        ]
        return {"anyOf": [{"type": "string", "enum": list(heads.KINDS)}, *tables], "description": "The head's kind."}


class Declared(toml.Table):
    """One detector of yours: its file, its data, and what its file leaves open."""

    model: _Path = Field(description="The ONNX export, or an Ultralytics checkpoint (.pt or .safetensors).")
    architecture: str | None = Field(
        default=None,
        description="Ultralytics' YAML of a .safetensors checkpoint, by name. Default: what the checkpoint says.",
    )
    dataset: _Path | None = Field(
        default=None,
        description='Images for evaluation: COCO annotations (.json) or Ultralytics\' data.yaml. With labels = "none" a '
        "folder or a list of images too.",
    )
    calibration: _Path | None = Field(
        default=None,
        description="Images for calibration: a list with one path a line, relative to the list. 50 to 500 images like those of "
        "deployment, none of them in the data set.",
    )
    training: _Path | None = Field(
        default=None, description="Images for schemes that learn: a list, COCO annotations or data.yaml."
    )
    labels: Labels = Field(
        default="dataset",
        description="What detections are compared with: the data set's labels, or with \"none\" the float detector's own "
        "confident detections, for images without labels.",
    )
    size: int | None = Field(
        default=None, ge=32, le=4096, description="Side of the input in pixels, for an export with dynamic sides."
    )
    colors: Literal["rgb", "bgr"] = Field(default="rgb", description="Order of the input's channels.")
    mean: _Channels = Field(
        default=(0.0, 0.0, 0.0),
        description="Of each channel, in units of [0, 255]: the network gets (pixel - mean) / std.",
    )
    std: _Channels = Field(
        default=(255.0, 255.0, 255.0),
        description="Of each channel, in units of [0, 255]: the network gets (pixel - mean) / std.",
    )
    resize: Resize | None = Field(
        default=None,
        description="How an image is put into the input: centred on grey, to the top left, or stretched. Default: as the "
        "head's family does.",
    )
    head: DeclaredHead = Field(
        default_factory=DeclaredHead,
        description="The head's kind, or a table of its kind and that kind's options, where the outputs leave it open.",
    )
    strides: tuple[int, ...] = Field(default=STRIDES, description="Of the head's levels, in pixels.")
    classes: tuple[int, ...] | None = Field(
        default=None,
        description="The data set's category id of every class index, -1 for a class that the data set does not have. "
        "Default: the categories in the order of their ids.",
    )
    allow_similar: bool = Field(
        default=False,
        description="Take calibration images that look like evaluation images, as frames of one fixed camera do.",
    )
    confidence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="The confidence threshold that the float detector is deployed with. Default: 0.25.",
    )

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

    schemes: tuple[_Scheme, ...] | None = Field(
        default=None,
        description="Ids as `lowbit schemes` lists them. Default: all that this machine can run, which takes long.",
    )
    thresholds: _Path | None = Field(
        default=None, description="Your limits on the drop, as docs/your-detector.md has them."
    )
    expected_failures: _Path | None = Field(default=None, description="Your expected failures, with what was measured.")
    search_minutes: float | None = Field(
        default=None,
        gt=0,
        description="Budget of auto schemes, as work: minutes of two cores with AVX-512 VNNI, the same artifact on any machine. "
        "Default: 20.",
    )
    inconclusive: Literal["pass", "fail", "warn"] | None = Field(
        default=None,
        description="What an inconclusive verdict does, where the one-sided 95 % bounds of the drop lie on both sides of the "
        "threshold. warn: the point estimate decides; fail: it stops the merge; pass: it does not. Default: fail where CI=true, "
        "else warn.",
    )


class Project(toml.Table):
    """The detectors that lowbit gates here, and how."""

    detectors: dict[str, Declared] = Field(default_factory=dict, description="Your detectors, by name.")
    gate: Gate = Field(
        default_factory=Gate, description="How they are gated; options of the command line go before it."
    )


def load(folder: Path) -> Project:
    """Read ``lowbit.toml`` in a folder; an empty project where there is none. Raises :class:`InputError`."""
    path = folder / NAME
    if not path.exists():
        return Project()
    return toml.read(path, Project, _REMEDY, {"folder": folder})


def parse(folder: Path, text: str) -> Project:
    """What :func:`load` would read, were ``text`` the folder's ``lowbit.toml``."""
    return toml.parse(folder / NAME, text, Project, _REMEDY, {"folder": folder})


def schema() -> dict[str, Any]:
    """``lowbit.toml``'s JSON Schema, draft 7."""
    return toml.schema(Project, NAME)
