"""The parts of an entry: what is wrong in one is said at once, and several make one entry."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lowbit import entries, runtime
from lowbit.errors import LowbitError
from lowbit.evaluate import Case
from lowbit.results import Entry, RuntimeRecord, Status
from lowbit.schemes import find_scheme

CASE = Case("folder/toy.onnx", find_scheme("int8-ort-minmax"), runtime.find_runtime(runtime.DEFAULT))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"mapp": 0.5}, "mapp can't be recorded: Extra inputs"),
        ({"map": "high"}, "map can't be recorded: .*number.*given: high"),
        ({"map": float("nan")}, "map can't be recorded: .*finite"),
        ({"artifact": {"path": "x", "sha256": "y"}}, r"artifact\.bytes can't be recorded: Field required"),
        ({"runtime": RuntimeRecord(provider="CPU", options={}), "drop_ci": (0.1,)}, r"drop_ci\.1 can't be recorded"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(LowbitError, match=f"^toy-int8-ort-minmax: {said}"):
        entries.part(CASE, **fields)


def test_a_timing_does_not_erase_parity() -> None:
    checked = entries.part(CASE, map=0.5, runtime=RuntimeRecord(provider="CPU", options={}, parity=0.9))
    timed = entries.part(CASE, runtime=RuntimeRecord(provider="CPU", options={"threads": 2}, int8_mac_fraction=0.8))
    wanted = RuntimeRecord(provider="CPU", options={"threads": 2}, parity=0.9, int8_mac_fraction=0.8)
    assert entries.merge(checked, timed) == entries.part(CASE, map=0.5, runtime=wanted)
    assert entries.merge(timed, checked).runtime == wanted.model_copy(update={"options": {}})
    assert checked.runtime is not None and checked.runtime.options == {}


def test_what_is_said_later_replaces_what_was_said_before() -> None:
    first = entries.part(CASE, status=Status.FAILED, reason="broke", map=0.5)
    second = entries.part(CASE, status=Status.PASSED, reason=None)
    assert entries.merge(first, second) == entries.part(CASE, status=Status.PASSED, reason=None, map=0.5)


def test_what_was_not_said_stays_unsaid_on_the_way_through_json() -> None:
    """Else the part of a test that measured nothing would erase what another one measured."""
    said = entries.part(CASE, drop_ci=(0.0, 0.1), runtime=RuntimeRecord(provider="CPU", options={}))
    back = Entry.model_validate(json.loads(json.dumps(said.model_dump(mode="json", exclude_unset=True))))
    assert back == said
    assert back.model_fields_set == {"detector", "scheme", "provider", "drop_ci", "runtime"}
    assert back.runtime is not None and back.runtime.model_fields_set == {"provider", "options"}
