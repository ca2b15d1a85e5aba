"""What annotation tools write and call COCO: the right objects, or a refusal that says what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from lowbit.data.coco import load_coco
from lowbit.data.dataset import Dataset
from lowbit.errors import InputError
from tests.unit.data_files import Json, blobs, good, write


def photo(path: Path, orientation: int, width: int = 90, height: int = 60) -> Path:
    """An image with an EXIF orientation; ``width`` and ``height`` as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(blobs(width, height)).save(path, exif=exif)
    return path


def photos(folder: Path, *images: tuple[int, tuple[int, int] | None]) -> Path:
    """A COCO file of photos: each an orientation and the annotated width and height."""
    entries, objects = [], []
    for number, (orientation, size) in enumerate(images, 1):
        photo(folder / f"{number}.jpg", orientation)
        entries.append({"id": number, "file_name": f"{number}.jpg"})
        if size:
            entries[-1] |= {"width": size[0], "height": size[1]}
        objects.append({"image_id": number, "category_id": 1, "bbox": [1, 2, 10, 20]})
    path = folder / "instances_photos.json"
    path.write_text(json.dumps({"images": entries, "annotations": objects, "categories": [{"id": 1, "name": "a"}]}))
    return path


def frames(data: Dataset) -> list[tuple[int, int, bool]]:
    return [(image.width, image.height, image.as_stored) for image in data.images]


def test_the_annotated_size_says_how_a_photo_is_turned(tmp_path: Path) -> None:
    data = load_coco(photos(tmp_path, (6, (60, 90)), (6, (90, 60)), (1, (90, 60))))
    assert frames(data) == [(60, 90, False), (90, 60, True), (90, 60, False)]
    assert frames(load_coco(photos(tmp_path, (6, None), (1, None)))) == [(60, 90, False), (90, 60, False)]


@pytest.mark.parametrize(("first", "turned"), [((6, (60, 90)), False), ((6, (90, 60)), True), ((1, (90, 60)), False)])
def test_photos_upside_down_follow_the_others(tmp_path: Path, first: tuple[int, tuple[int, int]], turned: bool) -> None:
    data = load_coco(photos(tmp_path, first, (3, (90, 60))))
    assert data.images[1].as_stored is turned
    assert "1 images have an EXIF orientation that width and height do not show, '2.jpg'" in data.notes[0]
    assert ("stored" if turned else "displayed") in data.notes[0]


def test_photos_upside_down_among_both_kinds(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"instances_photos\.json: image '3\.jpg' has EXIF orientation 3"):
        load_coco(photos(tmp_path, (6, (60, 90)), (6, (90, 60)), (3, (90, 60))))


@pytest.mark.parametrize("size", [(640, 480), (60, 90)])
def test_a_size_that_is_not_the_file_s(tmp_path: Path, size: tuple[int, int]) -> None:
    said = rf"image '2\.jpg' is annotated as {size[0]} x {size[1]} pixels, and its file .*2\.jpg is 90 x 60\."
    with pytest.raises(InputError, match=said):
        load_coco(photos(tmp_path, (1, (90, 60)), (1, size)))
    with pytest.raises(InputError, match=r"is 90 x 60, displayed as 60 x 90"):
        load_coco(photos(tmp_path, (6, (91, 60))))


def test_what_is_learned_from_is_as_displayed(tmp_path: Path) -> None:
    data = load_coco(photos(tmp_path, (6, (60, 90)), (6, (90, 60))))
    boxes = [boxes.tolist() for boxes, _ in data.objects_as_displayed().values()]
    # Turned by 90 degrees clockwise: x from 60 - y2, y from x1.
    assert boxes == [[[1, 2, 11, 22]], [[38, 1, 58, 11]]]


def test_the_digest_knows_the_frame(tmp_path: Path) -> None:
    one, other = (load_coco(photos(tmp_path, (6, size))).digest for size in ((60, 90), (90, 60)))
    assert one != other
    # Upside down, so that width and height say nothing.
    data = load_coco(photos(tmp_path, (3, (90, 60))))
    as_stored = replace(data, images=(replace(data.images[0], as_stored=True),))
    assert as_stored.digest != data.digest


def test_annotations_that_repeat_are_dropped_and_counted(tmp_path: Path) -> None:
    data = good()
    data["annotations"] = [{**entry, "id": n} for n, entry in enumerate(data["annotations"] * 2)]
    found = load_coco(write(tmp_path, data))
    assert [entry["bbox"] for entry in found.coco["annotations"]] == [entry["bbox"] for entry in good()["annotations"]]
    assert "2 of 4 annotations were dropped" in found.notes[0]


def test_byte_order_mark(tmp_path: Path) -> None:
    path = write(tmp_path, good())
    path.write_text(json.dumps(good()), encoding="utf-8-sig")
    assert len(load_coco(path).images) == 2


def of(name: str, box: Any = (10.5, 20.0, 30.25, 40.0), **annotation: Any) -> Json:
    """A file of one image with one object."""
    return {
        "images": [{"id": 0, "file_name": name, "width": 96, "height": 96}],
        "annotations": [{"id": 0, "image_id": 0, "category_id": 0, "bbox": list(box)} | annotation],
        "categories": [{"id": 0, "name": "cat"}],
    }


def cvat() -> Json:
    """https://docs.cvat.ai/docs/dataset_management/formats/format-coco/"""
    data = of("a.png", segmentation=[], area=1210.0, iscrowd=0, attributes={"occluded": False, "rotation": 0.0})
    data["categories"] = [{"id": 0, "name": "cat", "supercategory": ""}]
    licence = {"name": "", "id": 0, "url": ""}
    return {"licenses": [licence], "info": {"contributor": "", "date_created": ""}, **data}


def fiftyone() -> Json:
    """https://docs.voxel51.com/user_guide/export_datasets.html: images in data, labels.json beside it."""
    data = of("a.png", area=1210.0, iscrowd=0)
    data["images"][0] |= {"license": None, "coco_url": None}
    data["categories"] = [{"id": 0, "name": "cat", "supercategory": None}]
    return {"info": {"year": "", "version": ""}, "licenses": [], **data}


def label_studio(name: str) -> Json:
    """https://labelstud.io/guide/export: result.json beside images."""
    return {**of(name, segmentation=[], ignore=0, iscrowd=0, area=1210.0), "info": {"version": "1.0"}}


LAYOUTS: dict[str, tuple[str, str, Json]] = {
    "CVAT": ("annotations/instances_default.json", "images/default/a.png", cvat()),
    "CVAT, older": ("annotations/instances_default.json", "images/a.png", cvat()),
    "FiftyOne": ("labels.json", "data/a.png", fiftyone()),
    "Label Studio": ("result.json", "images/a.png", label_studio("images/a.png")),
    "Label Studio on Windows": ("result.json", "images/a.png", label_studio("images\\a.png")),
    "Roboflow": ("valid/_annotations.coco.json", "valid/a.png", of("a.png", area=1210, segmentation=[], iscrowd=0)),
}


@pytest.mark.parametrize(("place", "image", "data"), LAYOUTS.values(), ids=LAYOUTS)
def test_exporters_layouts(tmp_path: Path, place: str, image: str, data: Json) -> None:
    for name in (place, image):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(tmp_path / image), blobs(96, 96))
    (tmp_path / place).write_text(json.dumps(data))
    found = load_coco(tmp_path / place)
    assert [one.path.resolve() for one in found.images] == [(tmp_path / image).resolve()]
    assert found.coco["annotations"][0]["bbox"] == [10.5, 20.0, 30.25, 40.0]
    assert found.notes == ()


def test_roboflow_s_splits_have_names_of_their_own(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), blobs(96, 96))
    (tmp_path / "_annotations.coco.json").write_text(json.dumps(of("a.png")))
    assert load_coco(tmp_path / "_annotations.coco.json").name == tmp_path.name


REFUSED: dict[str, tuple[Json, str]] = {
    "URL": (of("https://example.com/a.png?X-Amz-Expires=60"), r"is a URL\. Download the images"),
    "local files of Label Studio": (of("/data/local-files/?d=a.png"), r"first image, '/data/local-files"),
    "boxes as text": (of("a.png", ("10", "20", "30", "40")), r"bbox .* is not \[x, y, width"),
    "an image under two ids": (
        {**of("a.png"), "images": [{"id": n, "file_name": "a.png"} for n in (0, 1)]},
        r"'images' repeats a file",
    ),
    "width as text": (
        {**of("a.png"), "images": [{"id": 0, "file_name": "a.png", "width": "96", "height": "96"}]},
        r"'width' in 'images' is '96'; a whole number is needed",
    ),
}


@pytest.mark.parametrize(("data", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, data: Json, said: str) -> None:
    with pytest.raises(InputError, match=rf"instances_mine\.json: .*{said}"):
        load_coco(write(tmp_path, data))


def test_masks_without_boxes(tmp_path: Path) -> None:
    data = of("a.png", segmentation={"size": [96, 96], "counts": "abc"}, iscrowd=1)
    del data["annotations"][0]["bbox"]
    with pytest.raises(InputError, match=r"has a segmentation and no 'bbox'"):
        load_coco(write(tmp_path, data))


@pytest.mark.parametrize(("kind", "said"), [("fractions", r"within \[0, 1\]"), ("corners", r"read as\s+corners")])
def test_boxes_of_another_format(tmp_path: Path, kind: str, said: str) -> None:
    """Open Images has fractions, Pascal VOC has corners."""
    data = good()
    rng = np.random.default_rng(1)
    boxes = np.sort(rng.uniform(40, 96, (40, 2, 2)), 1).reshape(40, 4) / (96 if kind == "fractions" else 1)
    data["annotations"] = [{"image_id": 4, "category_id": 13, "bbox": box} for box in boxes.tolist()]
    with pytest.raises(InputError, match=said):
        load_coco(write(tmp_path, data))


def test_boxes_out_of_frame_are_no_corners(tmp_path: Path) -> None:
    data = good()
    boxes = [[-5.0 + n, -3, 40, 120] for n in range(20)]
    data["annotations"] = [{"image_id": 4, "category_id": 13, "bbox": box} for box in boxes]
    assert len(load_coco(write(tmp_path, data)).coco["annotations"]) == 20
