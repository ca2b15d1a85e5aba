"""The build process: reads ``FOLDER/request.json``, writes ``FOLDER/model.onnx`` and ``FOLDER/outcome.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lowbit import graph
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.quantizers import Job, tool
from lowbit.store import worker


def build(request: dict[str, Any], folder: Path, progress: worker.Progress) -> dict[str, Any] | None:
    """Run one build."""
    job = Job(
        scheme=request["scheme"],
        settings=request["settings"],
        source=Path(request["source"]),
        identity=request["identity"],
        input=InputSpec.of_json(request["input"]),
        calibration=CalibrationSet(folder / worker.REQUEST, tuple(map(Path, request["calibration"]))),
        training=tuple(map(Path, request["training"])),
        training_labels=Path(request["training_labels"]) if request["training_labels"] else None,
        training_classes=tuple(request["training_classes"]),
        start=Path(request["start"]) if request["start"] else None,
        output=folder / "model.onnx",
        unfinished=Path(request["unfinished"]),
        progress=progress,
    )
    info: dict[str, Any] | None = tool(request["tool"]).build(job)
    if job.output.is_file():
        graph.embed(job.output)
    return info


if __name__ == "__main__":
    raise SystemExit(worker.serve(build))
