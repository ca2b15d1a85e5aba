"""Tools that other packages bring by an entry point."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowbit import cli, plugins, schemes
from lowbit.errors import InputError
from lowbit.evaluate import Evaluation, Given
from lowbit.progress import silent
from lowbit.quantize import module_of, tool
from lowbit.results import Status
from lowbit.schemes import Scheme, catalogue, find_scheme
from lowbit.store.key import BuildRequest
from lowbit.store.store import Store
from tests.unit.suite import ROOT, Toy
from tests.unit.toys import make_calibration, make_dataset, make_detector
from tests.unit.waiting import PATIENCE

# Weights of every convolution on 127 steps a tensor: the arithmetic is somebody's own, the container is ONNX's Q/DQ.
MODULE = '''
"""A tool of another package."""

import numpy as np
import onnx
from onnx import helper, numpy_helper

from acme.rounding import nearest
from lowbit import graph
from lowbit.quantize import Promises, Tool
from lowbit.schemes import Scheme


def build(job):
    model = graph.load(job.source)
    values = {one.name: one for one in model.graph.initializer}
    added = []
    for node in model.graph.node:
        if node.op_type != "Conv":
            continue
        weight = numpy_helper.to_array(values[node.input[1]])
        scale = np.abs(weight).max(axis=(1, 2, 3)) / 127
        integers = nearest(weight / scale[:, None, None, None])
        name = f"{node.name}/weight"
        model.graph.initializer.extend([
            numpy_helper.from_array(integers, f"{name}/integers"),
            numpy_helper.from_array(scale.astype(np.float32), f"{name}/scale"),
            numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}/zero_point"),
        ])
        inputs = [f"{name}/{part}" for part in ("integers", "scale", "zero_point")]
        added.append(helper.make_node("DequantizeLinear", inputs, [name], name=f"{name}/dequantize", axis=0))
        node.input[1] = name
    graph.replace_nodes(model, [*added, *model.graph.node])
    onnx.save(model, str(job.output))
    return {"images_seen": len(job.calibration.paths), "steps": job.settings["steps"]}


TOOL = Tool(build, Promises(symmetric=True))
SCHEMES = (Scheme("w8a16-acme-plain", "w8a16", "acme", "Acme's weights", {"steps": 127}),)
'''
ROUNDING = "import numpy as np\n\n\ndef nearest(value):\n    return np.rint(value).astype(np.int8)\n"


def install(folder: Path, entry_points: str, **modules: str) -> None:
    """What ``pip install`` leaves of a package: its modules, and its metadata with the entry points."""
    package, metadata = folder / "acme", folder / "acme-1.0.dist-info"
    package.mkdir()
    metadata.mkdir()
    for name, text in {"__init__": "", **modules}.items():
        (package / f"{name}.py").write_text(text)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[lowbit.tools]\n{entry_points}\n")


def forget() -> None:
    for cached in (plugins.modules, schemes.catalogue):
        cached.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "acme"]:
        del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of packages that this process and those that it starts import from."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    forget()
    yield folder
    monkeypatch.undo()
    forget()


def test_its_scheme_is_gated_as_any_other(tmp_path: Path, site: Path) -> None:
    install(site, "acme = acme.tool", tool=MODULE, rounding=ROUNDING)
    toy = Toy(tmp_path)
    tests = ("tests/test_accuracy.py", "tests/test_artifact.py", "tests/test_latency.py")
    done = toy.pytest(*tests, "-k", "acme and not openvino", "--benchmark-disable")
    assert done.returncode == 0, done.stdout + done.stderr
    entry = next(one for one in toy.results().entries if one.provider == "cpu")
    assert (entry.scheme, entry.status) == ("w8a16-acme-plain", Status.PASSED)
    assert entry.map is not None and entry.artifact is not None and entry.artifact.quantized_fraction == 1.0


def test_it_is_in_every_list(site: Path) -> None:
    install(site, "acme = acme.tool", tool=MODULE, rounding=ROUNDING)
    assert find_scheme("w8a16-acme-plain").summary == "Acme's weights"
    assert "| `w8a16-acme-plain` | acme | Acme's weights |" in cli.schemes_table()
    assert "w8a16-acme-plain" in cli.doctor()
    with pytest.raises(InputError, match="Nearest: w8a16-acme-plain"):
        find_scheme("w8a16-acme-plane")


def test_the_code_of_its_helpers_is_part_of_the_key(tmp_path: Path, site: Path) -> None:
    install(site, "acme = acme.tool", tool=MODULE, rounding=ROUNDING)
    name = str(make_detector(tmp_path / "toy.onnx"))
    given = Given(dataset=make_dataset(tmp_path / "val"), calibration=make_calibration(tmp_path / "calibration"))
    evaluation = Evaluation(Store(tmp_path / "store"), given, silent)

    def request() -> BuildRequest:
        return evaluation.request(name, find_scheme("w8a16-acme-plain"))

    built = evaluation.store.get(request())
    assert (built.manifest["tool"], built.manifest["steps"], built.manifest["images_seen"]) == ("acme", 127, 4)
    assert request().key == built.manifest["key"]
    helper = site / "acme" / "rounding.py"
    helper.write_text(helper.read_text().replace("rint", "floor"))
    assert request().key != built.manifest["key"]


BROKEN = {
    "a module that is not there": ("acme = acme.nothing", "", r"acme.*can't be imported.*No module named"),
    "a module that does not import": ("acme = acme.tool", "1 / 0", r"'acme' of another package can't.*ZeroDivision"),
    "an attribute": ("acme = acme.tool:TOOL", MODULE, "has to name a module: 'acme.tool'"),
    "a name that no id can hold": ("Ac_me = acme.tool", MODULE, "is no name of a tool"),
    "a scheme of another tool": ("other = acme.tool", MODULE, "<precision>-other... of the tool 'other'"),
    "no scheme at all": ("acme = acme.tool", "SCHEMES = ['int8-acme']", "is no lowbit.schemes.Scheme"),
    "an id that is there": (
        "acme = acme.tool",
        MODULE.replace("SCHEMES = (", "SCHEMES = 2 * ("),
        "'w8a16-acme-plain' is there already",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_with_a_package_is_said(site: Path, case: str) -> None:
    entry_points, module, said = BROKEN[case]
    install(site, entry_points, tool=module, rounding=ROUNDING)
    with pytest.raises(InputError, match=said):
        catalogue()


def test_lowbits_own_schemes_do_not_depend_on_it(site: Path) -> None:
    install(site, "acme = acme.nothing")
    assert find_scheme("int8-ort-minmax").tool == "ort"


def test_a_broken_package_ends_pytest_before_anything_is_built(tmp_path: Path, site: Path) -> None:
    install(site, "acme = acme.nothing")
    done = Toy(tmp_path).pytest("tests/test_accuracy.py")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "the tool 'acme' of another package can't be imported" in done.stderr


def test_a_module_without_a_tool(site: Path) -> None:
    install(site, "acme = acme.tool", tool="SCHEMES = ()")
    with pytest.raises(InputError, match=r"acme\.tool: has no TOOL"):
        tool("acme")


def test_a_name_that_lowbit_has(site: Path) -> None:
    install(site, "ort = acme.tool", tool=MODULE, rounding=ROUNDING)
    with pytest.raises(InputError, match="its tool is named 'ort'"):
        module_of("ort")


def test_two_packages_with_one_name(site: Path) -> None:
    install(site, "acme = acme.tool", tool=MODULE, rounding=ROUNDING)
    other = site / "other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[lowbit.tools]\nacme = other.tool\n")
    with pytest.raises(InputError, match=r"is brought by .* too. Uninstall one of them"):
        plugins.modules()


def test_an_unknown_tool_is_named() -> None:
    with pytest.raises(InputError, match="there is no tool 'nothing'"):
        tool("nothing")


def test_the_command_line_knows_it(site: Path) -> None:
    install(site, "acme = acme.tool", tool=MODULE, rounding=ROUNDING)
    done = subprocess.run(
        [sys.executable, "-m", "lowbit.cli", "schemes"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0 and "w8a16-acme-plain" in done.stdout


def test_ids_of_any_tool_follow_the_grammar() -> None:
    assert Scheme("int8-acme-fast", "int8", "acme", "").id == "int8-acme-fast"
