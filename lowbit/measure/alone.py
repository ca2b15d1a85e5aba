"""What an artifact costs whoever deploys it, measured in processes of its own: the memory that it adds, the time that it
takes to load, and its speed-up over several processes.

In the process of the gate they would be wrong: other sessions' memory is there, and libraries are warm. And all runs of one
process share how its memory came to lie, and with it their speed, so that one process says nothing of the next.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowbit import worker
from lowbit.errors import BuildError, LowbitError
from lowbit.measure import latency
from lowbit.progress import Progress
from lowbit.runtime import SessionOptions, find_runtime, on_cores, open_session

PROCESSES = 3
# Of interleaved runs in every process.
PAIRS = 40
# What a session allocates in its runs is there after a few.
RUNS = 10
TIMEOUT = 1800.0
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Footprint:
    """``load_seconds``: from the file to a session that can run, the median of the ``processes``; the file is in the page
    cache, and the runtime's library is imported before. ``memory_bytes``: by how much loading and :data:`RUNS` runs raise
    the peak of the process' resident memory, the largest of them; on a GPU the host's part. ``peak_rss_bytes``: of the
    whole process, Python and the runtime's library among it."""

    load_seconds: float
    memory_bytes: int
    peak_rss_bytes: int
    processes: int


@dataclass(frozen=True, slots=True)
class ProcessSpeedup:
    """Reference time over candidate time. ``ratio``: the geometric mean of ``by_process``, each the median of interleaved
    pairs in a process of its own. ``interval``: two-sided, 95 %; ``bounds``: one-sided 95 % bounds, lower and upper."""

    ratio: float
    interval: tuple[float, float]
    bounds: tuple[float, float]
    by_process: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Deployed:
    """A file and the options of its session."""

    path: Path
    options: SessionOptions


def footprint(one: Deployed, tensor: NDArray[np.float32], progress: Progress) -> Footprint:
    """Load and run an artifact in :data:`PROCESSES` processes, one after the other. ``tensor``: float32 [1, 3, S, S].

    Raises :class:`LowbitError` with the end of the process' log.
    """
    found = [_process(one, None, tensor, progress) for _ in range(PROCESSES)]
    return Footprint(
        float(np.median([one["load_seconds"] for one in found])),
        max(one["memory_bytes"] for one in found),
        max(one["peak_rss_bytes"] for one in found),
        PROCESSES,
    )


def speedup(
    reference: Deployed, candidate: Deployed, tensor: NDArray[np.float32], progress: Progress
) -> ProcessSpeedup:
    """Compare two artifacts' speed in :data:`PROCESSES` processes, interleaved in each. ``tensor``: float32 [1, 3, S, S].

    Raises :class:`LowbitError` with the end of the process' log.
    """
    return over_processes([_process(candidate, reference, tensor, progress)["ratio"] for _ in range(PROCESSES)])


def over_processes(ratios: Sequence[float]) -> ProcessSpeedup:
    """A speed-up of the ratios of at least two processes, which are what is independent: Student's t on their logarithms
    (Kalibera and Jones, Rigorous benchmarking in reasonable time, ISMM 2013: the interval is that of the highest level's
    means)."""
    from scipy.stats import t

    logs, freedom = np.log(ratios), len(ratios) - 1
    mean, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(ratios))

    def between(tail: float) -> tuple[float, float]:
        reach = float(t.ppf(1 - tail, freedom)) * error
        return math.exp(mean - reach), math.exp(mean + reach)

    return ProcessSpeedup(math.exp(mean), between(0.025), between(0.05), tuple(map(float, ratios)))


def _process(
    candidate: Deployed, reference: Deployed | None, tensor: NDArray[np.float32], progress: Progress
) -> dict[str, Any]:
    """What one process says: :func:`_measure`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "input.npy", tensor)
        request = {"candidate": _as_json(candidate), "reference": _as_json(reference) if reference else None}
        work = worker.Work("lowbit.measure.alone", f"measuring {candidate.path.name}", folder, folder / "log", TIMEOUT)
        try:
            info: dict[str, Any] = worker.run(work, request, progress)["info"]
        except BuildError as error:  # nothing was built
            raise LowbitError(str(error)) from error
    return info


def _as_json(one: Deployed) -> dict[str, Any]:
    return {"path": str(one.path), "options": {**asdict(one.options), "profile": None}}


def _of_json(given: dict[str, Any]) -> Deployed:
    options = given["options"]
    pairs = {name: tuple(map(tuple, options[name])) for name in ("config", "provider_config")}
    return Deployed(Path(given["path"]), SessionOptions(**{**options, **pairs, "cores": tuple(options["cores"])}))


def _measure(request: dict[str, Any], folder: Path, _: Progress) -> dict[str, Any]:
    """The process' side: load, run, and compare with the reference if there is one, which is loaded last."""
    candidate = _of_json(request["candidate"])
    tensor = np.load(folder / "input.npy")
    # It looks for its library, and so imports it.
    find_runtime(candidate.options.runtime).reason()
    with on_cores(candidate.options):
        before = _start_of_peak()
        start = time.perf_counter()
        session = open_session(candidate.path, candidate.options)
        loaded = time.perf_counter() - start
        run = session.timed_run(tensor)
        for _run in range(RUNS):
            run()
        peak = _memory("VmHWM")
        found: dict[str, Any] = {"load_seconds": loaded, "memory_bytes": peak - before, "peak_rss_bytes": peak}
        if request["reference"]:
            reference = _of_json(request["reference"])
            other = open_session(reference.path, reference.options).timed_run(tensor)
            found["ratio"] = latency.interleave(other, run, pairs=PAIRS)[0].ratio
    return found


def _start_of_peak() -> int:
    """Forget the peak of resident memory so far, and return what is resident now, in bytes. Where the kernel does not let a
    process forget it (proc(5), clear_refs), a peak of the imports may count."""
    with contextlib.suppress(OSError):
        _CLEAR.write_text("5", "ascii")
    return _memory("VmRSS")


def _memory(field: str) -> int:
    """A size in bytes of ``/proc/self/status``, which has kibibytes: proc(5)."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text("ascii"), re.MULTILINE)
    if found is None:
        raise LowbitError(f"{_STATUS} has no {field}: memory and load time are measured on Linux only.")
    return int(found[1]) * 1024


if __name__ == "__main__":
    raise SystemExit(worker.serve(_measure))
