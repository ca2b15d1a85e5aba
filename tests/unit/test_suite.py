"""The suite as a user runs it, end to end, on a toy detector: exit codes, results, skips, refusals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lowbit import host, results
from lowbit_pytest.baselines import folder_name
from lowbit_pytest.options import QUICK_IMAGES
from tests.unit import toys
from tests.unit.waiting import PATIENCE

ROOT = Path(__file__).parents[2]


class Toy:
    """A folder with a toy detector, its data, a store and runs, and pytest to run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.detector = toys.make_detector(folder / "toy.onnx")
        self.dataset = toys.make_dataset(folder / "val")
        self.calibration = toys.make_calibration(folder / "calibration")

    def pytest(
        self, *arguments: str | Path, stdout: int = subprocess.PIPE, **replace: Path
    ) -> subprocess.CompletedProcess[str]:
        given = {"detector": self.detector, "dataset": self.dataset, "calibration": self.calibration, **replace}
        options = [f"--{name}={value}" for name, value in given.items()]
        folders = [f"--store={self.folder / 'store'}", f"--runs={self.folder / 'runs'}"]
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, *folders, *map(str, arguments)]
        # The session is its own, also when a worker of another one runs this test.
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
        environment = {**kept, "GITHUB_STEP_SUMMARY": str(self.folder / "step.md")}
        return subprocess.run(
            command,
            cwd=ROOT,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE,
            check=False,
            env=environment,
        )

    def results(self) -> results.Results:
        return results.read(self.folder / "runs" / "latest" / "results.json")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("toy"))


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """``plugin(name, code)``: a plugin of pytest that the next sessions load with ``-p name``."""

    def write(name: str, code: str) -> None:
        (tmp_path / f"{name}.py").write_text(code)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    return write


FLOAT = "fp32 and not lean and not cuda and not trt and not openvino"
SCHEMES = "(fp32 or int8-ort-minmax) and not lean"


def test_a_gate_passes_and_says_all_of_it(toy: Toy) -> None:
    done = toy.pytest("tests/test_accuracy.py", "tests/test_latency.py", "-k", SCHEMES)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = {(e.scheme, e.provider): e for e in toy.results().entries}
    reference, quantized = entries["fp32", "cpu"], entries["int8-ort-minmax", "cpu"]
    assert [e.map_pycocotools for e in (reference, quantized)] == [reference.map, quantized.map] == [1.0, 1.0]
    assert quantized.drop == 0.0
    assert reference.operating_point is None and quantized.operating_point is not None
    assert quantized.operating_point.confidence == 0.25
    assert quantized.operating_point.same_precision is not None
    assert quantized.operating_point.same_precision.at.threshold == 0.25  # the toy's detections are all sure
    assert quantized.status == results.Status.PASSED
    assert quantized.images == 6
    assert quantized.artifact is not None
    assert quantized.artifact.quantized_fraction > 0.99  # all but the first convolution
    assert [left.rewrite for left in quantized.artifact.left_out] == ["lean decode tail"]
    assert quantized.latency is not None
    assert quantized.latency.p50 <= quantized.latency.p99
    assert quantized.latency.speedup_ci is not None
    assert quantized.latency.end_to_end is not None and min(quantized.latency.end_to_end.values()) > 0
    assert quantized.latency.batched is not None and quantized.latency.batched["batch"] == 8
    summary = (toy.folder / "runs" / "latest" / "summary.md").read_text()
    assert "| int8-ort-minmax | 1.0000 |" in summary
    assert "- Left out of `int8-ort-minmax`: lean decode tail (" in summary
    assert "Ship" in summary or "loses least" in summary
    assert (toy.folder / "step.md").read_text() == summary
    folder = toy.folder / "runs" / "latest"
    page = (folder / "report.html").read_text()
    assert re.search(r"<td>\d+ \(\d+\.\d\dx\)</td>", page)
    assert "The gate is open" in page and "int8-ort-minmax" in page and "<svg" in page
    assert (folder / "detections" / "toy-int8-ort-minmax.npz").is_file()
    assert next((folder / "artifacts" / "int8-ort-minmax").iterdir()).resolve().is_dir()


def test_timings_run_last_and_on_the_same_cores(toy: Toy, tmp_path: Path, plugin: Callable[[str, str], None]) -> None:
    """Whatever order pytest gives to the parameters of its session fixtures; what ran is read, not what was collected."""
    plugin("cores", CORES)
    files = ("tests/test_latency.py", "tests/test_accuracy.py", "tests/test_artifact.py")
    chosen = f"{SCHEMES} and not cuda and not trt and not openvino"
    done = toy.pytest(*files, "-k", chosen, "-v", "-p", "cores")
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"^tests/(test_\w+)\.py::\S+ PASSED", done.stdout, re.MULTILINE)
    timed = [name == "test_latency" for name in ran]
    assert timed.count(True) == 2 and timed.count(False) > 2
    assert timed == sorted(timed), ran
    cores = re.findall(r"(end_to_end|interleave) on (\[.*\])", (tmp_path / "cores.txt").read_text())
    assert {name for name, _ in cores} == {"end_to_end", "interleave"}
    assert len({where for _, where in cores}) == 1, cores


# A plugin that writes down where the thread that times was allowed to run.
CORES = """
import functools
import os
from pathlib import Path

from lowbit.measure import latency


def watched(time):
    @functools.wraps(time)
    def run(*arguments, **options):
        with Path(__file__).with_suffix(".txt").open("a") as stream:
            print(time.__name__, "on", sorted(os.sched_getaffinity(0)), file=stream)
        return time(*arguments, **options)

    return run


latency.end_to_end = watched(latency.end_to_end)
latency.interleave = watched(latency.interleave)
"""


def test_the_second_run_builds_nothing_and_workers_share_one_run(toy: Toy) -> None:
    before = {p: p.stat().st_mtime_ns for p in (toy.folder / "store" / "artifacts").rglob("*")}
    done = toy.pytest("tests/test_accuracy.py", "-k", SCHEMES, "-n", "2", "-m", "not latency and not gpu")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {p: p.stat().st_mtime_ns for p in (toy.folder / "store" / "artifacts").rglob("*")} == before
    entries = [entry for entry in toy.results().entries if entry.on_default]
    assert {e.scheme: e.map for e in entries} == {"fp32": 1.0, "int8-ort-minmax": 1.0}


def test_a_wrong_field_fails_in_the_test_that_records_it(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    """Named, and not when the run is written, which would lose what the test recorded before."""
    plugin("wrong", "from lowbit import entries\nentries.scored = lambda case, _: entries.part(case, mapp=0.5)\n")
    done = toy.pytest("tests/test_accuracy.py", "-k", FLOAT, "-n", "1", "-p", "wrong")
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert entry.status is results.Status.ERROR and entry.artifact is not None
    assert entry.reason is not None and "toy-fp32: mapp can't be recorded" in entry.reason


def test_baselines_are_kept_by_hardware(toy: Toy, tmp_path: Path) -> None:
    """Saved under this machine's name, and compared with nothing else."""
    kept = ROOT / ".benchmarks"
    before = set(kept.rglob("*.json")) if kept.is_dir() else set()
    done = toy.pytest("tests/test_latency.py", "-k", "fp32 and not lean", "--benchmark-save=baselinetest")
    assert done.returncode == 0, done.stdout + done.stderr
    saved = set(kept.rglob("*_baselinetest.json")) - before
    try:
        assert [path.relative_to(kept).parts[0] for path in saved] == [folder_name(host.name())]
    finally:
        for path in saved:
            path.unlink()


def test_an_artifact_that_would_saturate_runs_without_such_kernels(
    toy: Toy, plugin: Callable[[str, str], None]
) -> None:
    """As on a processor without VNNI, with an artifact that is not made for it."""
    plugin("lossy", "from lowbit.measure import emulation\n\nemulation.saturates_here = lambda *_: True\n")
    done = toy.pytest("-p", "lossy", "tests/test_latency.py", "-k", "int8-ort-minmax and not openvino")
    assert done.returncode == 0, done.stdout + done.stderr
    measured = [e for e in toy.results().entries if e.latency]
    assert [(e.scheme, e.provider) for e in measured] == [("int8-ort-minmax", "cpu")]
    assert measured[0].runtime is not None and measured[0].latency is not None
    assert measured[0].runtime.options["config"]["session.x64quantprecision"] == "1"
    assert measured[0].latency.precision_cost is not None and measured[0].latency.precision_cost > 0
    assert "so it ran with `session.x64quantprecision=1`" in (toy.folder / "runs" / "latest" / "summary.md").read_text()


def test_a_matcher_that_differs_from_pycocotools_is_an_error(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    """No AP is reported that pycocotools does not confirm."""
    fault = "from lowbit.measure import matching\n\nright = matching._overlap\nmatching._overlap = lambda *boxes: 0.7 * right(*boxes)\n"
    plugin("faulty", fault)
    done = toy.pytest("-p", "faulty", "tests/test_accuracy.py", "-k", FLOAT)
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert (entry.status, entry.map, entry.map_pycocotools) == (results.Status.ERROR, None, None)
    assert re.search(r"map is 0\.[0-9]+ by lowbit and 1\.00000000 by pycocotools", entry.reason or "")


def test_progress_is_shown_past_the_capture_and_taken_away(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar on a terminal, of which nothing is left when pytest writes; lines in a pipe."""
    ours, theirs = pty.openpty()
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    arguments = "tests/test_accuracy.py", "-k", FLOAT
    seen: list[bytes] = []
    reader = threading.Thread(target=lambda: seen.extend(iter(lambda: _read(ours), b"")))
    reader.start()
    try:
        done = toy.pytest(*arguments, stdout=theirs)
    finally:
        os.close(theirs)
        reader.join(PATIENCE)
        os.close(ours)
    assert done.returncode == 0, done.stderr
    shown = b"".join(seen).decode()
    assert re.search(r"toy-fp32: evaluating.*1 of 6 images", shown)
    assert "\x1b[2K" in shown[shown.rindex("of 6 images") :], "the bar is still there"
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0
    piped = toy.pytest(*arguments)
    assert "\nlowbit: toy-fp32: evaluating: 6 of 6 images" in piped.stdout and "\x1b" not in piped.stdout
    assert "lowbit:" not in toy.pytest(*arguments, "-n", "1").stdout


def _read(descriptor: int) -> bytes:
    """What comes next on a terminal; nothing once nobody writes to it any more."""
    try:
        return os.read(descriptor, 65536)
    except OSError:
        return b""


def test_gpu_tests_skip_with_a_reason_where_there_is_none(toy: Toy) -> None:
    from lowbit.host import gpu

    if gpu() is not None:
        pytest.skip("this machine has a GPU")
    done = toy.pytest("-m", "gpu", "-k", "int8")
    assert done.returncode == 0, done.stdout + done.stderr
    entries = toy.results().entries
    assert entries
    assert {e.status for e in entries} == {results.Status.SKIPPED}
    reasons = {(e.scheme, e.provider): e.reason or "" for e in entries}
    assert "the driver shows none" in reasons["int8-modelopt-max", "trt"]
    assert "symmetric Q/DQ only" in reasons["int8-ort-minmax", "trt"]
    wrong = [why for why in reasons.values() if "the driver shows none" not in why and "symmetric Q/DQ only" not in why]
    assert not wrong


def test_fp8_is_not_timed_where_it_is_emulated(toy: Toy) -> None:
    done = toy.pytest("tests/test_latency.py", "-k", "fp8-modelopt-k0", "-rs")
    assert done.returncode == 0 and "CPUExecutionProvider has no FP8 kernels and emulates it" in done.stdout


def test_schemes_of_torch_modules_skip_on_an_onnx_file(toy: Toy) -> None:
    done = toy.pytest("tests/test_accuracy.py", "-k", "w8a8 and not cuda and not trt and not openvino")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "brevitas quantizes a torch module, and toy is an ONNX file" in done.stdout


def thresholds(folder: Path) -> Path:
    path = folder / "strict.toml"
    path.write_text("[default]\nfp32 = 0.0\nint8 = 0.0\n")
    return path


@pytest.fixture(scope="module")
def blind(toy: Toy) -> Path:
    """The data set with every box moved by half its width: the toy detector's AP is nearly nothing."""
    data = json.loads(toy.dataset.read_text())
    for annotation in data["annotations"]:
        annotation["bbox"][0] += 20
    path = toy.dataset.with_name("instances_blind.json")
    path.write_text(json.dumps(data))
    return path


def test_a_failure_fails_the_run_and_says_why(toy: Toy, blind: Path) -> None:
    done = toy.pytest("tests/test_accuracy.py", "-k", FLOAT, dataset=blind)
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert entry.status == results.Status.FAILED
    assert "sees next to nothing" in (entry.reason or "")


def expected(folder: Path, **changes: Any) -> Path:
    entry = {
        "detector": "toy",
        "scheme": "fp32",
        "test": "test_map_drop",
        "exception": "AssertionError",
        "text": "sees next to nothing",
        "drop_at_most": 0.0,
        "reason": "the boxes were moved",
        **changes,
    }
    path = folder / "expected.toml"
    path.write_text("[[expected]]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in entry.items()))
    return path


@pytest.mark.parametrize(
    ("changes", "blinded", "code", "said"),
    [
        ({}, True, 0, "1 xfailed"),
        ({"text": "another trouble"}, True, 1, "1 failed"),
        ({"exception": "RuntimeError"}, True, 1, "1 failed"),
        ({}, False, 1, "Take its entry out"),
        ({"weights": ["0" * 64]}, False, 0, "1 passed"),
        ({"runtimes": ["trt"]}, False, 0, "1 passed"),
    ],
    ids=["as expected", "another text", "another exception", "passes after all", "other weights", "other runtime"],
)
def test_expected_failures(toy: Toy, blind: Path, changes: dict[str, Any], blinded: bool, code: int, said: str) -> None:
    listing = expected(toy.folder, **changes)
    arguments: dict[str, Any] = {"dataset": blind} if blinded else {}
    done = toy.pytest(
        "tests/test_accuracy.py",
        "-k",
        FLOAT,
        f"--expected-failures={listing}",
        **arguments,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout


@pytest.mark.parametrize(
    ("at_most", "code", "said"), [(0.25, 0, "1 xfailed"), (0.15, 1, "at most 15.00 points were expected")]
)
def test_an_expected_failure_that_grew_is_a_failure(
    toy: Toy, plugin: Callable[[str, str], None], at_most: float, code: int, said: str
) -> None:
    plugin("worse", WORSE)
    changes = {"scheme": "int8-ort-minmax", "text": "threshold 1.00", "drop_at_most": at_most}
    listing = expected(toy.folder, **changes)
    chosen = "int8-ort-minmax and not cuda and not trt and not openvino"
    done = toy.pytest("-p", "worse", "tests/test_accuracy.py", "-k", chosen, f"--expected-failures={listing}")
    assert done.returncode == code, done.stdout + done.stderr
    assert said in done.stdout
    (entry,) = toy.results().entries
    assert (entry.status, entry.drop) == (results.Status.FAILED, 0.2)
    assert bool(entry.expected_failure) == (code == 0)


def test_a_quick_run_takes_some_images_and_no_timings(toy: Toy, tmp_path: Path) -> None:
    """Expected failures were measured on all images: on a few of them one may pass."""
    many = toys.make_dataset(tmp_path / "many", count=QUICK_IMAGES + 30)
    listing = expected(tmp_path)
    tests = ("tests/test_accuracy.py", "tests/test_latency.py", "-k", FLOAT, f"--expected-failures={listing}")
    done = toy.pytest(*tests, "--quick", dataset=many)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"a quick run on {QUICK_IMAGES} of {QUICK_IMAGES + 30} images" in done.stdout
    (entry,) = toy.results().entries
    assert (entry.images, entry.status, entry.latency) == (QUICK_IMAGES, results.Status.PASSED, None)


def test_what_fails_by_more_than_expected_may_do_so_on_a_few_images(
    toy: Toy, tmp_path: Path, plugin: Callable[[str, str], None]
) -> None:
    plugin("worse", WORSE)
    listing = expected(tmp_path, scheme="int8-ort-minmax", text="threshold 1.00", drop_at_most=0.15)
    chosen = "int8-ort-minmax and not cuda and not trt and not openvino"
    given = ("-p", "worse", "tests/test_accuracy.py", "-k", chosen, f"--expected-failures={listing}", "--quick")
    done = toy.pytest(*given)
    assert done.returncode == 0 and "1 xfailed" in done.stdout, done.stdout + done.stderr


# A plugin by which every scheme loses 20 points.
WORSE = """
from lowbit import evaluate

evaluate.compare = lambda *_: {"map": 0.2}
evaluate.drop_interval = lambda *_: (0.1, 0.3)
"""


def test_bad_input_is_refused_at_once(toy: Toy, tmp_path: Path) -> None:
    """Exit status 4 (usage), the file and the remedy on standard error, and nothing built."""
    empty = tmp_path / "empty.txt"
    empty.write_text("# nothing\n")
    leaky = toy.folder / "val" / "leaky.txt"
    leaky.write_text("1-0.png\n")
    truncated = tmp_path / "truncated.onnx"
    truncated.write_bytes(toy.detector.read_bytes()[:-100])
    cases: list[tuple[dict[str, Path], str]] = [
        ({"calibration": tmp_path / "none.txt"}, "no such calibration list"),
        ({"calibration": empty}, "the calibration list is empty"),
        ({"calibration": leaky}, "are evaluation images"),
        ({"dataset": tmp_path / "none.json"}, "no such annotation file"),
        ({"detector": truncated}, "is no valid ONNX model"),
        ({"detector": Path("yolov11")}, "there is no detector 'yolov11'"),
        ({"scheme": Path("int8-modelopt-entopy")}, "Nearest: int8-modelopt-entropy"),
        ({"confidence": Path("1.5")}, "--confidence 1.5: is no threshold"),
        ({"store": Path("/proc/lowbit")}, "/proc/lowbit"),
    ]
    for replace, said in cases:
        store = replace.pop("store", tmp_path / "store")
        extra = [f"--scheme={replace.pop('scheme')}"] if "scheme" in replace else []
        done = toy.pytest("tests/test_accuracy.py", "-k", "fp32 and not lean", f"--store={store}", *extra, **replace)
        assert done.returncode == 4, (said, done.stdout + done.stderr)
        assert said in done.stderr
    assert not (tmp_path / "store" / "artifacts").exists()


def elsewhere(toy: Toy, folder: Path, toml: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Another project gates its own detector: a ``lowbit.toml`` and lowbit's tests by their package."""
    folder.mkdir()
    for name in ("toy.onnx", "val", "calibration"):
        (folder / name).symlink_to(toy.folder / name)
    (folder / "lowbit.toml").write_text(toml)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--pyargs", "lowbit_suite.test_accuracy"]
    return subprocess.run(
        [*command, *arguments], cwd=folder, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


DECLARED = """
[detectors.mine]
model = "toy.onnx"
dataset = "val/instances_toy.json"
calibration = "calibration/calibration.txt"

[gate]
schemes = ["int8-ort-minmax"]
"""


def test_another_project_gates_its_own_detector(toy: Toy, tmp_path: Path) -> None:
    done = elsewhere(toy, tmp_path / "project", DECLARED)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results.read(tmp_path / "project" / "runs" / "latest" / "results.json")
    measured = {(e.detector, e.scheme): e.map for e in found.entries if e.provider == "cpu"}
    assert measured == {("mine", "fp32"): 1.0, ("mine", "int8-ort-minmax"): 1.0}


def test_a_declaration_that_makes_no_sense_is_a_usage_error(toy: Toy, tmp_path: Path) -> None:
    done = elsewhere(toy, tmp_path / "project", DECLARED.replace("model", "modell"))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "lowbit.toml: detectors.mine.model: Field required" in done.stderr


def test_wrong_colours_are_seen(toy: Toy, tmp_path: Path) -> None:
    """The toy detector tells red from blue: shown in the wrong order it takes each for the other."""
    done = elsewhere(
        toy,
        tmp_path / "project",
        DECLARED.replace("[gate]", 'colors = "bgr"\n[gate]'),
        "-k",
        FLOAT,
    )
    assert done.returncode == 1
    assert "sees next to nothing" in done.stdout


def test_agreement_where_nobody_labelled(toy: Toy, tmp_path: Path) -> None:
    toml = DECLARED.replace("val/instances_toy.json", "val").replace("[gate]", 'labels = "none"\n[gate]')
    done = elsewhere(toy, tmp_path / "project", toml)
    assert done.returncode == 0, done.stdout + done.stderr
    found = results.read(tmp_path / "project" / "runs" / "latest" / "results.json")
    entries = [entry for entry in found.entries if entry.provider == "cpu"]
    assert [entry.map for entry in entries] == [1.0, 1.0]
    assert {entry.dataset for entry in entries} == {"val (agreement with FP32)"}
    assert {entry.operating_point for entry in entries} == {None}
    # What was agreed on is a data set that can be read again.
    assert len(json.loads(Path(entries[0].dataset_file or "").read_text())["annotations"]) > 6


def test_the_plugin_leaves_other_projects_alone(tmp_path: Path) -> None:
    (tmp_path / "test_theirs.py").write_text(
        "import pytest\n\n@pytest.fixture\ndef case():\n    return 1\n\ndef test_theirs(case):\n    assert case == 1\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lowbit" not in done.stdout.replace("plugins: ", "").split("collected")[1]
    assert [path.name for path in tmp_path.iterdir() if path.name not in ("test_theirs.py", "__pycache__")] in (
        [],
        [".benchmarks"],
    )


def test_a_project_may_call_its_own_package_fixtures(tmp_path: Path) -> None:
    """Its folder goes before installed packages, so a plugin of that name would be looked for there."""
    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "__init__.py").write_text("ANSWER = 42\n")
    (tmp_path / "test_theirs.py").write_text(
        "from fixtures import ANSWER\n\ndef test_theirs():\n    assert ANSWER == 42\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stdout + done.stderr


KILLER = """
import os, signal

def pytest_runtest_logstart(nodeid):
    if "int8-ort-minmax" in nodeid:
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_run_keeps_what_it_measured(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    plugin("killer", KILLER)
    chosen = f"{SCHEMES} and not cuda and not trt and not openvino"
    done = toy.pytest("-p", "killer", "tests/test_accuracy.py", "-k", chosen)
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    found = toy.results()
    assert found.cut
    assert [(entry.scheme, entry.map) for entry in found.entries] == [("fp32", 1.0)]
    folder = toy.folder / "runs" / "latest"
    subprocess.run([sys.executable, "-m", "lowbit.cli", "report", str(folder)], check=True, timeout=PATIENCE, cwd=ROOT)
    assert "This run was cut" in (folder / "summary.md").read_text()
    assert "This run was cut" in (folder / "report.html").read_text()


@pytest.mark.parametrize(("more", "code"), [((), 1), (("--allow-skips",), 0)])
def test_named_schemes_that_all_skip_are_no_success(toy: Toy, more: tuple[str, ...], code: int) -> None:
    named = ("--scheme=w8a8-brevitas", *more)
    done = toy.pytest("tests/test_accuracy.py", *named, "-k", "not cuda and not trt and not openvino")
    assert done.returncode == code, done.stdout + done.stderr
    assert ("w8a8-brevitas was asked for and not measured" in done.stdout) is (code == 1)


def test_a_failed_structure_test_is_failed_and_no_error(toy: Toy, plugin: Callable[[str, str], None]) -> None:
    fault = "import dataclasses\n\nfrom lowbit import graph\n\nright = graph.structure\ngraph.structure = lambda model: dataclasses.replace(right(model), tail_quantized=('TopK',))\n"
    plugin("tail", fault)
    done = toy.pytest("-p", "tail", "tests/test_artifact.py", "-k", "int8-ort-minmax and decode_tail_is_float")
    assert done.returncode == 1, done.stdout + done.stderr
    (entry,) = toy.results().entries
    assert entry.status == results.Status.FAILED
