"""The errors that lowbit raises, by who can fix them."""

from __future__ import annotations


class LowbitError(Exception):
    """Base of every error that lowbit raises on purpose; its text names the file, the value and the remedy."""


class InputError(LowbitError):
    """Something that the user gave cannot be used: fix the file or the option that the text names."""


class UnavailableError(LowbitError):
    """This machine, provider or installation cannot do what was asked: the suite turns it into a skip."""


class BuildError(LowbitError):
    """A build of an artifact ended without one: an exception, a crash, a kill, out of memory or out of time."""


class StoreError(LowbitError):
    """The artifact store cannot be read or written."""


class MetricError(LowbitError):
    """Two implementations of one metric disagree on the same detections: lowbit or the other one is wrong."""
