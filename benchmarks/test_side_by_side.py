"""lowbit's INT8 artifacts against what a user would otherwise take, in one run on this machine's CPU.

``pytest benchmarks/test_side_by_side.py --detector yolov10n``. Others are called as their own documentation shows, with
the same calibration images: ModelOpt's ``quantize`` and ONNX Runtime's ``quantize_static`` with their defaults, and
OpenVINO, plain and with NNCF's INT8, where it is installed (``pip install 'lowbit[openvino,nncf]'``). Every row is timed interleaved
with the plain FP32 export, one input at a time, and scored on the detector's data set.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from lowbit import host
from lowbit.data.letterbox import preprocess
from lowbit.evaluate import detector_name
from lowbit.measure.latency import interleave
from lowbit.measure.metrics import drop_interval
from lowbit.runtime import SessionOptions, deployed_options, find_runtime, open_session
from lowbit.schemes import CATALOGUE
from lowbit_pytest.options import detector_names
from lowbit_pytest.workbench import Workbench

PAIRS = 60
Images = list[NDArray[np.float32]]


def plain_modelopt(source: Path, name: str, images: Images, folder: Path) -> Any:
    from modelopt.onnx.quantization import quantize

    copied, target = shutil.copyfile(source, folder / "source.onnx"), folder / "modelopt.onnx"
    quantize(
        str(copied), quantize_mode="int8", calibration_data={name: np.concatenate(images)}, output_path=str(target)
    )
    return open_session(target, deployed_options("int8"))


def plain_ort(source: Path, name: str, images: Images, folder: Path) -> Any:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # ONNX Runtime has no types
        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            image = next(self.left, None)
            return None if image is None else {name: image}

    prepared, target = folder / "prepared.onnx", folder / "ort.onnx"
    quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
    quantize_static(str(prepared), str(target), Reader())
    return open_session(target, deployed_options("int8"))


def openvino_float(source: Path, name: str, _: Images, __: Path) -> Any:
    return open_session(source, openvino_options("fp32"))


def openvino_nncf(source: Path, name: str, images: Images, folder: Path) -> Any:
    options, target = openvino_options("int8"), folder / "nncf.xml"
    nncf = pytest.importorskip("nncf", reason="not installed: pip install 'lowbit[nncf]'")
    import openvino

    quantized = nncf.quantize(openvino.convert_model(str(source)), nncf.Dataset([{name: one} for one in images]))
    openvino.save_model(quantized, str(target))
    return open_session(target, options)


def openvino_options(precision: str) -> SessionOptions:
    """Those of lowbit's runtime. Skips where OpenVINO is not installed."""
    if reason := find_runtime("openvino").reason():
        pytest.skip(reason)
    return deployed_options(precision, "openvino")


OTHERS: dict[str, Callable[[Path, str, Images, Path], Any]] = {
    # Before ModelOpt, whose quantize replaces ONNX Runtime's calibrators in the whole process.
    "ONNX Runtime quantize_static, defaults": plain_ort,
    "ModelOpt, defaults": plain_modelopt,
    "OpenVINO, float": openvino_float,
    "OpenVINO, NNCF INT8": openvino_nncf,
}
OURS = ("fp32-lean", "int8-ort-minmax", "int8-ort-entropy", "int8-modelopt-entropy", "int8-modelopt-entropy-cpu")


@pytest.mark.parametrize("what", [*OURS, *OTHERS])
def test_side_by_side(
    what: str, workbench: Workbench, tmp_path: Path, pytestconfig: pytest.Config, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = detector_names(pytestconfig)[0]
    detector, dataset = workbench.detector(chosen), workbench.dataset(chosen)
    source = workbench.artifact(chosen, CATALOGUE["fp32"]).path
    reference = open_session(source, deployed_options("fp32"))
    name = reference.get_inputs()[0].name
    if what in OTHERS:
        paths = workbench.calibration(chosen).paths
        images = [preprocess(path, detector.input)[0] for path in paths]
        session = OTHERS[what](source, name, images, tmp_path)
    else:
        scheme = CATALOGUE[what]
        session = open_session(workbench.artifact(chosen, scheme).path, deployed_options(scheme.precision))
    tensor = workbench.inputs(chosen, 1)[0]
    speedup, _, _ = interleave(
        lambda: reference.run(None, {name: tensor}), lambda: session.run(None, {name: tensor}), pairs=PAIRS
    )
    both = [
        workbench.score(chosen, workbench.seen_by(one, chosen, what, in_turns=True))[0] if dataset.labelled else None
        for one in (reference, session)
    ]
    line = f"| {what} | {speedup.ratio:.2f}x [{speedup.low:.2f}, {speedup.high:.2f}] |"
    if both[0] and both[1]:
        low, high = drop_interval(both[0], both[1], len(dataset.images))
        line += f" {both[1].map:.4f} | {100 * (both[0].map - both[1].map):.2f} [{100 * low:.2f}, {100 * high:.2f}] |"
    with capsys.disabled():
        if what == OURS[0]:
            print(
                f"\n{detector_name(chosen)}, {len(dataset.images)} images of {dataset.name}; {host.name(with_gpu=False)}"
            )
            print("| what | speed-up over the FP32 export | AP | drop, points |\n|---|---:|---:|---:|")
        print(f"\n{line}", end="")
