"""Class counts and class maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lowbit.data.coco import load_coco
from lowbit.data.detections import Detections
from lowbit.data.load import load_data
from lowbit.errors import InputError
from lowbit.measure.metrics import evaluate
from tests.unit.data_files import Json, good, write, write_yolo
from tests.unit.toys import make_dataset


def test_class_maps(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, good())).with_classes((90, -1, 13))
    assert (data.category_ids, data.category_names) == ((90, -1, 13), ("toothbrush", "not in the data", "stop sign"))
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
    assert data.fitted(2, "toy") is data
    with pytest.raises(InputError, match=r"instances_mine\.json: has 2 categories \(ids 13 to 90\), but toy has 80"):
        data.fitted(80, "toy")


def categories(*listed: tuple[int, str, str], used: tuple[int, ...]) -> Json:
    """A file with these categories (id, name, supercategory), an object of each that is ``used``."""
    data = good()
    data["categories"] = [{"id": i, "name": name, "supercategory": above} for i, name, above in listed]
    data["annotations"] = [{"image_id": 4, "category_id": c, "bbox": [5 * n, 0, 9, 9]} for n, c in enumerate(used)]
    return data


ROBOFLOW = ((0, "animals", "none"), (1, "cat", "animals"), (2, "dog", "animals"))


@pytest.mark.parametrize("used", [(1, 2), (1,)])
def test_a_supercategory_without_objects_is_left_out(tmp_path: Path, used: tuple[int, ...]) -> None:
    data = load_coco(write(tmp_path, categories(*ROBOFLOW, used=used))).fitted(2, "toy")
    assert (data.category_ids, data.category_names) == ((1, 2), ("cat", "dog"))
    assert "1 of 3 categories were left out" in data.notes[0] and "'animals'" in data.notes[0]


def test_what_fits_keeps_its_categories(tmp_path: Path) -> None:
    data = load_coco(write(tmp_path, categories(*ROBOFLOW, used=(1, 2))))
    assert data.fitted(3, "toy").category_ids == (0, 1, 2)
    with pytest.raises(InputError, match=r"has 3 categories .* toy has 1 classes.*classes = "):
        data.fitted(1, "toy")


def test_names_that_two_categories_share(tmp_path: Path) -> None:
    path = write(tmp_path, categories((1, "box", ""), (2, "box", ""), (3, "cup", ""), used=(1, 2, 3)))
    data = load_coco(path)
    assert data.category_names == ("box (id 1)", "box (id 2)", "cup")
    seen = Detections(np.array([[0, 0, 9, 9]], np.float32), np.array([0.9], np.float32), np.array([0]))
    nothing = Detections(seen.boxes[:0], seen.scores[:0], seen.classes[:0])
    result = evaluate(data, {4: seen, 9: nothing})
    assert result.per_class == {"box (id 1)": pytest.approx(1), "box (id 2)": 0, "cup": 0}


def test_a_map_to_some_of_many_categories(tmp_path: Path) -> None:
    many = tuple((c, f"class {c}", "") for c in range(1, 81))
    path = write(tmp_path, categories(*many, used=tuple(range(1, 9))))
    data = load_coco(path).fitted(5, "toy", (3, 1, 40, -1, 7))
    assert {entry["category_id"] for entry in data.coco["annotations"]} == {1, 3, 7}
    box = np.array([[10, 0, 19, 9], [0, 0, 9, 9], [30, 0, 39, 9]], np.float32)
    seen = Detections(box, np.array([0.9, 0.8, 0.7], np.float32), np.array([0, 1, 4]))
    nothing = Detections(box[:0], seen.scores[:0], seen.classes[:0])
    assert evaluate(data, {4: seen, 9: nothing}).map == pytest.approx(1)
    boxes, classes = data.objects_as_displayed()[tmp_path / "a.png"]
    assert classes.tolist() == [1, 0, 4] and boxes[1].tolist() == [10, 0, 19, 9]
    assert data.digest != load_coco(path).fitted(5, "toy", (3, 1, 40, -1, 8)).digest
    with pytest.raises(InputError, match=r"maps 2 class indices, but toy has 5"):
        load_coco(path).fitted(5, "toy", (3, 1))
    with pytest.raises(InputError, match=r"has no object of the categories \[70\]"):
        load_coco(path).with_classes((70,))


def test_the_digest_does_not_know_where_the_files_lie(tmp_path: Path) -> None:
    paths = [write(tmp_path / name / "data", good()) for name in ("one", "two")]
    assert load_coco(paths[0]).digest == load_coco(paths[1]).digest
    yamls = [write_yolo(tmp_path / name / "yolo") for name in ("one", "two")]
    assert load_data(yamls[0]).digest == load_data(yamls[1]).digest


def test_some_of_the_images_evenly_spaced(tmp_path: Path) -> None:
    whole = load_data(make_dataset(tmp_path, count=10))
    some = whole.sampled(4)
    assert (some.sampled_from, whole.sampled_from) == (10, None)
    assert [image.path.name for image in some.images] == ["1-0.png", "1-2.png", "1-5.png", "1-7.png"]
    ids = {image.id for image in some.images}
    assert {entry["id"] for entry in some.coco["images"]} == ids
    objects = [entry for entry in whole.coco["annotations"] if entry["image_id"] in ids]
    assert some.coco["annotations"] == objects and 0 < len(objects) < len(whole.coco["annotations"])
    assert some.digest != whole.digest and some.category_ids == whole.category_ids
    assert "a quick run on 4 of 10 images" in some.notes[0] and "1.6 times as wide" in some.notes[0]
    assert whole.sampled(10) is whole


def test_a_sample_without_objects_is_refused(tmp_path: Path) -> None:
    data = good()
    last = load_coco(write(tmp_path, data)).images[-1].id
    data["annotations"] = [{"image_id": last, "category_id": 13, "bbox": [0, 0, 9, 9]}]
    whole = load_coco(write(tmp_path, data))
    with pytest.raises(InputError, match=r"instances_mine\.json: none of the 1 images of a quick run has an object"):
        whole.sampled(1)
