"""How far a quantized graph's tensors are from the float graph's, on the same images.

Up to the raw head a tensor has one unit, and its SQNR says what is left of it. In the decode tail it has several: boxes
reach 640 and scores 1, and an SQNR over both says nothing of scores. From the raw head on every channel counts as much as
any other, if it varies enough in float to decide anything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowbit import graph
from lowbit.graph.nodes import inputs
from lowbit.measure.correspondence import INTEGERS, SHAPES, Correspondence, Pair
from lowbit.measure.emulation import Emulator
from lowbit.measure.metrics import DEPLOYED_CONFIDENCE
from lowbit.measure.parity import Differences, decibels
from lowbit.runtime import plain_session

if TYPE_CHECKING:
    import onnx

# A tensor with numbers that are not finite.
NOT_FINITE_DB = -99.0
# What varies by less in the decode tail decides nothing: scores that low are below the usual threshold, and boxes vary by
# pixels, or by shares of an image that no detection is right without.
_VISIBLE = DEPLOYED_CONFIDENCE
# Noise over power of a channel from which on nothing is left of it.
_LOST = 0.9
# What is read of both graphs at once, in bytes of either.
_AT_ONCE = 2**28


@dataclass
class Sums:
    """What is summed up of a tensor over images. ``heads``: numbers of channels that the raw head has."""

    heads: frozenset[int]
    differences: Differences = field(default_factory=Differences)
    noise: Any = 0.0
    squares: Any = 0.0
    total: Any = 0.0
    lowest: Any = np.inf
    highest: Any = -np.inf
    count: int = 0
    other_range: tuple[float, float] = (np.inf, -np.inf)
    not_finite: int = 0
    size: int = 0
    shape: tuple[int, ...] = ()

    def add(self, one: NDArray[np.float32], two: NDArray[np.float32]) -> None:
        finite = np.isfinite(one)
        broken = finite & ~np.isfinite(two)
        self.not_finite += int(broken.sum())
        self.size, self.shape = self.size + one.size, one.shape
        usable = finite & ~broken
        one, two = np.where(usable, one, np.float32(0)), np.where(usable, two, np.float32(0))
        self.differences.add([one], [two])
        rows = _rows(one, self.heads).astype(float)
        self.noise = self.noise + np.square(_rows(two, self.heads) - rows).sum(1)
        self.squares, self.total = self.squares + np.square(rows).sum(1), self.total + rows.sum(1)
        self.lowest, self.highest = np.minimum(self.lowest, rows.min(1)), np.maximum(self.highest, rows.max(1))
        self.count += rows.shape[1]
        low, high = self.other_range
        self.other_range = min(low, float(two.min())), max(high, float(two.max()))

    @property
    def range(self) -> tuple[float, float]:
        return float(np.min(self.lowest)), float(np.max(self.highest))

    @property
    def channels(self) -> int:
        return len(self.total)

    @property
    def _shares(self) -> NDArray[np.float64]:
        """Noise over power, 1 at most, of every visible channel."""
        power = self.squares - self.total**2 / self.count
        seen = self.highest - self.lowest >= _VISIBLE
        return np.asarray(np.minimum(self.noise[seen] / np.maximum(power[seen], 1e-300), 1))

    @property
    def visible(self) -> bool:
        """Whether any channel is."""
        return bool(self._shares.size)

    @property
    def lost(self) -> float:
        """Share of the visible channels of which nothing is left."""
        return float((self._shares >= _LOST).mean()) if self.visible else 0.0

    @property
    def balanced_db(self) -> float:
        """SQNR with every visible channel as heavy as any other."""
        return decibels(1.0, float(self._shares.mean())) if self.visible else np.inf


def channel_axis(shape: tuple[int, ...], heads: frozenset[int]) -> int:
    """Of three axes the one that has as many as a raw head, or the shorter one: the other has anchors."""
    if len(shape) != 3:
        return 1 if len(shape) == 4 else 0
    if (shape[1] in heads) != (shape[2] in heads):
        return 1 if shape[1] in heads else 2
    return 1 if shape[1] <= shape[2] else 2


def _rows(values: NDArray[np.float32], heads: frozenset[int]) -> NDArray[np.float32]:
    """[channels, rest] of one image's tensor."""
    axis = channel_axis(values.shape, heads)
    return np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)


@dataclass(frozen=True)
class Measured:
    """Sums and dB by tensor."""

    sums: dict[str, Sums]
    db: dict[str, float]
    skipped: dict[str, int]


class Reading:
    """Named tensors of a model, of floats, whatever their type is there."""

    def __init__(self, model: onnx.ModelProto, pairs: Sequence[Pair]) -> None:
        import onnx

        copied = onnx.ModelProto()
        copied.CopyFrom(model)
        there = {value.name for value in model.graph.output}
        self.pairs, self._places = list(pairs), {}
        for number, pair in enumerate(pairs):
            place = pair.other
            if pair.scale:
                place = f"lowbit/read/{number}"
                reads = [name for name in (pair.other, pair.scale, pair.zero) if name]
                copied.graph.node.append(onnx.helper.make_node("DequantizeLinear", reads, [place], name=place))
            self._places[pair.name] = place
        wanted = [name for name in dict.fromkeys(self._places.values()) if name not in there]
        copied.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in wanted)
        self._session = plain_session(copied, optimized=False)
        self._feed = inputs(model)[0].name

    def read(self, names: Sequence[str], image: NDArray[np.float32]) -> list[NDArray[Any]]:
        """Of one image, by the float graph's names."""
        found: list[NDArray[Any]] = self._session.run([self._places[name] for name in names], {self._feed: image})
        return found


class Emulated:
    """The same as an x86 processor computes it."""

    def __init__(self, emulator: Emulator, pairs: Sequence[Pair], *, vnni: bool) -> None:
        self._emulator, self.pairs, self._vnni = emulator, list(pairs), vnni
        self._places = {pair.name: pair.other for pair in pairs}

    def read(self, names: Sequence[str], image: NDArray[np.float32]) -> list[NDArray[Any]]:
        outputs = [self._places[name] for name in names]
        return list(self._emulator.run(image, vnni=self._vnni, outputs=outputs))


class Divergence:
    """A reading of the float graph, to compare others with. ``tail``: names of the paired tensors behind the raw head;
    ``mixed``: these and the raw head, whose channels have several units."""

    def __init__(
        self,
        reference: onnx.ModelProto,
        found: Correspondence,
        against: Reading | Emulated,
        images: Sequence[NDArray[np.float32]],
    ) -> None:
        self.found, self.images = found, images
        self._against = against
        behind, heads = set(graph.decode_tail(reference)), graph.head_outputs(reference)
        self.tail = {pair.name for pair in found.pairs if pair.node in behind}
        self.mixed = self.tail.union(heads)
        shapes = graph.shapes(reference)
        self._sizes = {name: int(np.prod(shape)) for name, shape in shapes.items()}
        self.heads = frozenset(shapes[name][1] for name in heads if len(shapes.get(name, ())) == 4)

    def measure(self, reading: Reading | Emulated) -> Measured:
        """Every tensor that can be compared."""
        sums: dict[str, Sums] = {}
        skipped = Counter(self.found.skipped)
        for names in self._portions([pair.name for pair in reading.pairs]):
            for image in self.images:
                ones, twos = self._against.read(names, image), reading.read(names, image)
                for name, one, two in zip(names, ones, twos, strict=True):
                    if one.dtype.kind not in "fV" or one.ndim < 2:
                        continue  # a count, a place or a number alone
                    if two.dtype.kind not in "fV":
                        skipped[INTEGERS] += image is self.images[0]
                    elif one.shape != two.shape:
                        skipped[SHAPES] += image is self.images[0]
                    elif one.size:
                        sums.setdefault(name, Sums(self.heads)).add(one.astype(np.float32), two.astype(np.float32))
        db = {name: self.db(name, one) for name, one in sums.items()}
        return Measured(sums, db, dict(skipped))

    def values(self, name: str) -> Iterator[NDArray[np.float32]]:
        """A tensor of the float graph, image by image."""
        for image in self.images:
            yield self._against.read([name], image)[0].astype(np.float32)

    def db(self, name: str, sums: Sums) -> float:
        """A tensor's SQNR; where its channels have several units, theirs if it is less."""
        if sums.not_finite:
            return NOT_FINITE_DB
        db = sums.differences.sqnr_db
        return max(min(db, sums.balanced_db) if name in self.mixed else db, NOT_FINITE_DB)

    def _portions(self, names: Sequence[str]) -> Iterator[list[str]]:
        portion, size = [], 0
        for name in names:
            portion.append(name)
            size += 4 * self._sizes.get(name, 0)
            if size > _AT_ONCE:
                yield portion
                portion, size = [], 0
        if portion:
            yield portion
