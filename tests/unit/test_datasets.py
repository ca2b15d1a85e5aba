"""COCO files, calibration lists and the leak check: what is read, and what is refused with the file's name."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lowbit.datasets import (
    CalibrationSet,
    Dataset,
    check_classes,
    check_leak,
    labelled_by,
    load_calibration,
    load_coco,
    load_data,
    load_unlabelled,
)
from lowbit.decode import Detections
from lowbit.errors import InputError
from lowbit.imaging import InputSpec
from lowbit.metrics import evaluate

Json = dict[str, Any]


def good() -> Json:
    """Two images out of order, two of COCO's ninety ids."""
    return {
        "images": [
            {"id": 9, "file_name": "b.png", "width": 640, "height": 480},
            {"id": 4, "file_name": "a.png", "width": 320, "height": 240},
        ],
        "annotations": [
            {"id": 5, "image_id": 9, "category_id": 90, "bbox": [1, 2, 30, 40.5], "area": 600, "iscrowd": 1},
            {"id": 6, "image_id": 4, "category_id": 13, "bbox": [0, 0, 10, 20]},
        ],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 13, "name": "stop sign"}],
    }


def picture(path: Path, seed: int, side: int = 96, quality: int = 95) -> Path:
    """A picture with structure: smooth random blobs, the same scene at every size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), np.uint8)
    image = cv2.resize(coarse, (192, 192), interpolation=cv2.INTER_CUBIC)
    image = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_JPEG_QUALITY, quality] if path.suffix == ".jpg" else [])
    return path


def write(folder: Path, data: Any, pictures: tuple[str, ...] = ("a.png", "b.png")) -> Path:
    """Write a COCO file and its pictures; text is written as it is."""
    for number, name in enumerate(pictures):
        picture(folder / name, number)
    path = folder / "instances_mine.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def dataset_of(folder: Path, names: list[str]) -> Dataset:
    images = [{"id": n, "file_name": name, "width": 96, "height": 96} for n, name in enumerate(names, 1)]
    data = {
        "images": images,
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 9, 9]}],
        "categories": [{"id": 1, "name": "thing"}],
    }
    path = folder / "instances_val.json"
    path.write_text(json.dumps(data))
    return load_coco(path)


def calibration_of(folder: Path, names: list[str]) -> CalibrationSet:
    path = folder / "list.txt"
    path.write_text("\n".join(names))
    return load_calibration(path)


def test_good_file(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, good()))
    assert data.name == "mine"
    assert [(i.id, i.path.name, i.width, i.height) for i in data.images] == [
        (4, "a.png", 320, 240),
        (9, "b.png", 640, 480),
    ]
    assert data.category_ids == (13, 90)
    assert data.category_names == ("stop sign", "toothbrush")
    first, second = data.coco["annotations"]
    assert (first["area"], first["iscrowd"]) == (600, 1)
    assert (second["area"], second["iscrowd"]) == (200, 0)


@pytest.mark.parametrize("place", ["val2017", "train2017", "images", "../val2017", "..", "."])
def test_pictures_are_looked_for_nearby(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "annotations"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        picture(folder / place / name, 1)
    path = write(folder, good(), pictures=())
    assert [i.path.resolve().parent for i in load_coco(path).images] == [(folder / place).resolve()] * 2


def test_pictures_in_a_named_folder(tmp_path: Path) -> None:
    path = write(tmp_path, good())  # pictures next to the file, which are not meant
    for name in ("a.png", "b.png"):
        picture(tmp_path / "elsewhere" / name, 3)
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
    "first picture missing": changed("images", 0, file_name="gone.png"),
    "later picture missing": changed("images", 1, file_name="gone.png"),
    "picture is a folder": changed("images", 1, file_name="."),
    "picture's name has a NUL": changed("images", 1, file_name="a\0.png"),
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
def test_picture_name_too_long(tmp_path: Path, index: int) -> None:
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


def write_yolo(folder: Path, **change: Any) -> Path:
    """Ultralytics' layout: two labelled pictures and one without objects; a box and a polygon."""
    for number, labels in enumerate(("1 0.5 0.5 0.25 0.5\n", "0 0.1 0.2 0.5 0.2 0.5 0.6\n\n", None)):
        picture(folder / "images" / "val" / f"{number}.png", number)
        if labels:
            (folder / "labels" / "val").mkdir(parents=True, exist_ok=True)
            (folder / "labels" / "val" / f"{number}.txt").write_text(labels)
    data = {"path": ".", "train": "images/train", "val": "images/val", "names": {0: "cat", 1: "dog"}, **change}
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
    return path


def test_yolo_labels(tmp_path: Path) -> None:
    data = load_data(write_yolo(tmp_path))
    assert [image.path.name for image in data.images] == ["0.png", "1.png", "2.png"]
    assert (data.category_ids, data.category_names) == ((0, 1), ("cat", "dog"))
    boxes = {entry["image_id"]: (entry["category_id"], entry["bbox"]) for entry in data.coco["annotations"]}
    assert boxes[1] == (1, pytest.approx([36, 24, 24, 48]))
    assert boxes[2] == (0, pytest.approx([9.6, 19.2, 38.4, 38.4]))
    found = {
        image.id: Detections(
            np.array(
                [[x, y, x + w, y + h] for owner, (_, (x, y, w, h)) in boxes.items() if owner == image.id], np.float32
            ).reshape(-1, 4),
            np.ones(int(image.id in boxes), np.float32),
            np.array([label for owner, (label, _) in boxes.items() if owner == image.id], np.int64),
        )
        for image in data.images
    }
    result = evaluate(data, found)
    assert (result.map, result.per_class) == (pytest.approx(1), pytest.approx({"cat": 1, "dog": 1}))


def test_the_digest_of_yolo_labels_follows_them(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    before = load_data(path).digest
    assert load_data(path).digest == before
    (tmp_path / "labels" / "val" / "0.txt").write_text("0 0.5 0.5 0.25 0.5\n")
    assert load_data(path).digest != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"val": None}, r"data\.yaml: has no 'val'"),
        ({"names": None}, r"data\.yaml: has no 'val' or no 'names'"),
        ({"names": {0: "cat", 2: "dog"}}, r"data\.yaml: 'names' has the indices \[0, 2\]"),
        ({"names": {"a": "cat"}}, r"data\.yaml: 'names' has the index 'a'"),
        ({"names": ["cat"]}, r"0\.txt: line 1, '1 0.5 0.5 0.25 0.5', is no class below 1"),
        ({"val": "images/test"}, r"images/test: is neither a folder nor a list"),
    ],
)
def test_bad_yolo_data_sets(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        load_data(write_yolo(tmp_path, **change))


@pytest.mark.parametrize(
    "line", ["1 0.5 0.5 0.25", "1.5 0.5 0.5 0.1 0.1", "0 2 0.5 0.1 0.1", "a b c d e", "0 1 nan 1 1"]
)
def test_bad_yolo_labels(tmp_path: Path, line: str) -> None:
    path = write_yolo(tmp_path)
    (tmp_path / "labels" / "val" / "1.txt").write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(InputError, match=r"1\.txt: line 2"):
        load_data(path)


def test_pictures_without_labels(tmp_path: Path) -> None:
    write_yolo(tmp_path)
    with pytest.raises(InputError, match=r"has no labels.*--labels none"):
        load_data(tmp_path / "images")
    data = load_unlabelled(tmp_path / "images", 2)
    assert (len(data.images), data.labelled, data.category_names) == (3, False, ("class 0", "class 1"))
    assert load_unlabelled(tmp_path / "data.yaml", 2).category_names == ("cat", "dog")
    box = np.array([[1, 2, 11, 22], [5, 5, 9, 9]], np.float32)
    seen = Detections(box, np.array([0.9, 0.1], np.float32), np.array([1, 0]))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    truth = labelled_by(data, {1: seen, 2: nothing, 3: nothing}, 0.25, tmp_path / "store")
    (entry,) = truth.coco["annotations"]
    assert (entry["category_id"], entry["bbox"]) == (1, [1, 2, 10, 20])
    assert "agreement" in truth.name and truth.labelled
    assert evaluate(truth, {1: seen, 2: nothing, 3: nothing}).map == pytest.approx(1)
    # What the truth was made of can be read again, for comparing runs.
    assert load_data(truth.annotations).digest == truth.digest
    with pytest.raises(InputError, match=r"confident .* of nothing on its 3 pictures"):
        labelled_by(data, {1: nothing, 2: nothing, 3: nothing}, 0.25, tmp_path / "store")


def test_class_maps(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, good())).with_classes((90, -1, 13))
    assert (data.category_ids, data.category_names) == ((90, -1, 13), ("toothbrush", "not in the data", "stop sign"))
    check_classes(data, 3, "toy")
    box = np.array([[0, 0, 10, 20]] * 2, np.float32)
    seen = Detections(box, np.array([0.9, 0.8], np.float32), np.array([1, 2]))
    nothing = Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    result = evaluate(data, {4: seen, 9: nothing})
    assert result.per_class == {"stop sign": pytest.approx(1)}  # what is not in the data counts neither way
    for bad in ((90, 14), (90, 90), (-1, -1)):
        with pytest.raises(InputError, match=r"instances_mine\.json: 'classes'"):
            load_coco(tmp_path / "instances_mine.json").with_classes(bad)


def test_class_count(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, good()))
    check_classes(data, 2, "toy")
    with pytest.raises(InputError, match=r"instances_mine\.json: has 2 categories \(ids 13 to 90\), but toy has 80"):
        check_classes(data, 80, "toy")


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


def test_digest_depends_on_pictures_and_annotations(tmp_path: Path) -> None:
    path = write(tmp_path, good())
    first = load_coco(path).digest
    assert load_coco(path).digest == first
    picture(tmp_path / "a.png", 77)
    second = load_coco(path).digest
    path.write_text(json.dumps(changed("annotations", 1, bbox=[0, 0, 10, 21])))
    assert len({first, second, load_coco(path).digest}) == 3


def test_truncated_picture_is_refused_when_hashed(tmp_path: Path) -> None:
    path = write(tmp_path, good())
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"a\.png: .*truncated"):
        _ = load_coco(path).digest


def test_calibration_list_is_relative_to_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "lists" / "x.png", 1)
    picture(tmp_path / "y.png", 2)
    (tmp_path / "lists" / "list.txt").write_text("# mine\n\n  x.png  \r\n  # not this one\n../y.png\n")
    monkeypatch.chdir(tmp_path)
    for path in (Path("lists/list.txt"), tmp_path / "lists" / "list.txt"):
        paths = load_calibration(path).paths
        assert [p.resolve() for p in paths] == [(tmp_path / "lists" / "x.png"), (tmp_path / "y.png")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such calibration list"),
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("# a\n  # b\n", "is empty"),
        ("x.png\ngone.png", r"gone\.png does not exist"),
        ("gone.png\nx.png\nlost.png", r"gone\.png and 1 more does not exist"),
        ("x.png\nx.png", "names a picture twice"),
        (b"\xff\xfe\x00", "cannot be read as text"),
    ],
)
def test_bad_calibration_list(tmp_path: Path, text: str | bytes | None, said: str) -> None:
    picture(tmp_path / "x.png", 1)
    path = tmp_path / "list.txt"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=rf"list\.txt: .*{said}"):
        load_calibration(path)


def test_calibration_line_too_long(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("a" * 5000)
    with pytest.raises(InputError, match=r"list\.txt"):
        load_calibration(path)


@pytest.mark.parametrize("size", [32, 64])
def test_batches(tmp_path: Path, size: int) -> None:
    names = [picture(tmp_path / f"{n}.png", n).name for n in range(3)]
    batches = list(calibration_of(tmp_path, names).batches(InputSpec(size)))
    assert [(b.shape, b.dtype) for b in batches] == [((1, 3, size, size), np.float32)] * 3
    assert all(0 <= b.min() < b.max() <= 1 for b in batches)
    assert not np.array_equal(batches[0], batches[1])


def test_batches_are_streamed(tmp_path: Path) -> None:
    names = [picture(tmp_path / f"{n}.png", n).name for n in range(3)]
    batches = calibration_of(tmp_path, names).batches(InputSpec(32))
    (tmp_path / "1.png").unlink()
    assert next(batches).shape == (1, 3, 32, 32)
    with pytest.raises(InputError, match=r"1\.png"):
        next(batches)


def test_calibration_digest_knows_the_order(tmp_path: Path) -> None:
    names = [picture(tmp_path / f"{n}.png", n).name for n in range(2)]
    first = calibration_of(tmp_path, names).digest
    assert calibration_of(tmp_path, names[::-1]).digest != first
    for name in names:
        (tmp_path / "moved").mkdir(exist_ok=True)
        (tmp_path / "moved" / name).write_bytes((tmp_path / name).read_bytes())
    assert calibration_of(tmp_path / "moved", names).digest == first


def test_no_leak_between_different_pictures(tmp_path: Path) -> None:
    val = [picture(tmp_path / f"{n}.jpg", n).name for n in range(20)]
    calibration = [picture(tmp_path / f"{n}.jpg", n).name for n in range(100, 120)]
    check_leak(dataset_of(tmp_path, val), calibration_of(tmp_path, calibration))


@pytest.mark.parametrize(
    ("val", "leaked", "why"),
    [
        (("x.jpg", 1, 96, 95), ("copy.jpg", 1, 96, 95), "the same file"),
        (("000000000139.jpg", 1, 96, 95), ("000000000139.jpg", 2, 96, 95), "the same COCO id"),
        (("COCO_val2014_000000000139.jpg", 1, 96, 95), ("000000000139.png", 2, 96, 95), "the same COCO id"),
        (("x.png", 1, 192, 95), ("copy.jpg", 1, 96, 50), "a scaled or re-encoded copy"),
        (("x.jpg", 1, 192, 95), ("copy.jpg", 1, 192, 30), "a scaled or re-encoded copy"),
    ],
)
def test_leak(tmp_path: Path, val: tuple[str, int, int, int], leaked: tuple[str, int, int, int], why: str) -> None:
    for sub, (name, *how) in (("val", val), ("calib", leaked)):
        picture(tmp_path / sub / "own.jpg", {"val": 50, "calib": 60}[sub])
        picture(tmp_path / sub / name, *how)
    data = dataset_of(tmp_path / "val", [val[0], "own.jpg"])
    with pytest.raises(InputError, match=rf"list\.txt: 1 of its pictures .*{leaked[0]}, {why}"):
        check_leak(data, calibration_of(tmp_path / "calib", ["own.jpg", leaked[0]]))
    check_leak(data, calibration_of(tmp_path / "calib", ["own.jpg"]))


def test_plain_pictures_are_no_copies_of_each_other(tmp_path: Path) -> None:
    for name, value in (("dark.png", 10), ("light.png", 200)):
        cv2.imwrite(str(tmp_path / name), np.full((96, 96, 3), value, np.uint8))
    check_leak(dataset_of(tmp_path, ["dark.png"]), calibration_of(tmp_path, ["light.png"]))


# Names stay short and numbers within a float: test_picture_name_too_long and test_box_beyond_a_float have the rest.
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
