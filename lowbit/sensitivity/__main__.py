"""The process of one combination: writes AutoQuant's state, the ranking beside the graph's own opinion, and the
configuration into ``FOLDER``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lowbit import worker
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.detector import rebuild
from lowbit.progress import Progress, Step
from lowbit.sensitivity import autoquant, find, native
from lowbit.source import take

# Every convolution twice, alone and left out alone: few images rank as many do.
_GRAPH_IMAGES = 4


def measure(request: dict[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
    """Score one combination."""
    from lowbit.detector.torch_module import fused

    identity = request["identity"]
    with tempfile.TemporaryDirectory() as private:
        source = take(Path(request["source"]), identity, Path(private))
        detector = rebuild(source, identity, trust=request["trust"])
        network = fused(detector)
    images = CalibrationSet(folder, tuple(map(Path, request["calibration"])))
    combination = find(request["combination"])
    progress(Step("calibrating"))
    batches = list(images.batches(InputSpec.of_json(request["input"])))
    ranking, config, changed = autoquant.measure(network, combination, batches, folder, progress)
    spec = InputSpec.of_json(request["graph_input"])
    floating = native.Graph(Path(request["graph"]), detector.head, spec, images.paths[:_GRAPH_IMAGES])
    beside = autoquant.Beside.of(ranking, floating, combination, progress)
    autoquant.write_report(folder, ranking, beside, combination, request["facts"], config)
    return {
        "layers": len(ranking),
        "preset": combination.preset,
        "overrides": autoquant.plain(changed),
        "rank_correlation": beside.opinions.correlation,
    }


if __name__ == "__main__":
    raise SystemExit(worker.serve(measure))
