"""The build process: reads ``FOLDER/request.json``, writes ``FOLDER/model.onnx`` and ``FOLDER/outcome.json``."""

from __future__ import annotations

import ctypes
import json
import resource
import signal
import sys
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from lowbit import files
from lowbit.datasets import CalibrationSet
from lowbit.errors import LowbitError
from lowbit.imaging import InputSpec
from lowbit.quantizers import Job, tool

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> int:
    """Run one build. Exit status 0 with an artifact, 1 without."""
    if sys.platform == "linux":
        # A build whose caller was killed must not go on: nobody would publish it, and it would hold the machine.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text(encoding="utf-8"))
    job = Job(
        scheme=request["scheme"],
        settings=request["settings"],
        source=Path(request["source"]),
        identity=request["identity"],
        input=InputSpec.of_json(request["input"]),
        calibration=CalibrationSet(folder / "request.json", tuple(map(Path, request["calibration"]))),
        training=tuple(map(Path, request["training"])),
        training_labels=Path(request["training_labels"]) if request["training_labels"] else None,
        start=Path(request["start"]) if request["start"] else None,
        output=folder / "model.onnx",
        unfinished=Path(request["unfinished"]),
        # Not a lambda: a tool may hand it to processes of its own.
        progress=partial(_say, folder / "progress"),
    )
    outcome: dict[str, Any]
    try:
        info = tool(request["tool"]).build(job)
        outcome = {"status": "built", "info": info or {}}
    except Exception as error:
        traceback.print_exc()
        kind = type(error).__name__ if isinstance(error, LowbitError) else "BuildError"
        outcome = {"status": "failed", "kind": kind, "message": f"{error}" or type(error).__name__}
    # Kibibytes on Linux: getrusage(2).
    outcome["peak_rss_bytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    files.write_json(folder / "outcome.json", outcome)
    return 0 if outcome["status"] == "built" else 1


def _say(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
