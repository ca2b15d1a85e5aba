"""Whether a sensitivity ranking beats chance: ``python -m benchmarks.top_k --detector yolov10n``.

All convolutions at 4 bits, rounded to nearest, but K at 8 bits: the K most sensitive of the ranking on calibration
images, against random choices of equal size. Measured on the detector's data set with the ONNX graph.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx

from lowbit.evaluate import Evaluation, Given
from lowbit.runtime import DEFAULT, SessionOptions, find_runtime, open_session
from lowbit.schemes import CATALOGUE
from lowbit.sensitivity import fake_quant, layerwise
from lowbit.store.store import Store, default_root

IMAGES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--detector", default="shapes10n")
    parser.add_argument("--k", type=int, action="append", help="repeatable (10 and 20)")
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    evaluation, name = Evaluation(Store(default_root()), Given(), lambda _: None), options.detector
    detector, dataset, calibration = evaluation.detector(name), evaluation.dataset(name), evaluation.calibration(name)
    path = evaluation.artifact(name, CATALOGUE["fp32"]).path
    floating = fake_quant.FloatGraph(path, detector.head, detector.input, calibration.paths[:IMAGES])
    ranking = layerwise.most_sensitive(
        layerwise.sqnr_alone(floating, "int4", fake_quant.WEIGHTS_ONLY, progress=lambda _: None), len(floating.nodes)
    )

    def accuracy(eight: Collection[str]) -> float:
        dtypes = {name: "int8" if name in eight else "int4" for name in floating.nodes}
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder) / "model.onnx"
            onnx.save(floating.quantized(dtypes, fake_quant.WEIGHTS_ONLY), str(target))
            session = open_session(target, find_runtime(DEFAULT).for_many(SessionOptions()))
            return evaluation.score(name, evaluation.seen_by(session, name, target.name))[0].map

    print(f"{detector.name}, {len(dataset.images)} images of {dataset.name}, {IMAGES} calibration images")
    print("| K | most sensitive | mean of random | standard deviation | draws |\n|---:|---:|---:|---:|---:|")
    for count in options.k or (10, 20):
        top = accuracy(ranking[:count])
        rng = np.random.default_rng(0)
        draws = [accuracy(set(rng.choice(ranking, count, replace=False))) for _ in range(options.draws)]
        print(
            f"| {count} | {top:.4f} | {np.mean(draws):.4f} | {np.std(draws, ddof=1):.4f} | {len(draws)} |", flush=True
        )


if __name__ == "__main__":
    main()
