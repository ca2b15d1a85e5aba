"""The protocol of detection heads: recognised from what a file shows of itself, and read into detections."""

from __future__ import annotations

import ast
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.data.detections import Detections
from lowbit.data.letterbox import Resize
from lowbit.errors import InputError

if TYPE_CHECKING:
    import onnx

STRIDES = (8, 16, 32)
# How far a score may leave [0, 1] and still be a probability: an artifact rounds it to a step of its own.
_BEYOND = 0.1


@dataclass(frozen=True, slots=True)
class Hints:
    """What somebody declared of a head. ``kind``: its name in :data:`lowbit.detector.heads.KINDS`. ``strides``: of its
    levels. ``classes``: their number. ``options``: what the head's own module asks for, by name."""

    kind: str | None = None
    strides: tuple[int, ...] = STRIDES
    classes: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interface:
    """What a file shows of itself.

    ``sides``: height and width of its input in pixels. ``outputs``: shape by name in the graph's order, 0 for a
    dimension that it leaves open. ``classes``: their number where it is declared or where Ultralytics' ``names`` are in
    the file's metadata.
    """

    path: Path
    model: onnx.ModelProto
    sides: tuple[int, int]
    outputs: Mapping[str, tuple[int, ...]]
    classes: int | None
    hints: Hints

    @classmethod
    def of(cls, path: Path, model: onnx.ModelProto, hints: Hints) -> Interface:
        """Read it from a graph. Raises :class:`InputError` for another input than one image of a fixed size."""
        given = graph.inputs(model)
        if len(given) != 1:
            names = ", ".join(value.name for value in given)
            raise InputError(
                f"{path}: has the inputs {names or 'none'}; one, the image, is supported, and beside it the size that boxes are "
                f"scaled to ({', '.join(graph.SIZE_INPUTS)}). Export it without the others."
            )
        shape = graph.shape_of(given[0])
        if len(shape) != 4 or shape[:2] != (1, 3) or not all(32 <= side <= graph.MAX_SIDE for side in shape[2:]):
            raise InputError(
                f"{path}: input {shape} is not 1 x 3 x height x width with fixed sides of 32 to {graph.MAX_SIDE}. Export it so."
            )
        task = metadata(model).get("task", "detect")
        if task != "detect":
            raise InputError(f"{path}: its metadata says that its task is {task!r}; detection is supported.")
        outputs = {value.name: graph.shape_of(value) for value in model.graph.output}
        named = len(class_names(path, model)) or None
        if named and hints.classes and named != hints.classes:
            raise InputError(
                f"{path}: its metadata names {named} classes, and {hints.classes} are declared. Declare one entry a class."
            )
        return cls(path, model, (shape[2], shape[3]), outputs, hints.classes or named, hints)

    @property
    def only(self) -> tuple[int, ...]:
        """The shape of the one output; empty where there are several."""
        return next(iter(self.outputs.values())) if len(self.outputs) == 1 else ()

    @property
    def module(self) -> str:
        """Ultralytics' head module, where metadata name it."""
        return metadata(self.model).get("head", "")

    def asked(self, kind: str) -> bool:
        """Whether this very head was declared."""
        return self.hints.kind == kind


def metadata(model: onnx.ModelProto) -> dict[str, str]:
    """What the exporter wrote into a file beside its graph, by key."""
    return {entry.key: entry.value for entry in model.metadata_props}


def class_names(path: Path, model: onnx.ModelProto) -> tuple[str, ...]:
    """The classes' names in the order of their index, as Ultralytics' metadata have them; none where they have none."""
    text = metadata(model).get("names")
    if text is None:
        return ()
    try:
        names = ast.literal_eval(text)
        listed = [names[index] for index in sorted(names)] if isinstance(names, dict) else list(names)
        return tuple(map(str, listed))
    except (ValueError, SyntaxError, TypeError) as error:
        raise InputError(f"{path}: metadata 'names' is no table of class names ({error}). Export it again.") from error


@dataclass(frozen=True)
class Head(ABC):
    """What a consumer must know to read a detector's outputs.

    ``sides``: height and width of the input in pixels. ``classes``: number of classes.

    A family is one module in :mod:`lowbit.detector.heads` with one subclass called ``HEAD``; nothing else is touched.
    """

    kind: ClassVar[str]
    # What a file must give, for messages.
    form: ClassVar[str]
    # How its family puts an image into the input, unless it is declared otherwise.
    resize: ClassVar[Resize] = "letterbox"
    # Ultralytics' head modules that it reads, as metadata name them since 8.4.
    modules: ClassVar[tuple[str, ...]] = ()
    # What to do about logits where it takes probabilities, if the graph need not be exported again.
    remedy_for_logits: ClassVar[str] = ""
    # What may be declared of it in lowbit.toml, and the values.
    options: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    sides: tuple[int, int]
    classes: int

    @classmethod
    @abstractmethod
    def recognise(cls, file: Interface) -> Iterator[Self]:
        """The head, if the file's outputs can be of this family; nothing otherwise.

        Raises :class:`InputError` where it must be this family and something is missing, naming the remedy.
        """

    @abstractmethod
    def decode(self, outputs: Sequence[NDArray[np.float32]]) -> Detections:
        """One image's outputs, in the graph's order, as detections in the input's pixels, at most 300 of a score of at
        least 0.001. Raises :class:`InputError` for other shapes."""

    def as_json(self) -> dict[str, Any]:
        """For keys and other processes; :func:`lowbit.detector.heads.of_json` reads it."""
        plain: dict[str, Any] = json.loads(json.dumps({"kind": self.kind, **asdict(self)}))
        return plain

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scores, if they can be probabilities. Raises :class:`InputError` for logits."""
        if scores.size and (scores.min() < -_BEYOND or scores.max() > 1 + _BEYOND):
            remedy = self.remedy_for_logits or "Export the detector with the sigmoid in its graph."
            raise InputError(
                f"a head of kind {self.kind} gives scores in [0, 1], these are {scores.min():.3g} to {scores.max():.3g}, as "
                f"logits are. {remedy}"
            )
        return scores

    def wrong(self, outputs: Sequence[NDArray[np.float32]]) -> InputError:
        """The error for outputs of other shapes than this head's."""
        found = ", ".join(" x ".join(map(str, output.shape)) for output in outputs)
        return InputError(f"a head of kind {self.kind} gives {self.form}, these outputs are {found}: wrong head kind.")


def take(outputs: Sequence[NDArray[np.float32]], head: Head, *shapes: tuple[int, ...]) -> Sequence[NDArray[np.float32]]:
    """The outputs, if their shapes are these; 0 stands for any length. Raises :class:`InputError` otherwise."""
    fits = len(outputs) == len(shapes) and all(
        len(output.shape) == len(shape)
        and all(want in (0, have) for want, have in zip(shape, output.shape, strict=True))
        for output, shape in zip(outputs, shapes, strict=True)
    )
    if not fits:
        raise head.wrong(outputs)
    return outputs


def anchored(shape: tuple[int, ...], anchors: int) -> tuple[int, bool]:
    """Values an anchor has in an output of one image, and whether anchors come first; no values for another output."""
    if len(shape) != 3 or shape[0] != 1 or anchors not in shape[1:]:
        return 0, False
    return (shape[1], False) if shape[2] == anchors else (shape[2], True)
