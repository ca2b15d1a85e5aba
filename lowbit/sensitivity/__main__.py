"""The process of one combination: writes AutoQuant's state, its ranking next to the ONNX graph's, and the configuration into
``FOLDER``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from lowbit import worker
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet
from lowbit.detector import rebuild
from lowbit.progress import Progress, Step
from lowbit.sensitivity import autoquant, fake_quant, find_combination
from lowbit.source import take

# Every convolution takes two runs, alone and leave-one-out. A few images give the same ranking as many.
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
    combination = find_combination(request["combination"])
    progress(Step("calibrating"))
    batches = list(images.batches(InputSpec.of_json(request["input"])))
    ranking, config, changed = autoquant.measure(network, combination, batches, folder, progress)
    spec = InputSpec.of_json(request["graph_input"])
    floating = fake_quant.FloatGraph(Path(request["graph"]), detector.head, spec, images.paths[:_GRAPH_IMAGES])
    on_graph = autoquant.GraphSensitivity.of(ranking, floating, combination, progress)
    autoquant.write_report(folder, ranking, on_graph, combination, request["facts"], config)
    return {
        "layers": len(ranking),
        "preset": combination.preset,
        "overrides": autoquant.plain(changed),
        "rank_correlation": on_graph.comparison.correlation,
    }


if __name__ == "__main__":
    raise SystemExit(worker.serve(measure))
