"""The build process: reads ``FOLDER/request.json``, writes ``FOLDER/model.onnx`` and ``FOLDER/outcome.json``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from lowbit import graph, worker
from lowbit.artifact import MODEL
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.errors import LowbitError
from lowbit.progress import Progress
from lowbit.quantize import Job, tool
from lowbit.source import take


def build(request: dict[str, Any], folder: Path, progress: Progress) -> dict[str, Any] | None:
    """Run one build, from a copy of its source that nobody changes meanwhile."""
    source, private = Path(request["source"]), folder / "source"
    try:
        info: dict[str, Any] | None = tool(request["tool"]).build(
            Job(
                scheme=request["scheme"],
                settings=request["settings"],
                source=take(source, request["identity"], private),
                identity=request["identity"],
                input=InputSpec.of_json(request["input"]),
                calibration=CalibrationSet(folder / worker.REQUEST, tuple(map(Path, request["calibration"]))),
                training=tuple(map(Path, request["training"])),
                training_labels=Path(request["training_labels"]) if request["training_labels"] else None,
                training_classes=tuple(request["training_classes"]),
                start=Path(request["start"]) if request["start"] else None,
                output=folder / MODEL,
                unfinished=Path(request["unfinished"]),
                progress=progress,
                trust=request["trust"],
            )
        )
    except LowbitError as error:
        # The user knows the file by the place where it lies.
        raise type(error)(f"{error}".replace(f"{private}/", f"{source.parent}/")) from error
    finally:
        shutil.rmtree(private, ignore_errors=True)
    if (folder / MODEL).is_file():
        graph.embed(folder / MODEL)
    return info


if __name__ == "__main__":
    raise SystemExit(worker.serve(build))
