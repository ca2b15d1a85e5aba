"""``expected_failures.toml``: what is known to fail, on which weights and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from lowbit import toml
from lowbit.gate.limits import Fraction, Weights
from lowbit.gate.verdict import points

# The test whose failures are a drop of mAP, and so have a bound.
MAP_TEST = "test_map_drop"
_Text = Annotated[str, Field(min_length=1)]


class ExpectedFailure(toml.Table):
    """A scheme that is known to miss a test on a detector: data with a measured reason, and what the failure says.

    ``weights``: SHA-256 of the detector's weights that it was measured on; of any file of that name without.
    ``runtimes``: all without. ``drop_at_most``: a fraction of mAP, the upper end of what was measured; a larger drop is
    another failure.
    """

    detector: _Text
    weights: tuple[Weights, ...] = ()
    scheme: _Text
    runtimes: Annotated[tuple[_Text, ...], Field(min_length=1)] | None = None
    test: _Text
    exception: _Text
    text: _Text
    drop_at_most: Fraction | None = None
    reason: _Text

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.test == MAP_TEST and self.drop_at_most is None:
            raise ValueError(f"{self.scheme} on {self.detector} has no drop_at_most")
        return self

    def owned_by(self, detector: str, weights: str) -> bool:
        """Whether it was measured on a detector of this name and these weights (SHA-256)."""
        return weights in self.weights if self.weights else self.detector == detector

    def on(self, runtime: str) -> bool:
        """Whether it holds on a runtime."""
        return self.runtimes is None or runtime in self.runtimes

    def exceeded(self, drop: float | None) -> str | None:
        """Why a drop is worse than what is expected, or None. ``drop``: None where the test failed before it was known."""
        if self.drop_at_most is None or (drop is not None and drop <= self.drop_at_most):
            return None
        lost = "failed before its drop was measured" if drop is None else f"dropped {points(drop)} points"
        return f"{lost}, and at most {points(self.drop_at_most)} points were expected ({self.reason})"


class ExpectedFailures(toml.Table):
    """A whole file."""

    expected: tuple[ExpectedFailure, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        keys = [(e.detector, e.weights, e.scheme, e.test, r) for e in self.expected for r in e.runtimes or (None,)]
        if len(set(keys)) != len(keys):
            raise ValueError("two entries expect the same test to fail")
        return self


def load_expected_failures(path: Path) -> tuple[ExpectedFailure, ...]:
    """Read ``[[expected]]`` entries. Raises :class:`InputError` for missing, unknown or repeated ones."""
    remedy = "Fix the entry, or have the file written from a run: lowbit expectations update RUN."
    return toml.read(path, ExpectedFailures, remedy).expected
