"""The digest of the code that shapes an artifact: what counts, and what does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowbit.data.letterbox import InputSpec
from lowbit.detector.heads import KINDS
from lowbit.quantize import module_of
from lowbit.schemes import CATALOGUE
from lowbit.store import code
from lowbit.store.code import Code, code_of
from lowbit.store.key import BuildRequest

TOOLS = sorted({module_of(scheme.tool) for scheme in CATALOGUE.values()} | {module_of("widen")})
TOOL = '''
"""A tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowbit.errors import BuildError

if TYPE_CHECKING:
    from acme.typed import Thing


def build(job):
    """Build."""
    from . import rounding

    return rounding.nearest(job.scale, 1)
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Somebody's own package with a tool."""
    folder = tmp_path / "acme"
    folder.mkdir()
    contents = {
        "__init__": "",
        "tool": TOOL,
        "rounding": "import numpy\n\ndef nearest(value, step):\n    return numpy.round(value / step)\n",
        "typed": "Thing = int\n",
        "unused": "import scipy\n",
    }
    for name, text in contents.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return folder


def replaced(package: Path, module: str, old: str, new: str) -> Code:
    file = package / f"{module}.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    return code_of("acme.tool")


def test_a_tool_is_its_module_and_what_it_imports(package: Path) -> None:
    found = code_of("acme.tool")
    assert found.modules == ("acme", "acme.rounding", "acme.tool", "lowbit.errors")
    assert list(found.packages) == ["numpy"]


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("tool", "job.scale, 1", "job.scale, 2"),
        ("tool", "job.scale, 1", "job.scale, 1.0"),
        ("tool", "job.scale, 1", "1, job.scale"),
        ("tool", "    return", "    job.scale\n    return"),
        ("rounding", "numpy.round", "numpy.floor"),
        ("rounding", "import numpy", "import numpy\n\nnumpy.seterr(all='raise')"),
    ],
)
def test_what_the_code_does_counts(package: Path, module: str, old: str, new: str) -> None:
    before = code_of("acme.tool")
    assert replaced(package, module, old, new).digest != before.digest


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("tool", '"""Build."""', '"""Build something."""'),
        ("tool", '    """Build."""\n', ""),
        ("tool", '"""A tool."""', "# A tool."),
        ("tool", "(job.scale, 1)", "(\n        job.scale,  # pixels\n        1,\n    )"),
        ("tool", "    from acme.typed import Thing", "    from acme.typed import Other"),
        ("unused", "import scipy", "import onnx"),
        ("typed", "int", "float"),
    ],
)
def test_what_it_does_not_do_does_not_count(package: Path, module: str, old: str, new: str) -> None:
    before = code_of("acme.tool")
    assert replaced(package, module, old, new) == before


def test_the_code_is_in_the_key(package: Path) -> None:
    with (package / "tool.py").open("a") as stream:
        stream.write("\nfrom lowbit import quantize\nTOOL = quantize.Tool(build, quantize.Promises(symmetric=True))\n")

    def key() -> str:
        return BuildRequest("acme.tool", "toy", {}, package, {}, InputSpec(64)).key

    before = key()
    assert key() == before
    replaced(package, "rounding", "value / step", "value * step")
    assert key() != before


def test_a_tool_that_is_not_there(package: Path) -> None:
    with pytest.raises(ImportError, match=r"acme\.nothing"):
        code_of("acme.nothing")
    with pytest.raises(ImportError, match="nobody"):
        code_of("nobody.knows")


@pytest.mark.parametrize("tool", TOOLS)
def test_nothing_counts_that_shapes_no_artifact(tool: str) -> None:
    """A new scheme, another limit or a report's layout must not build everything again."""
    modules = code_of(tool).modules
    assert tool in modules and "lowbit.graph.loading" in modules
    others = (
        "detector.registry",
        "detector.fetch",
        "schemes",
        "gate",
        "report",
        "cli",
        "results",
        "store.store",
        "store.sharing",
        "sensitivity.command",
    )
    assert not [name for name in modules if name.startswith(tuple(f"lowbit.{other}" for other in others))]


def test_what_a_package_takes_from_its_modules_leads_there() -> None:
    assert "lowbit.detector.detector" in code_of("lowbit.quantize.mixed").modules
    assert "lowbit.detector.registry" not in code_of("lowbit.quantize.mixed").modules
    assert "lowbit.detector.registry" in code_of("lowbit.cli.layers").modules


@pytest.mark.parametrize("tool", ["ort", "export", "brevitas"])
def test_heads_that_are_found_when_they_are_needed_count(tool: str) -> None:
    heads = {f"lowbit.detector.heads.{kind}" for kind in KINDS}
    assert len(heads) > 3 and heads < set(code_of(module_of(tool)).modules)


def test_every_package_that_finds_its_modules_is_known() -> None:
    """The source does not say what such a package imports. Tools are given by name, other packages' (``plugins.py``) too; of
    runtimes a build uses one."""
    root = Path(code.__file__).parents[1]
    finding = {
        ".".join(file.relative_to(root.parent).parent.parts)
        for file in root.rglob("*.py")
        if "import_module(" in file.read_text(encoding="utf-8")
    }
    assert finding == code.DISCOVERING | {"lowbit", "lowbit.quantize", "lowbit.runtime"}


def test_packages_that_lists_by_hand_forgot() -> None:
    packages = {name: set(code_of(f"lowbit.quantize.{name}").packages) for name in ("ort", "native", "export", "half")}
    assert {"opencv-python", "onnxslim", "ml_dtypes", "onnxruntime-gpu", "scipy"} <= packages["ort"] & packages[
        "native"
    ]
    assert {"torch", "ultralytics", "safetensors"} <= packages["export"]
    assert not {"requests", "filelock", "pytest"} & set.union(*packages.values())
