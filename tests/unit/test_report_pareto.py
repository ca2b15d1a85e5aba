"""The Pareto picture: who is named, who is cut off, and where labels stand."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest

from lowbit.report import pareto
from lowbit.report.pareto import Box, Point, arrange, place
from lowbit.results import Status
from tests.unit.synthetic_run import catalogue_run


def point(scheme: str, cost: float, accuracy: float, status: Status = Status.PASSED) -> Point:
    return Point(scheme, cost, accuracy, status, 0.5 - accuracy)


FP32 = point("fp32", 1.0, 0.500)


def overlaps(one: Box, two: Box) -> bool:
    return min(one[2], two[2]) > max(one[0], two[0]) and min(one[3], two[3]) > max(one[1], two[1])


def test_the_front_is_what_nothing_beats_in_both() -> None:
    cheap, good, beaten, alike = (
        point("cheap", 0.4, 0.490),
        point("good", 0.5, 0.498),
        point("beaten", 0.6, 0.495),
        point("alike", 0.5, 0.497),
    )
    panel = arrange([FP32, beaten, alike, good, cheap])
    assert panel.front == [cheap, good, FP32]
    assert not panel.outliers and set(panel.named) == {cheap, good, FP32}


def test_what_is_recommended_is_named_first_though_something_beats_it() -> None:
    shown = [FP32, point("a", 0.5, 0.498), point("b", 0.51, 0.497), point("c", 0.52, 0.496)]
    panel = arrange(shown, shipped="b")
    assert panel.named[0].scheme == "b" and "c" not in [p.scheme for p in panel.named]


def test_a_scheme_that_loses_20_points_is_cut_off_and_named() -> None:
    """Whether it is on the front, as the smallest file is, or not; the range is that of the others."""
    close = [point(f"s{n}", 0.5 + n / 100, 0.495 - n / 1000) for n in range(5)]
    for cost in (0.3, 0.9):
        lost = point("naive", cost, 0.300, Status.FAILED)
        panel = arrange([FP32, *close, lost])
        assert panel.outliers == [lost] and lost in panel.named
        assert panel.least_accuracy == pytest.approx(0.491)


def test_what_takes_many_times_as_long_is_cut_off_but_fp32_is_not() -> None:
    small = [point(f"s{n}", 0.2, 0.490) for n in range(5)]
    slow = point("slow", 3.0, 0.499)
    panel = arrange([FP32, *small, slow])
    assert panel.outliers == [slow] and panel.largest_cost == 1.0


def test_two_points_less_are_no_outlier_where_all_are_alike() -> None:
    assert not arrange([FP32, *(point(f"s{n}", 0.5, 0.5) for n in range(5)), point("x", 0.6, 0.481)]).outliers


def test_of_many_that_failed_the_worst_are_named() -> None:
    failed = [point(f"f{n}", 0.8 + n / 100, 0.49 - n / 1000, Status.FAILED) for n in range(6)]
    named = [p.scheme for p in arrange([FP32, point("best", 0.5, 0.499), *failed]).named]
    assert [name for name in named if name.startswith("f") and name != "fp32"] == ["f5", "f4", "f3"]


def test_labels_stand_free_of_each_other_of_points_and_within_the_frame() -> None:
    random = np.random.default_rng(3)
    frame = (0.0, 0.0, 400.0, 200.0)
    for _ in range(20):
        anchors = [(float(x), float(y)) for x, y in random.uniform((5, 5), (395, 195), (25, 2))]
        points = [(x - 4, y - 4, x + 4, y + 4) for x, y in anchors]
        boxes = place(anchors[:12], [(90.0, 10.0)] * 12, points, frame)
        found = [box for box in boxes if box]
        assert len(found) >= 6
        assert not any(overlaps(one, two) for one, two in itertools.combinations(found, 2))
        assert not any(overlaps(box, taken) for box in found for taken in points)
        assert all(b[0] >= 0 and b[1] >= 0 and b[2] <= 400 and b[3] <= 200 for b in found)
        assert all(b[2] - b[0] == pytest.approx(90) and b[3] - b[1] == pytest.approx(10) for b in found)


def test_the_first_label_has_the_first_choice_and_one_without_room_has_none() -> None:
    anchors = [(50.0, 50.0), (50.0, 50.0)]
    first, second = place(anchors, [(30.0, 10.0)] * 2, [], (0.0, 0.0, 100.0, 100.0))
    assert first is not None and second is not None
    assert (first[0], first[1]) == (55.0, 52.5) and second != first
    assert place(anchors, [(30.0, 10.0)] * 2, [], (50.0, 50.0, 90.0, 65.0))[1] is None
    assert place([(5.0, 5.0)], [(300.0, 10.0)], [], (0.0, 0.0, 100.0, 100.0)) == [None]


def test_a_catalogue_has_few_names_and_every_outlier_is_one(tmp_path: Path) -> None:
    entries = [entry for entry in catalogue_run(tmp_path).entries if entry.map is not None]
    chart = pareto.chart(entries, None)
    names = [entry.scheme for entry in entries]
    drawn = re.findall(r"<text[^>]*>([^<]*)</text>", chart)
    labels = [text for text in drawn if text.split(" (")[0] in names]
    assert 4 <= len(labels) <= 24 < 2 * len(names)
    for lost in (entry for entry in entries if entry.map is not None and entry.map < 0.4):
        assert sum(text == f"{lost.scheme} (AP {lost.map:.3f})" for text in labels) == 2, lost.scheme


def test_no_name_is_lost_where_there_is_no_room(tmp_path: Path) -> None:
    """Twelve schemes at one place, all of them on the front: names without room are in the caption."""
    template = next(e for e in catalogue_run(tmp_path).entries if e.scheme == "int8-ort-minmax0")
    assert template.latency is not None and template.artifact is not None
    entries = []
    for n in range(40):
        timing = template.latency.model_copy(update={"speedup": 2.0 - n / 1e4})
        artifact = template.artifact.model_copy(update={"bytes": 2_000_000 + n})
        change = {
            "scheme": f"a-long-name-of-a-scheme-{n}",
            "map": 0.5 + n / 1e6,
            "latency": timing,
            "artifact": artifact,
        }
        entries.append(template.model_copy(update=change))
    chart = pareto.chart(entries, None)
    assert "No room for the names of" in chart
    assert all(re.search(rf"\b{entry.scheme}\b", chart) for entry in entries)


def test_nothing_to_compare_is_no_chart() -> None:
    assert pareto.chart([], None) == ""
