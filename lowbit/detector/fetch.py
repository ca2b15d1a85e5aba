"""``lowbit fetch``: official checkpoints and COCO images, from their official addresses.

A file is downloaded to a partial file, resumed where an earlier try stopped, checked, and moved into place by one
rename. If its size and SHA-256 are not known beforehand, those of the first download are kept in ``fetched.json`` and
required later.
"""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lowbit import files
from lowbit.errors import InputError, LowbitError, StoreError, UnavailableError
from lowbit.progress import BYTES, Progress, Step, silent

OFFLINE_VARIABLE, MIRRORS_VARIABLE = "LOWBIT_OFFLINE", "LOWBIT_MIRRORS"
RECORD = "fetched.json"
_CHUNK = 2**18
_TIMEOUT = (15, 60)  # seconds to connect, and between two chunks
_TRIES = 5
_RELEASE = "https://github.com/THU-MIG/yolov10/releases/download/v1.1"
_COCO = "http://images.cocodataset.org"
_ANNOTATIONS_ZIP = "annotations_trainval2017.zip"
_MANY = 100


class FetchError(LowbitError):
    """A download that did not come to its end; its text names the address and the remedy."""


@dataclass(frozen=True)
class Source:
    """One file to fetch. ``size`` in bytes and ``sha256`` where they are known."""

    url: str
    path: Path
    size: int | None = None
    sha256: str | None = None


def default_folder() -> Path:
    """Where assets are kept without ``$LOWBIT_ASSETS``: ``lowbit/assets`` in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(cache).expanduser() / "lowbit" / "assets"


class Fetcher:
    """Fetches into one folder. Safe for two processes at once."""

    def __init__(
        self,
        folder: Path,
        *,
        mirrors: Mapping[str, str] | None = None,
        offline: bool | None = None,
        progress: Progress = silent,
        pause: float = 1.0,
    ) -> None:
        """``mirrors``: prefixes of addresses to replace; default ``$LOWBIT_MIRRORS`` (``from=to`` pairs, comma between).

        ``offline``: never connect; default whether ``$LOWBIT_OFFLINE`` is set. ``pause``: seconds before the second
        try, doubled before each further one.
        """
        self.folder = folder
        self._mirrors = parse_mirrors(os.environ.get(MIRRORS_VARIABLE, "")) if mirrors is None else dict(mirrors)
        self._offline = bool(os.environ.get(OFFLINE_VARIABLE)) if offline is None else offline
        self._progress = progress
        self._pause = pause

    def fetch(self, source: Source) -> Path:
        """The file, downloaded now if it is not there or not what was recorded.

        Raises :class:`FetchError` with the address, :class:`UnavailableError` when offline, :class:`StoreError` if it
        can't be written.
        """
        target = self.folder / source.path
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(target.with_name(f".{target.name}.lock"))
            with lock:
                return self._fetch(source, target)
        except OSError as error:
            raise StoreError(
                f"{target}: cannot be written ({error.strerror or error}). Free some space or point $LOWBIT_ASSETS elsewhere."
            ) from error

    def _fetch(self, source: Source, target: Path) -> Path:
        known = self._recorded(source)
        size, sha256 = source.size or known.get("size"), source.sha256 or known.get("sha256")
        if target.is_file() and sha256 and files.sha256(target) == sha256:
            return target
        if self._offline:
            raise UnavailableError(
                f"{target}: is not there (or is damaged), and ${OFFLINE_VARIABLE} or --offline forbids fetching {source.url}."
            )
        partial = target.with_name(f".{target.name}.partial")
        address = self._mirrored(source.url)
        pause = self._pause
        for attempt in range(1, _TRIES + 1):
            try:
                self._download(address, partial, size)
                break
            except _RetriableError as error:
                if attempt == _TRIES:
                    raise FetchError(
                        f"{address}: {error}, {_TRIES} times. What came is kept; run again to go on, or name a mirror in "
                        f"${MIRRORS_VARIABLE}."
                    ) from error
                self._progress(Step(f"{target.name}: {error}; trying again in {pause:.0f} s"))
                time.sleep(pause)
                pause *= 2
        found = files.sha256(partial)
        if sha256 and found != sha256:
            partial.unlink()
            raise FetchError(
                f"{address}: the file has sha256 {found}, not {sha256}. It was thrown away: the address or mirror serves "
                "something else."
            )
        length = partial.stat().st_size
        partial.replace(target)
        self._remember(source, {"url": source.url, "size": length, "sha256": found})
        return target

    def _download(self, address: str, partial: Path, size: int | None) -> None:
        import requests

        have = partial.stat().st_size if partial.exists() else 0
        if size is not None and have > size:
            partial.unlink()
            have = 0
        if size is not None and have == size:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with requests.get(address, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                if response.status_code == 416:  # the partial file is not of this file
                    partial.unlink()
                    raise _RetriableError("cannot be resumed")
                if response.status_code >= 500 or response.status_code == 429:
                    raise _RetriableError(f"answered {response.status_code}")
                if response.status_code not in (200, 206):
                    raise FetchError(
                        f"{address}: answered {response.status_code} {response.reason}. Check the address."
                    )
                resumed = response.status_code == 206
                have = have if resumed else 0
                length = response.headers.get("Content-Length")
                total = have + int(length) if length else None
                if size is not None and total is not None and total != size:
                    raise FetchError(
                        f"{address}: offers {total} bytes, {size} are expected. The address serves something else."
                    )
                name = partial.name.removeprefix(".").removesuffix(".partial")
                with partial.open("ab" if resumed else "wb") as stream:
                    for chunk in response.iter_content(_CHUNK):
                        stream.write(chunk)
                        have += len(chunk)
                        self._progress(Step(name, have, total or size or 0, BYTES))
                if total is not None and have < total:
                    raise _RetriableError(f"ended after {have} of {total} bytes")
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _RetriableError(f"broke off ({type(error).__name__})") from error
        except requests.RequestException as error:
            raise FetchError(f"{address}: is no address that can be fetched ({error}).") from error

    def _mirrored(self, url: str) -> str:
        for prefix, replacement in self._mirrors.items():
            if url.startswith(prefix):
                return replacement + url.removeprefix(prefix)
        return url

    def _record(self) -> dict[str, Any]:
        try:
            found = json.loads((self.folder / RECORD).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _recorded(self, source: Source) -> dict[str, Any]:
        found = self._record().get(source.path.as_posix())
        return found if isinstance(found, dict) and found.get("url") == source.url else {}

    def _remember(self, source: Source, entry: dict[str, Any]) -> None:
        with FileLock(self.folder / f".{RECORD}.lock"):
            files.write_json(self.folder / RECORD, {**self._record(), source.path.as_posix(): entry})


class _RetriableError(Exception):
    """Something that may go well the next time."""


def parse_mirrors(text: str) -> dict[str, str]:
    """``from=to,from=to`` to a mapping. Raises :class:`InputError` for a pair without ``=``."""
    pairs = [pair.split("=", 1) for pair in text.split(",") if pair.strip()]
    bad = [pair[0] for pair in pairs if len(pair) != 2 or not pair[0].strip()]
    if bad:
        raise InputError(f"${MIRRORS_VARIABLE}: {bad[0]!r} is not of the form https://official=https://mirror.")
    return {key.strip(): value.strip() for key, value in pairs}


def fetch(name: str, fetcher: Fetcher) -> list[Path]:
    """Fetch a named asset of :data:`ASSETS`; returns what the suite can use. Raises :class:`InputError` for no such."""
    if name not in ASSETS:
        raise InputError(f"there is no asset {name!r}. Known: {', '.join(ASSETS)}.")
    return ASSETS[name](fetcher)


def _checkpoint(name: str) -> Callable[[Fetcher], list[Path]]:
    def get(fetcher: Fetcher) -> list[Path]:
        from lowbit.detector.checkpoint import TRUSTED_CHECKPOINTS

        file = f"{name}.pt"
        sha256 = next(digest for digest, known in TRUSTED_CHECKPOINTS.items() if known == file)
        return [fetcher.fetch(Source(f"{_RELEASE}/{file}", Path(name, file), sha256=sha256))]

    return get


def _annotations(fetcher: Fetcher, split: str) -> dict[str, Any]:
    """COCO's ``instances_<split>.json``, from the one archive that holds it."""
    archive = fetcher.fetch(Source(f"{_COCO}/annotations/{_ANNOTATIONS_ZIP}", Path("coco", _ANNOTATIONS_ZIP)))
    try:
        with zipfile.ZipFile(archive) as unpacked:
            found: dict[str, Any] = json.loads(unpacked.read(f"annotations/instances_{split}.json"))
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise FetchError(f"{archive}: is not COCO's archive ({error}). Delete it and fetch again.") from error
    return found


def _subset(coco: dict[str, Any], images: Iterable[dict[str, Any]]) -> dict[str, Any]:
    kept = list(images)
    ids = {image["id"] for image in kept}
    boxes = [entry for entry in coco["annotations"] if entry["image_id"] in ids]
    return {"images": kept, "annotations": boxes, "categories": coco["categories"]}


def _images(fetcher: Fetcher, split: str, images: list[dict[str, Any]]) -> None:
    for image in images:
        name = Path(image["file_name"]).name
        fetcher.fetch(Source(f"{_COCO}/{split}/{name}", Path("coco", split, name)))


def _val100(fetcher: Fetcher) -> list[Path]:
    """The first 100 images of val2017 by id."""
    target = fetcher.folder / "coco" / "annotations" / "instances_val100.json"
    if target.is_file():  # perhaps the user's own, which stays
        return [target]
    coco = _annotations(fetcher, "val2017")
    images = sorted(coco["images"], key=lambda image: int(image["id"]))[:_MANY]
    _images(fetcher, "val2017", images)
    files.write_atomic(target, json.dumps(_subset(coco, images)))
    return [target]


def _val5k(fetcher: Fetcher) -> list[Path]:
    """All 5000 images of val2017."""
    target = fetcher.folder / "coco" / "annotations" / "instances_val2017.json"
    if target.is_file():
        return [target]
    coco = _annotations(fetcher, "val2017")
    archive = fetcher.fetch(Source(f"{_COCO}/zips/val2017.zip", Path("coco", "val2017.zip")))
    folder = fetcher.folder / "coco"
    try:
        with zipfile.ZipFile(archive) as packed:
            for image in coco["images"]:
                name = f"val2017/{Path(image['file_name']).name}"
                if not (folder / name).is_file():
                    files.write_atomic(folder / name, packed.read(name))
    except (zipfile.BadZipFile, KeyError) as error:
        raise FetchError(f"{archive}: is not COCO's archive ({error}). Delete it and fetch again.") from error
    files.write_atomic(target, json.dumps(coco))
    return [target]


def _calib100(fetcher: Fetcher) -> list[Path]:
    """100 images of train2017, evenly spread over its ids."""
    target = fetcher.folder / "coco" / "calib100.txt"
    if target.is_file():
        return [target]
    coco = _annotations(fetcher, "train2017")
    everything = sorted(coco["images"], key=lambda image: int(image["id"]))
    images = everything[:: max(1, len(everything) // _MANY)][:_MANY]
    _images(fetcher, "train2017", images)
    files.write_atomic(target, "".join(f"train2017/{Path(image['file_name']).name}\n" for image in images))
    return [target]


ASSETS: dict[str, Callable[[Fetcher], list[Path]]] = {
    "yolov10n": _checkpoint("yolov10n"),
    "yolov10s": _checkpoint("yolov10s"),
    "yolov10m": _checkpoint("yolov10m"),
    "coco-val100": _val100,
    "coco-val5k": _val5k,
    "coco-calib100": _calib100,
}
