"""Data sets as strangers have them: each is read right, or refused with file, value and remedy."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image

from lowbit.data.coco import load_coco
from lowbit.data.images import read_image
from lowbit.data.load import load_data
from lowbit.data.yolo import load_yolo
from lowbit.errors import InputError
from tests.unit.data_files import Json, blobs, draw, good, write, write_yolo


def with_thumbnail(quality: int = 95) -> bytes:
    """A photo with an end marker in its header: that of its thumbnail."""
    small = bytes(cv2.imencode(".jpg", blobs(40, 30))[1])
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0\0\0\0\0\0\0" + small
    whole = bytes(cv2.imencode(".jpg", blobs(200, 150), [cv2.IMWRITE_JPEG_QUALITY, quality])[1])
    return whole[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + whole[2:]


def test_a_thumbnail_does_not_end_a_photo(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(with_thumbnail())
    assert read_image(path).shape == (150, 200, 3)
    path.write_bytes(with_thumbnail()[:-500])
    with pytest.raises(InputError, match=r"photo\.jpg: the image is truncated"):
        read_image(path)


def test_what_a_phone_appends_to_a_photo_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(with_thumbnail() + bytes(100_000))
    assert read_image(path).shape == (150, 200, 3)


def test_a_header_without_end_is_no_photo(tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    for content in (b"\xff\xd8", b"\xff\xd8" + b"\xff" * 1000, b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe0\0\0" * 9):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"photo\.jpg"):
            read_image(path)


@pytest.mark.parametrize(("shape", "values"), [([17, 2], "0.5 " * 34), ([4, 3], "0.1 0.9 2 " * 4)])
def test_rows_with_keypoints_have_a_box(tmp_path: Path, shape: list[int], values: str) -> None:
    """An even number of values is a polygon only where no keypoints are declared."""
    path = write_yolo(tmp_path, kpt_shape=shape)
    for number in (0, 1):
        (tmp_path / "labels" / "val" / f"{number}.txt").write_text(f"1 0.5 0.5 0.25 0.5 {values}\n")
    boxes = [entry["bbox"] for entry in load_yolo(path).coco["annotations"]]
    assert boxes == [pytest.approx([36, 24, 24, 48])] * 2
    (tmp_path / "labels" / "val" / "0.txt").write_text("1 0.5 0.5 0.25 0.5 0.1 0.1\n")
    with pytest.raises(InputError, match=r"0\.txt: line 1"):
        load_yolo(path)


def test_a_shape_of_keypoints_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.yaml: 'kpt_shape' is 17"):
        load_yolo(write_yolo(tmp_path, kpt_shape=17))


def test_rows_of_corners_are_refused(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    rng = np.random.default_rng(1)
    corners = np.sort(rng.uniform(0, 1, (20, 2, 2)), 1).reshape(20, 4)
    (tmp_path / "labels" / "val" / "1.txt").write_text(
        "".join(f"0 {' '.join(f'{v:.4f}' for v in row)}\n" for row in corners)
    )
    with pytest.raises(InputError, match=r"data\.yaml: \d+ of 21 boxes leave their image"):
        load_yolo(path)


def test_a_negative_extent_is_no_box(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    (tmp_path / "labels" / "val" / "1.txt").write_text("0 0.5 0.5 -0.005 0.1\n")
    with pytest.raises(InputError, match=r"1\.txt: line 1"):
        load_yolo(path)


def test_images_without_label_files_are_counted(tmp_path: Path) -> None:
    path = write_yolo(tmp_path)
    (tmp_path / "labels" / "val" / "0.txt").unlink()
    assert "2 of 3 images have no label file" in load_yolo(path).notes[0]


def test_windows_separators(tmp_path: Path) -> None:
    path = write_yolo(tmp_path, val="images\\val")
    assert len(load_yolo(path).images) == 3
    (tmp_path / "val.txt").write_text(".\\images\\val\\0.png\r\nimages\\val\\1.png\r\n")
    assert len(load_yolo(write_yolo(tmp_path, val="val.txt")).images) == 2


@pytest.mark.parametrize("name", ["images.csv", "a.xml", "classes.names", "export.json"])
def test_other_formats_are_no_coco(tmp_path: Path, name: str) -> None:
    """Open Images, Pascal VOC, darknet, Label Studio's own JSON."""
    (tmp_path / name).write_text("[]" if name.endswith("json") else "ImageID,XMin\n")
    with pytest.raises(InputError, match=rf"{name}: .* as COCO"):
        load_data(tmp_path / name)


def boxes(draw_box: Callable[[np.random.Generator], list[float]], side: int = 480, count: int = 40) -> Json:
    rng = np.random.default_rng(2)
    data = good()
    for image in data["images"]:
        image["width"] = image["height"] = side
    data["annotations"] = [{"image_id": 4, "category_id": 13, "bbox": draw_box(rng)} for _ in range(count)]
    return data


def stored(folder: Path, data: Json, side: int = 480) -> Path:
    path = write(folder, data)
    for name in ("a.png", "b.png"):
        draw(folder / name, len(name), side)
    return path


def test_percent_are_no_pixels(tmp_path: Path) -> None:
    """As Label Studio's own export has them."""

    def percent(rng: np.random.Generator) -> list[float]:
        x, y = rng.uniform(0, 60, 2)
        return [x, y, *rng.uniform(5, 40, 2)]

    with pytest.raises(InputError, match=r"instances_mine\.json: every bbox ends within 100 pixels .*percent"):
        load_coco(stored(tmp_path, boxes(percent)))
    # On images of that size they are pixels.
    assert load_coco(stored(tmp_path, boxes(percent, 120), 120)).images


def test_three_corners_are_enough(tmp_path: Path) -> None:
    data = boxes(lambda rng: [300.0, 300.0, *rng.uniform(310, 470, 2)], count=3)
    with pytest.raises(InputError, match=r"3 of 3 boxes leave their image"):
        load_coco(stored(tmp_path, data))


def encode(mode: str) -> bytes:
    buffer = io.BytesIO()
    grey = blobs(96, 96)[:, :, 0]
    if mode == "I;16":
        Image.fromarray(grey.astype(np.uint16) * 257).save(buffer, "PNG")
    else:
        Image.fromarray(np.stack([grey] * 3, 2)).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "I;16", "LA", "RGBA", "P", "CMYK", "1"])
def test_images_of_other_modes_keep_their_picture(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encode(mode))
    found, grey = read_image(path).astype(int), blobs(96, 96)[:, :, 0].astype(int)
    assert found.shape == (96, 96, 3)
    assert np.corrcoef(found[:, :, 1].ravel(), grey.ravel())[0, 1] > (0.4 if mode == "1" else 0.95)


def change(where: str, **values: object) -> Json:
    data = good()
    data[where][0] |= values
    return data


REFUSED: dict[str, tuple[Json, str]] = {
    "ids as floats": (change("images", id=9.0), r"'id' in 'images' is '9.0'; a whole number"),
    "ids as text": (change("images", id="9"), r"'id' in 'images' is '9'"),
    "categories by name": (change("annotations", category_id="cat"), r"'category_id' in 'annotations' is 'cat'"),
    "width and height exchanged": (change("images", width=96, height=48), r"is annotated as 96 x 48 pixels"),
    "NaN": (change("annotations", bbox=[float("nan"), 0, 1, 1]), r"bbox \[nan, 0, 1, 1\] of image 9"),
    "infinity": (change("annotations", bbox=[0, 0, float("inf"), 1]), r"bbox \[0, 0, inf, 1\] of image 9"),
    "negative extent": (change("annotations", bbox=[5, 5, -3, 4]), r"bbox \[5, 5, -3, 4\] of image 9"),
    "null boxes": (change("annotations", bbox=None), r"bbox None of image 9"),
    "empty boxes": (change("annotations", bbox=[]), r"bbox \[\] of image 9"),
    "no categories": ({**good(), "categories": []}, r"'categories' is empty"),
    "an absolute path of Windows": (
        change("images", file_name="C:\\data\\b.png"),
        r"first image, 'C:\\\\data\\\\b.png', is in none of",
    ),
}


@pytest.mark.parametrize(("data", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(tmp_path: Path, data: Json, said: str) -> None:
    with pytest.raises(InputError, match=rf"instances_mine\.json: .*{said}"):
        load_coco(write(tmp_path, data))


def test_keypoints_without_boxes_are_refused(tmp_path: Path) -> None:
    data = change("annotations", keypoints=[1, 2, 2], num_keypoints=1)
    del data["annotations"][0]["bbox"]
    with pytest.raises(InputError, match=r"an entry of 'annotations' has no 'bbox'"):
        load_coco(write(tmp_path, data))


def test_one_name_in_several_folders(tmp_path: Path) -> None:
    data = good()
    for image, folder in zip(data["images"], ("day", "night"), strict=True):
        image["file_name"] = f"{folder}/0001.png"
    found = load_coco(write(tmp_path, data, ("day/0001.png", "night/0001.png")))
    assert [image.path.parent.name for image in found.images] == ["night", "day"]


def test_text_of_another_encoding_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, good())
    path.write_text(json.dumps(good()), encoding="utf-16")
    with pytest.raises(InputError, match=r"instances_mine\.json: cannot be read as text"):
        load_coco(path)
    place = write_yolo(tmp_path)
    place.write_text(yaml.safe_dump({"val": "images/val", "names": ["a", "b"]}), encoding="utf-16")
    with pytest.raises(InputError, match=r"data\.yaml"):
        load_yolo(place)
