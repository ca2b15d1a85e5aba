"""What a session is made with, and which processors its threads get."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "trt": "TensorrtExecutionProvider",
}


def available_cores() -> int:
    """Cores that this process may use, at most 8: YOLOv10n at batch 1 gains nothing from more."""
    return min(len(os.sched_getaffinity(0)), 8)


@dataclass(frozen=True)
class SessionOptions:
    """What a session is made with; recorded with every result.

    ``threads``: intra-op threads, fixed so that timings repeat. ``config``: ONNX Runtime session configuration entries;
    ``provider_config``: the execution provider's options. ``optimized``: False is ``ORT_DISABLE_ALL``, the parity reference.
    ``profile``: where to write ONNX Runtime's profile. ``cores``: the logical processor of every thread, the calling one's
    first (:func:`on_cores` puts it there); none leaves them to the operating system.
    """

    provider: str = "cpu"
    threads: int = field(default_factory=available_cores)
    config: tuple[tuple[str, str], ...] = ()
    provider_config: tuple[tuple[str, str], ...] = ()
    optimized: bool = True
    profile: Path | None = None
    cores: tuple[int, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "provider": PROVIDERS[self.provider],
            "threads": self.threads,
            "affinity": list(self.cores) or None,
            "config": dict(self.config),
            "provider_config": dict(self.provider_config),
            "graph_optimization": "all" if self.optimized else "none",
        }


def pinned(options: SessionOptions) -> SessionOptions:
    """The same with a processor for every thread, for timing; threads that wander between cores wander in time.

    As they are on a GPU provider, whose threads wait for the device.
    """
    return replace(options, cores=_one_a_core(options.threads)) if options.provider == "cpu" else options


def _one_a_core(count: int) -> tuple[int, ...]:
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


def for_many(options: SessionOptions) -> SessionOptions:
    """The options with which a session sees many pictures soonest: on the CPU one thread a picture. ONNX Runtime's kernels
    divide a tensor among threads and never a sum, so what it computes is the same."""
    return replace(options, threads=1) if options.provider == "cpu" else options
