"""Images without labels: calibration lists and folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lowbit import files
from lowbit.data.images import SUFFIXES, hash_images, is_file
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.errors import InputError


@dataclass(frozen=True)
class CalibrationSet:
    """An ordered list of images for calibration, and the list file that named them. They are read as displayed: with
    their EXIF orientation."""

    source: Path
    paths: tuple[Path, ...]

    @cached_property
    def image_hashes(self) -> tuple[str, ...]:
        """SHA-256 of every image's bytes, in order."""
        return hash_images(self.paths)

    @cached_property
    def digest(self) -> str:
        """One hash over all images' bytes, in order: what calibration depends on, wherever the files lie."""
        return files.digest(self.image_hashes)

    def first(self, count: int) -> CalibrationSet:
        """The first ``count`` images."""
        return CalibrationSet(self.source, self.paths[:count])

    def batches(self, spec: InputSpec) -> Iterator[NDArray[np.float32]]:
        """Stream the images, float32 [1, 3, size, size] each; never more than one in memory."""
        for path in self.paths:
            yield preprocess(path, spec)[0]


def load_calibration(path: Path, roots: Sequence[Path] = ()) -> CalibrationSet:
    """Read a calibration list: one image a line, relative to the list's folder, or to one of ``roots`` where it is not
    there; blank lines and # comments pass.

    Raises :class:`InputError` for a missing, unreadable or empty list and for images that are not there.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such calibration list. Write one image's path a line and check --calibration."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text ({error}). --calibration takes a list of images.") from error
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not names:
        raise InputError(f"{path}: the calibration list is empty. List 50 to 500 images like those of deployment.")
    folders = (path.parent, *roots)
    paths = tuple(_listed(name, folders) for name in names)
    missing = [str(p) for p in paths if not is_file(p)]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputError(f"{path}: {missing[0]}{more} does not exist. Paths are relative to the list's folder.")
    if len(set(paths)) != len(paths):
        raise InputError(f"{path}: names an image twice. List every image once.")
    return CalibrationSet(path, paths)


def _listed(name: str, folders: Sequence[Path]) -> Path:
    """Where a list's line leads, which Windows writes with backslashes; where it should lead, if it is nowhere."""
    places = (folder / one for one in (name, name.replace("\\", "/")) for folder in folders)
    return next((place for place in places if is_file(place)), folders[0] / name)


def images_in(path: Path, place: Path, roots: Sequence[Path] = ()) -> list[Path]:
    """The images of a folder and those below it, or of a list (``roots`` as :func:`load_calibration` has them); ``path``
    is who named it."""
    if place.is_dir():
        found = sorted(file for file in place.rglob("*") if file.suffix.lower() in SUFFIXES)
        if not found:
            raise InputError(f"{place}: has no images, and {path} names it.")
        return found
    if place.suffix == ".txt" and is_file(place):
        return list(load_calibration(place, roots).paths)
    raise InputError(f"{place}: is neither a folder nor a list of images (.txt), and {path} names it.")
