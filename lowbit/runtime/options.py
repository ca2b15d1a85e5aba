"""What a session is made with, and which processors its threads get."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# What sessions are opened with unless one asks for another: ONNX Runtime on the CPU.
DEFAULT = "cpu"


def available_cores() -> int:
    """Cores that this process may use, at most 8: YOLOv10n at batch 1 gains nothing from more."""
    return min(len(os.sched_getaffinity(0)), 8)


@dataclass(frozen=True)
class SessionOptions:
    """What a session is made with; recorded with every result.

    ``runtime``: the name of one. ``threads``: intra-op threads, fixed so that timings repeat. ``config``: ONNX Runtime
    session configuration entries; ``provider_config``: the execution provider's options, or OpenVINO's properties.
    ``optimized``: False is ``ORT_DISABLE_ALL``, the parity reference.
    ``profile``: where to write ONNX Runtime's profile. ``cores``: the logical processor of every thread, the calling one's
    first (:func:`on_cores` puts it there); none leaves them to the operating system. ``cache``: where a runtime keeps what
    it compiles for an artifact; without it that ends with the process.
    """

    runtime: str = DEFAULT
    threads: int = field(default_factory=available_cores)
    config: tuple[tuple[str, str], ...] = ()
    provider_config: tuple[tuple[str, str], ...] = ()
    optimized: bool = True
    profile: Path | None = None
    cores: tuple[int, ...] = ()
    cache: Path | None = None

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "threads": self.threads,
            "affinity": list(self.cores) or None,
            "config": dict(self.config),
            "provider_config": dict(self.provider_config),
            "graph_optimization": "all" if self.optimized else "none",
        }


def one_a_core(count: int) -> tuple[int, ...]:
    """Logical processors that this process may use, one of every physical core before a second one of any."""
    seen: Counter[str] = Counter()
    found = []
    for number in sorted(os.sched_getaffinity(0)):
        try:
            siblings = Path(f"/sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list").read_text("utf-8")
        except OSError:  # each for itself
            siblings = str(number)
        found.append((seen[siblings], number))
        seen[siblings] += 1
    return tuple(number for _, number in sorted(found)[:count])


@contextmanager
def on_cores(options: SessionOptions) -> Iterator[None]:
    """Keep the calling thread on the first of ``options.cores`` meanwhile, if there are any; threads that it starts then
    inherit that."""
    before = os.sched_getaffinity(0)
    try:
        if options.cores:
            os.sched_setaffinity(0, options.cores[:1])
        yield
    finally:
        os.sched_setaffinity(0, before)
