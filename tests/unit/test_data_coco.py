"""COCO files: what is read, and what is refused with the file's name."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowbit.data.coco import load_coco
from lowbit.data.detections import Detections
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from tests.unit.data_files import Json, draw, good, write


def test_good_file(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, good()))
    assert data.name == "mine"
    assert [(i.id, i.path.name, i.width, i.height) for i in data.images] == [
        (4, "a.png", 96, 96),
        (9, "b.png", 96, 96),
    ]
    assert data.category_ids == (13, 90)
    assert data.category_names == ("stop sign", "toothbrush")
    first, second = data.coco["annotations"]
    assert (first["area"], first["iscrowd"]) == (600, 1)
    assert (second["area"], second["iscrowd"]) == (200, 0)


@pytest.mark.parametrize("place", ["val2017", "train2017", "images", "../val2017", "..", "."])
def test_images_are_looked_for_nearby(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        draw(folder / place / name, 1)
    path = write(folder, good(), images=())
    assert [i.path.resolve().parent for i in load_coco(path).images] == [(folder / place).resolve()] * 2


def test_images_in_a_named_folder(tmp_path: Path) -> None:
    path = write(tmp_path, good())  # images next to the file, which are not meant
    for name in ("a.png", "b.png"):
        draw(tmp_path / "elsewhere" / name, 3)
    assert {i.path.parent.name for i in load_coco(path, tmp_path / "elsewhere").images} == {"elsewhere"}
    with pytest.raises(InputError, match=r"instances_mine\.json.*b\.png"):
        load_coco(path, tmp_path / "nowhere")


def changed(where: str, index: int, **values: Any) -> Json:
    data = good()
    data[where][index].update(values)
    return data


def without(where: str, index: int, key: str) -> Json:
    data = good()
    del data[where][index][key]
    return data


BAD_BOXES = [
    [math.nan, 0, 1, 1],
    [0, math.inf, 1, 1],
    [0, 0, -1, 5],
    [0, 0, 5, -0.1],
    [0, 0, 5],
    [0, 0, 5, 5, 5],
    ["0", "0", "5", "5"],
    [0, 0, None, 5],
    [0, 0, True, 5],
    [[0, 0, 5, 5]],
    [],
    None,
    "0 0 5 5",
    {"x": 0},
]


MALFORMED = {
    "not JSON": "{oops",
    "empty file": "",
    "a list": "[]",
    "a number": "7",
    "null": "null",
    "deep": "[" * 100_000,
    "empty object": {},
    "images is no list": {**good(), "images": {}},
    "no images": {**good(), "images": []},
    "no annotations": {**good(), "annotations": []},
    "no categories": {**good(), "categories": []},
    "image is no object": {**good(), "images": ["a.png"]},
    "annotation is no object": {**good(), "annotations": [5]},
    "category is no object": {**good(), "categories": [None]},
    "image without id": without("images", 0, "id"),
    "image without name": without("images", 0, "file_name"),
    "image without width": without("images", 1, "width"),
    "image id is text": changed("images", 0, id="9"),
    "image id is a float": changed("images", 0, id=9.0),
    "image id is true": changed("images", 0, id=True),
    "width zero": changed("images", 0, width=0),
    "height negative": changed("images", 1, height=-3),
    "first image missing": changed("images", 0, file_name="gone.png"),
    "later image missing": changed("images", 1, file_name="gone.png"),
    "image is a folder": changed("images", 1, file_name="."),
    "image's name has a NUL": changed("images", 1, file_name="a\0.png"),
    "image id repeated": changed("images", 0, id=4),
    "category id repeated": changed("categories", 0, id=13),
    "category without name": without("categories", 0, "name"),
    "category id is text": changed("categories", 0, id="90"),
    "unknown image": changed("annotations", 0, image_id=5),
    "unknown category": changed("annotations", 0, category_id=91),
    "annotation without image": without("annotations", 0, "image_id"),
    "annotation without category": without("annotations", 0, "category_id"),
    "annotation without box": without("annotations", 1, "bbox"),
    **{f"box {box}": changed("annotations", 1, bbox=box) for box in BAD_BOXES},
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_file_is_refused_by_name(tmp_path: Path, data: Any) -> None:
    path = write(tmp_path, data)
    with pytest.raises(InputError, match=r"instances_mine\.json: \S"):
        load_coco(path)


def test_box_beyond_a_float(tmp_path: Path) -> None:
    path = write(tmp_path, changed("annotations", 1, bbox=[0, 0, 10**400, 5]))
    with pytest.raises(InputError, match=r"instances_mine\.json: bbox"):
        load_coco(path)


@pytest.mark.parametrize("index", [0, 1])
def test_image_name_too_long(tmp_path: Path, index: int) -> None:
    path = write(tmp_path, changed("images", index, file_name="a" * 5000))
    with pytest.raises(InputError, match=r"instances_mine\.json"):
        load_coco(path)


@pytest.mark.parametrize(
    "values", [{"area": "600"}, {"area": None}, {"area": math.nan}, {"iscrowd": "no"}, {"iscrowd": None}]
)
def test_area_and_iscrowd_are_checked(tmp_path: Path, values: Json) -> None:
    path = write(tmp_path, changed("annotations", 0, **values))
    with pytest.raises(InputError, match=r"instances_mine\.json"):
        load_coco(path)


def test_only_crowds(tmp_path: Path) -> None:
    data = good()
    data["annotations"] = data["annotations"][:1]
    with pytest.raises(InputError, match=r"instances_mine\.json"):
        load_coco(write(tmp_path, data))


@pytest.mark.parametrize(("where", "key", "used"), [("images", "id", "image_id"), ("categories", "id", "category_id")])
def test_id_beyond_a_float(tmp_path: Path, where: str, key: str, used: str) -> None:
    data = changed(where, 0, **{key: 2**53 + 1})
    data["annotations"][0][used] = 2**53 + 1
    with pytest.raises(InputError, match=r"instances_mine\.json"):
        load_coco(write(tmp_path, data))


@pytest.mark.parametrize("kind", ["missing", "folder", "binary"])
def test_unreadable_file_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "instances_mine.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\xff\xd8\xff\x00")
    with pytest.raises(InputError, match=r"instances_mine\.json"):
        load_coco(path)


def test_annotation_id_zero_counts_as_a_match(tmp_path: Path) -> None:
    source = good()
    source["annotations"] = [{"id": 0, "image_id": 4, "category_id": 13, "bbox": [5, 5, 100, 50]}]
    data = load_coco(write(tmp_path, source))
    box = np.array([[5, 5, 105, 55]], np.float32)
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    found = Detections(box, np.array([0.9], np.float32), np.array([0]))
    result = evaluate(data, {4: found, 9: nothing})
    assert (result.map, result.recall) == (pytest.approx(1), 1)


def test_annotations_with_the_same_id_all_count(tmp_path: Path) -> None:
    source = good()
    boxes = [[5, 5, 50, 50], [100, 100, 50, 50]]
    source["annotations"] = [{"id": 3, "image_id": 4, "category_id": 13, "bbox": box} for box in boxes]
    data = load_coco(write(tmp_path, source))
    corners = np.array([[x, y, x + w, y + h] for x, y, w, h in boxes], np.float32)
    found = Detections(corners, np.array([0.9, 0.8], np.float32), np.array([0, 0]))
    nothing = Detections(corners[:0], found.scores[:0], found.classes[:0])
    result = evaluate(data, {4: found, 9: nothing})
    assert len(result.object_scores) == 2
    assert result.map == pytest.approx(1)


def test_digest_depends_on_images_and_annotations(tmp_path: Path) -> None:
    path = write(tmp_path, good())
    first = load_coco(path).digest
    assert load_coco(path).digest == first
    draw(tmp_path / "a.png", 77)
    second = load_coco(path).digest
    path.write_text(json.dumps(changed("annotations", 1, bbox=[0, 0, 10, 21])))
    assert len({first, second, load_coco(path).digest}) == 3


def test_truncated_image_is_refused_when_hashed(tmp_path: Path) -> None:
    path = write(tmp_path, good())
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.png: .*truncated"):
        _ = load_coco(path).digest


# Names stay short and numbers within a float: test_image_name_too_long and test_box_beyond_a_float have the rest.
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["a.png", "..", "", 4, 9]),
)


_VALUES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(
            st.sampled_from(["images", "annotations", "categories", "id", "bbox", "file_name", "width"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=8,
)


_SPOTS = [
    *[(key,) for key in good()],
    *[(key, n) for key in good() for n in (0, 1)],
    *[(key, n, field) for key in good() for n in (0, 1) for field in (*good()[key][n], "iscrowd")],
    *[("annotations", 1, "bbox", n) for n in range(4)],
]


_CHANGES = st.lists(st.tuples(st.sampled_from(_SPOTS), st.none() | st.tuples(_VALUES)), min_size=1, max_size=3)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("fuzz"), good())


def accepts_or_refuses(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data))
    try:
        dataset = load_coco(path)
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert all(image.path.is_file() for image in dataset.images)
        assert all(len(entry["bbox"]) == 4 for entry in dataset.coco["annotations"])


@settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=_VALUES)
def test_fuzz_any_json(fuzzed: Path, data: Any) -> None:
    accepts_or_refuses(fuzzed, data)


@settings(max_examples=1000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(changes=_CHANGES)
def test_fuzz_changed_file(fuzzed: Path, changes: list[tuple[tuple[Any, ...], tuple[Any] | None]]) -> None:
    """Values of a good file replaced by any others, or taken out."""
    data: Any = copy.deepcopy(good())
    for spot, new in changes:
        place = data
        for step in spot[:-1]:
            holds = step in place if isinstance(place, dict) else isinstance(place, list) and step in range(len(place))
            place = place[step] if holds else None
        last = spot[-1]
        if isinstance(place, dict) and isinstance(last, str):
            if new is None:
                place.pop(last, None)
            else:
                place[last] = new[0]
        elif isinstance(place, list) and isinstance(last, int) and last < len(place):
            place[last : last + 1] = [] if new is None else [new[0]]
    accepts_or_refuses(fuzzed, data)
