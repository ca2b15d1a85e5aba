"""What README, Makefile, pixi.toml and the code say of each other."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from lowbit.detector import REGISTRY
from lowbit.quantize import tool
from lowbit.schemes import catalogue, find_scheme
from tests.unit.requirements import PROJECT, brought_by
from tests.unit.waiting import PATIENCE

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PIXI = tomllib.loads((ROOT / "pixi.toml").read_text(encoding="utf-8"))


def test_readme_is_read_to_its_end() -> None:
    """Two screens; the rest is in docs/."""
    assert len(README.splitlines()) < 120


def readme_commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", README, re.DOTALL)
    return [line.split("   #")[0].strip() for block in blocks for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands_exist(command: str) -> None:
    """make's targets are there, and pytest takes its options and finds tests for them."""
    program, *arguments = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{arguments[0]}:", MAKEFILE, re.MULTILINE), command
        return
    assert program == "pytest"
    if "-n" in arguments:  # with workers, nothing is collected in this process
        del arguments[arguments.index("-n") : arguments.index("-n") + 2]
    collect = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:cacheprovider",
        *arguments,
        "--ignore=tests/unit",
    ]
    done = subprocess.run(collect, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "::" in done.stdout


def test_pixi_and_make_run_the_same() -> None:
    for task in ("gate", "gate-all", "test", "test-all", "bench"):
        by_make = re.search(rf"^{task}:.*\n\t\$\(RUN\) (.*) \$\(DETECTORS\) \$\(ARGS\)$", MAKEFILE, re.MULTILINE)
        assert by_make, task
        assert PIXI["tasks"][task]["cmd"] == f"python -m {by_make.group(1)}"


def test_pixi_has_both_environments_and_installs_the_pins() -> None:
    assert PIXI["environments"].keys() >= {"cpu", "cuda"}
    for feature in ("cpu", "cuda"):
        assert "--constraint constraints.txt" in PIXI["feature"][feature]["tasks"]["install"]["cmd"]


def test_all_that_is_installed_is_pinned() -> None:
    """Every direct dependency has its pin, and what these bring here; and onnxruntime is the one package for CPU and GPU machines."""
    extras = (entry for entries in PROJECT["optional-dependencies"].values() for entry in entries)
    direct = [*PROJECT["dependencies"], *(entry for entry in extras if _normal(entry) != "lowbit")]
    pins = {
        re.sub(r"[-_.]+", "-", line.split("==")[0]).lower()
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    # torch's build for CUDA says itself which of CUDA's packages it takes; its build for CPUs takes none.
    brought = {name for name in brought_by(*direct) if name in pins or not re.match(r"(nvidia|cuda)-|triton$", name)}
    wanted = {_normal(entry) for entry in direct} | brought
    assert wanted <= pins, wanted - pins
    assert "onnxruntime" not in pins


# Distributions that install modules of another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "google": "protobuf",
    "lightning_fabric": "lightning-fabric",
    "ml_dtypes": "ml-dtypes",
    "modelopt": "nvidia-modelopt",
    "onnx_neural_compressor": "onnx-neural-compressor",
    "onnxruntime": "onnxruntime-gpu",
    "pynvml": "nvidia-ml-py",
    "tensorrt": "tensorrt-cu13",
    "tensorrt_rtx": "tensorrt-rtx-cu13",
    "yaml": "pyyaml",
}
# What a package that lowbit imports needs and does not ask for: the module, and the package that imports it.
NEEDED_BY = {
    "huggingface_hub": "modelopt",
    "cppimport": "modelopt",
    "lief": "modelopt",
    "onnx_graphsurgeon": "modelopt",
    "onnxconverter_common": "modelopt",
    "onnxscript": "modelopt",
    "polygraphy": "modelopt",
    "onnxoptimizer": "brevitas",
}
PYTEST_PLUGINS = {"pytest-benchmark", "pytest-xdist"}
# Installed by hand: its metadata ask for NumPy 1, so an extra with it could not be installed.
BY_HAND = {"onnx-neural-compressor"}


def test_what_is_imported_is_listed_and_what_is_listed_is_used() -> None:
    extras = {name: {_normal(entry) for entry in entries} for name, entries in PROJECT["optional-dependencies"].items()}
    development = extras.pop("dev")
    listed = {_normal(entry) for entry in PROJECT["dependencies"]}.union(*extras.values()) - {"lowbit"}
    imported = {DISTRIBUTIONS.get(name, name) for name in _imports("lowbit", "lowbit_pytest")}
    assert imported - listed == BY_HAND
    assert listed - imported == {_normal(name) for name in NEEDED_BY} | PYTEST_PLUGINS
    assert not imported & development


@pytest.mark.parametrize(("module", "package"), NEEDED_BY.items())
def test_what_is_listed_for_another_package_is_imported_by_it(module: str, package: str) -> None:
    places = importlib.util.find_spec(package).submodule_search_locations  # type: ignore[union-attr]
    pattern = re.compile(rf"^\s*(import|from) {module}\b", re.MULTILINE)
    files = (path for place in places or () for path in Path(place).rglob("*.py"))
    assert any(pattern.search(path.read_text(encoding="utf-8")) for path in files)


def installed_by(extra: str) -> set[str]:
    """The distributions that an extra lists, with those of the extras that it includes."""
    found = set()
    for entry in PROJECT["optional-dependencies"][extra]:
        included = re.search(r"^lowbit\[(.*)\]$", entry)
        found |= set().union(*map(installed_by, included.group(1).split(","))) if included else {_normal(entry)}
    return found


def test_all_extras_are_every_one_but_that_for_development() -> None:
    extras = PROJECT["optional-dependencies"].keys() - {"all", "dev"}
    assert installed_by("all") == set().union(*map(installed_by, extras))


def test_a_tool_names_the_extra_that_installs_what_it_needs() -> None:
    core = {_normal(entry) for entry in PROJECT["dependencies"]}
    checked = set()
    for name in dict.fromkeys(scheme.tool for scheme in catalogue().values()):
        for module, package in tool(name).needs.items():
            if extra := re.search(r"^lowbit\[(\w+)\]$", package):
                assert _normal(DISTRIBUTIONS.get(module, module)) in installed_by(extra.group(1)) - core, (name, module)
                checked.add(name)
    assert checked == {"modelopt", "brevitas", "nncf"}


def test_what_is_developed_on_has_the_tools_that_every_change_is_tested_with() -> None:
    commands = [MAKEFILE, *(PIXI["feature"][name]["tasks"]["install"]["cmd"] for name in ("cpu", "cuda"))]
    for command in commands:
        found = re.search(r"--editable '\.\[(.*)\]'", command)
        assert found and {"dev", "torch", "modelopt", "brevitas"} <= set(found.group(1).split(","))


def _normal(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[<>=\[]", requirement)[0]).lower()


def _imports(*folders: str) -> set[str]:
    """The top-level names that the modules of folders import from others, anywhere in their code."""
    found = set()
    for path in (path for folder in folders for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add(str(node.module).partition(".")[0])
    return found - sys.stdlib_module_names - set(folders)


def test_every_name_in_readme_is_one() -> None:
    ids = set(re.findall(r"`((?:int8|fp8|fp16|w\d+a\d+|mixed)-[a-z0-9.-]+)`", README))
    assert [find_scheme(scheme).id for scheme in sorted(ids)] == sorted(ids)
    assert "shapes10n" in REGISTRY


def test_importing_lowbit_is_light() -> None:
    """Heavy packages come on use: the command line must answer at once."""
    code = "import sys, lowbit, lowbit.cli, lowbit.schemes; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "onnx", "onnxruntime", "cv2", "numpy", "modelopt", "ultralytics", "pydantic"}
    assert not heavy & set(done.stdout.split())
