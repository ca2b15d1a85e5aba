"""Long work in a process of its own: its crash, kill or hang is an exception here and nothing worse.

The parent's side is :func:`run`, the child's :func:`serve`; between them lie ``request.json``, ``progress`` and
``outcome.json`` in a folder.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lowbit import files
from lowbit.errors import BuildError, InputError, LowbitError, UnavailableError
from lowbit.progress import Progress, Step

REQUEST, OUTCOME, PROGRESS = "request.json", "outcome.json", "progress"
# How many threads torch adds with decides the last digits of its sums. Ultralytics sets this to 1 for whoever imports it,
# and what a build gives must not depend on what its parent imported before: it has what the process began with.
_THREADS = "OMP_NUM_THREADS"
BEGAN_WITH = {_THREADS: os.environ[_THREADS]} if _THREADS in os.environ else {}
_LOG_LINES = 25
_PR_SET_PDEATHSIG = 1  # prctl(2)


def threads() -> str:
    """With how many threads torch adds in the processes that :func:`run` starts, as OpenMP reads it."""
    return BEGAN_WITH.get(_THREADS) or str(len(os.sched_getaffinity(0)))


@dataclass(frozen=True)
class Work:
    """What is run. ``module``: ``python -m`` it; ``title`` begins error messages; ``folder``: where the two meet;
    ``log``: gets what it prints; ``timeout``: seconds that it may take."""

    module: str
    title: str
    folder: Path
    log: Path
    timeout: float


def run(work: Work, request: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run it to its end; returns ``{"info": what its body returned, "peak_rss_bytes": ...}``.

    Raises :class:`BuildError` with the log's end if it fails, whatever way it does, and what the body says of bad input
    or of what this machine can't do.
    """
    files.write_json(work.folder / REQUEST, request)
    environment = {
        **{name: value for name, value in os.environ.items() if name != _THREADS},
        **BEGAN_WITH,
        "PYTHONHASHSEED": "0",  # tools iterate over sets of node names; the same input must give the same bytes
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]).rstrip(
            os.pathsep
        ),
    }
    with work.log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", work.module, str(work.folder)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            _watch(process, work, progress)
        except BaseException:
            _stop(process)
            raise
    outcome_file = work.folder / OUTCOME
    outcome: dict[str, Any] = {}
    if outcome_file.is_file():
        outcome = json.loads(outcome_file.read_text(encoding="utf-8"))
    if process.returncode == 0 and outcome.get("status") == "built":
        for name in (REQUEST, OUTCOME, PROGRESS):
            (work.folder / name).unlink(missing_ok=True)
        return outcome
    kinds: dict[str, type[LowbitError]] = {"InputError": InputError, "UnavailableError": UnavailableError}
    if outcome.get("kind") in kinds:
        raise kinds[outcome["kind"]](outcome["message"])
    raise BuildError(
        f"{work.title} {_ending(process.returncode)}"
        + (f": {outcome['message']}" if "message" in outcome else "")
        + f"\nThe log ends:\n{tail(work.log)}"
    )


def serve(body: Callable[[dict[str, Any], Path, Progress], dict[str, Any] | None]) -> int:
    """The child's side: run ``body(request, folder, progress)`` on ``sys.argv[1]``; the process' exit status."""
    if sys.platform == "linux":
        # Work whose caller was killed must not go on: nobody would publish it, and it would hold the machine.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    folder = Path(sys.argv[1])
    request = json.loads((folder / REQUEST).read_text(encoding="utf-8"))
    outcome: dict[str, Any]
    try:
        # Not a lambda: a tool may hand it to processes of its own.
        outcome = {"status": "built", "info": body(request, folder, partial(_report, folder / PROGRESS)) or {}}
    except Exception as error:
        traceback.print_exc()
        kind = type(error).__name__ if isinstance(error, LowbitError) else "BuildError"
        outcome = {"status": "failed", "kind": kind, "message": f"{error}" or type(error).__name__}
    # Kibibytes on Linux: getrusage(2).
    outcome["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    files.write_json(folder / OUTCOME, outcome)
    return 0 if outcome["status"] == "built" else 1


def _report(path: Path, step: Step) -> None:
    path.write_text(json.dumps(step), encoding="utf-8")


def _reported(path: Path) -> Step | None:
    """The last step that the child reported; None before the first, and while one is being written."""
    try:
        return Step(*json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _watch(process: subprocess.Popen[bytes], work: Work, progress: Progress) -> None:
    deadline = time.monotonic() + work.timeout
    last: Step | None = None
    while True:
        try:
            process.wait(timeout=0.2)
            return
        except subprocess.TimeoutExpired:
            pass
        if time.monotonic() > deadline:
            raise BuildError(
                f"{work.title} took longer than {work.timeout:.0f} s and was stopped. Allow more with --build-timeout."
                f"\nThe log ends:\n{tail(work.log)}"
            )
        step = _reported(work.folder / PROGRESS)
        if step is not None and step != last:
            last = step
            progress(step)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the work and everything that it started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _ending(code: int) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else str(-code)
        hint = " (often the kernel's answer to too little memory)" if -code == signal.SIGKILL else ""
        return f"was ended by {name}{hint}"
    return f"failed (exit status {code})"


def tail(log: Path) -> str:
    """The last lines of a log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return "(no log)"
    return "\n".join(line[:400] for line in lines[-_LOG_LINES:])
