"""Integer kernels in NumPy are ONNX Runtime's, number by number: this processor's, and the other kind's under emulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowbit import runtime
from lowbit.errors import UnavailableError
from lowbit.measure import integer_kernels
from tests.unit import other_processor
from tests.unit.integer_nodes import Case, cases


def _emulated(case: Case, *, vnni: bool) -> np.ndarray | None:
    """What the node gives; None where its kernel adds in 32 bits."""
    values = case.values()
    if integer_kernels.weight_of(case.node, values) is None:
        return None
    return integer_kernels.run(case.node, values, vnni=vnni)


def test_this_processor_computes_what_is_emulated_for_it() -> None:
    """Exact sums where it has VNNI, saturated ones where it doesn't: the probe says which."""
    vnni = not runtime.kernels_saturate()
    different = [
        case.name
        for case in cases()
        if (expected := _emulated(case, vnni=vnni)) is not None
        and not np.array_equal(runtime.plain_session(case.model).run(None, {"x": case.x})[0], expected)
    ]
    assert different == []


def test_saturation_shows_in_the_cases() -> None:
    """Cases in which it makes no difference would prove nothing."""
    emulated = {case.name: (_emulated(case, vnni=True), _emulated(case, vnni=False)) for case in cases()}
    compared = {name: both for name, both in emulated.items() if both[0] is not None}
    assert len(compared) > 40
    assert [name for name, (exact, other) in compared.items() if np.array_equal(exact, other)] == [
        name for name in compared if name.endswith("2x1x3")
    ]


def test_depthwise_and_signed_kernels_add_in_32_bits() -> None:
    found = {case.name for case in cases() if _emulated(case, vnni=True) is None}
    assert {name for name in found if name.startswith("conv u8")} == {
        "conv u8 8to8 3x3 8 ('pads', [1, 1, 1, 1])",
        "conv u8 1to1 3x3 1 ",
    }
    assert {case.name for case in cases() if " s8" in case.name or "ConvInteger" in case.name} <= found


@other_processor.needed
def test_the_other_processor_computes_what_is_emulated_for_it(tmp_path: Path) -> None:
    """ONNX Runtime's own kernels, on an emulated processor without VNNI: pair order, saturation and rounding."""
    known = cases()
    emulated = [_emulated(case, vnni=False) for case in known]
    saturating = [case for case, sums in zip(known, emulated, strict=True) if sums is not None]
    runs: list[other_processor.Run] = [((), case.model, {"x": case.x}) for case in known]
    runs += [((runtime.PRECISE,), case.model, {"x": case.x}) for case in saturating]
    found = other_processor.run(runs, tmp_path)
    expected = [
        runtime.plain_session(case.model).run(None, {"x": case.x})[0] if sums is None else sums
        for case, sums in zip(known, emulated, strict=True)
    ]
    expected += [integer_kernels.run(case.node, case.values(), vnni=True) for case in saturating]
    names = [*(case.name for case in known), *(f"{case.name}, {runtime.PRECISE[0]}" for case in saturating)]
    assert [
        name for name, one, other in zip(names, found, expected, strict=True) if not np.array_equal(one, other)
    ] == []


@other_processor.needed
def test_the_probe_tells_the_other_processor() -> None:
    said = other_processor.python("from lowbit import runtime; print(runtime.kernels_saturate())")
    assert said.strip() == "True"


def test_what_was_seen_is_counted() -> None:
    case = next(case for case in cases() if case.name.startswith("conv u8 2to8"))
    seen = integer_kernels.Seen()
    integer_kernels.run(case.node, case.values(), vnni=False, seen=seen)
    pairs = case.values()["w"].reshape(8, 2).astype(int)
    sums = case.x.reshape(2, -1).T.astype(int) @ pairs.T
    assert seen.worst == np.abs(sums).max()
    assert seen.saturated == ((sums > 32767) | (sums < -32768)).sum() > 0
    assert seen.sums == sums.size


def test_a_computed_weight_is_refused_where_it_is_signed() -> None:
    case = next(case for case in cases() if case.name.startswith("MatMulInteger u8"))
    values = {name: value for name, value in case.values().items() if name != "w"}
    with pytest.raises(UnavailableError, match="is computed"):
        integer_kernels.weight_of(case.node, values)
    assert integer_kernels.weight_of(case.node, {}) is None
