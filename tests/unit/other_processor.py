"""ONNX Runtime on an emulated x86 processor with AVX2, without AVX512 and VNNI."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import pytest
from numpy.typing import NDArray

from tests.unit.waiting import PATIENCE

EMULATOR, PROCESSOR = "qemu-x86_64", "Haswell"
needed = pytest.mark.skipif(
    shutil.which(EMULATOR) is None or sys.platform != "linux",
    reason=f"needs {EMULATOR} (Debian: apt-get install qemu-user)",
)
# What runs there: it needs nothing of lowbit.
_PROGRAM = """
import pickle, sys, onnxruntime
found = []
for config, model, feed in pickle.load(open(sys.argv[1], "rb")):
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    for key, value in config:
        settings.add_session_config_entry(key, value)
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    found.append(session.run(None, feed)[0])
pickle.dump(found, open(sys.argv[2], "wb"))
"""
Run = tuple[Sequence[tuple[str, str]], onnx.ModelProto, dict[str, NDArray[Any]]]


def run(runs: Sequence[Run], folder: Path) -> list[NDArray[Any]]:
    """The first output of every run: session configuration entries, model and inputs."""
    asked, answered = folder / "asked", folder / "answered"
    asked.write_bytes(pickle.dumps([(config, model.SerializeToString(), feed) for config, model, feed in runs]))
    python(_PROGRAM, str(asked), str(answered))
    return list(pickle.loads(answered.read_bytes()))


def python(program: str, *arguments: str) -> str:
    """What a Python program prints there."""
    command = [EMULATOR, "-cpu", PROCESSOR, sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=PATIENCE).stdout
