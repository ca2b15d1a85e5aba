"""The catalogue: ids that people type."""

from __future__ import annotations

import json

import pytest

from lowbit.errors import InputError
from lowbit.quantize import tool
from lowbit.runtime import deployed_options
from lowbit.schemes import CATALOGUE, Scheme, find_scheme


@pytest.mark.parametrize(
    "good",
    [
        "fp32",
        "int8-ort-minmax",
        "w4a16-brevitas-gptq",
        "mixed-modelopt-d1.0",
        "auto-ort-d0.5",
        "fp8-modelopt-k10",
        "int8-inc",
    ],
)
def test_ids_of_the_grammar(good: str) -> None:
    assert Scheme(good, good.split("-")[0], "ort", "").id == good


@pytest.mark.parametrize(
    "bad", ["INT8-ort", "int8_ort", "int4-ort", "int8-", "int8-9-max", "w4-brevitas", "fp32\n", "", "int8-ort-a b"]
)
def test_ids_outside_the_grammar(bad: str) -> None:
    with pytest.raises(ValueError, match="is not <precision>-<tool>"):
        Scheme(bad, bad.split("-")[0], "ort", "")


def test_an_id_says_its_precision() -> None:
    with pytest.raises(ValueError, match="says 'fp8'"):
        Scheme("int8-ort-minmax", "fp8", "ort", "")


@pytest.mark.parametrize(
    ("scheme", "bits"),
    [
        ("fp32", (32, 32)),
        ("int8-ort-minmax", (8, 8)),
        ("w8a16-brevitas", (8, 16)),
        ("w4a16-brevitas-qat", (4, 16)),
        ("w4a8-brevitas-gptq", (4, 8)),
    ],
)
def test_bits(scheme: str, bits: tuple[int, int]) -> None:
    assert (find_scheme(scheme).weight_bits, find_scheme(scheme).activation_bits) == bits


@pytest.mark.parametrize(
    ("scheme", "folded"),
    [
        ("fp32", False),
        ("w4a16-brevitas-gptq", True),
        ("w8a8-brevitas", False),
        ("mixed-native-d1.0", True),
        ("mixed-ort-d1.0", False),
        ("fp8-modelopt-k0", False),
    ],
)
def test_only_weights_are_folded(scheme: str, folded: bool) -> None:
    """A DequantizeLinear that no integer kernel will take is computed once; TensorRT keeps it in any case."""
    found = find_scheme(scheme)
    assert found.weights_only is folded
    options = [deployed_options("int8", p, weights_only=found.weights_only) for p in ("cpu", "cuda", "trt")]
    assert [("session.disable_quant_qdq", "1") in one.config for one in options] == [folded, folded, False]


def test_an_unknown_id_names_its_neighbours() -> None:
    with pytest.raises(InputError, match=r"no scheme .int8-ort-min.\. Nearest: int8-ort-minmax"):
        find_scheme("int8-ort-min")


@pytest.mark.parametrize(
    ("scheme", "setting"),
    [
        ("mixed-native-d0.5", {"max_drop": 0.005}),
        ("mixed-ort-d2.25", {"max_drop": 0.0225}),
        ("auto-ort-d0.4", {"max_drop": 0.004, "least_speed": 0.95}),
        ("mixed-brevitas-b5.5", {"max_bits": 5.5}),
    ],
)
def test_families_take_any_number(scheme: str, setting: dict[str, float]) -> None:
    found = find_scheme(scheme)
    assert found.id == scheme and setting.items() <= found.settings.items()


@pytest.mark.parametrize(
    ("written", "scheme"),
    [
        ("mixed-native-d1.00", "mixed-native-d1.0"),
        ("mixed-native-d01.0", "mixed-native-d1.0"),
        ("mixed-ort-d0.50", "mixed-ort-d0.5"),
        ("auto-ort-d00.5", "auto-ort-d0.5"),
        ("mixed-brevitas-b06.00", "mixed-brevitas-b6.0"),
    ],
)
def test_a_number_written_otherwise_is_the_same_scheme(written: str, scheme: str) -> None:
    assert find_scheme(written) == find_scheme(scheme)
    assert find_scheme(written).id == scheme


@pytest.mark.parametrize(
    "scheme",
    ["mixed-ort-b6.0", "auto-ort-b6.0", "auto-native-d1.0", "mixed-inc-d1.0", "mixed-native-d1", "mixed-native-d-1.0"],
)
def test_families_that_there_are_not(scheme: str) -> None:
    with pytest.raises(InputError, match="there is no scheme"):
        find_scheme(scheme)


def test_every_scheme_has_a_tool_and_settings_that_json_can_say() -> None:
    for scheme in CATALOGUE.values():
        assert callable(tool(scheme.tool).build)
        assert all(callable(tool(name).build) for name in scheme.id.split("-")[1:2])
        assert json.loads(json.dumps(dict(scheme.settings))) == dict(scheme.settings)
        assert scheme.summary and "\n" not in scheme.summary and "|" not in scheme.summary
