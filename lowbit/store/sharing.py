"""A store on another file system: any that fsspec (https://filesystem-spec.readthedocs.io) knows, object stores too.

Artifacts are named by what they are made of, and never change: copying in both directions cannot conflict. An object
store renames nothing, so the manifest goes last, and a folder without one is not there yet.

What is copied is the manifest and the files that it lists: whoever can write to the other side chooses what a manifest
says, but not a place outside the artifact's folder.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from lowbit.artifact import MANIFEST, is_key, listed_files, read_artifact
from lowbit.errors import InputError, StoreError
from lowbit.progress import Progress, Step, silent
from lowbit.store.store import Store


def push(store: Store, url: str, progress: Progress = silent) -> int:
    """Copy every whole artifact that ``url`` does not hold there; returns how many.

    Raises :class:`InputError` for an address that can't be used, :class:`StoreError` for a copy that failed.
    """
    system, place = _open(url)
    try:
        there = _whole(system, place)
        mine = {folder.name: read_artifact(folder) for folder in sorted((store.root / "artifacts").glob("*"))}
        missing = [artifact for key, artifact in mine.items() if artifact and key not in there]
        for number, artifact in enumerate(missing, 1):
            folder = artifact.path.parent
            system.makedirs(str(place / folder.name), exist_ok=True)
            for name in (*listed_files(artifact.manifest), MANIFEST):
                system.put_file(str(folder / name), str(place / folder.name / name))
            progress(Step("copying", number, len(missing), "artifacts"))
    except OSError as error:
        raise StoreError(f"{url}: cannot be written ({error}).") from error
    return len(missing)


def pull(store: Store, url: str, progress: Progress = silent) -> int:
    """Copy every artifact of ``url`` that the store does not hold into it, checked against its manifest; returns how many.

    Raises :class:`InputError` for an address that can't be used, :class:`StoreError` for a copy that failed or is not what
    its manifest says.
    """
    system, place = _open(url)
    artifacts, partial = store.root / "artifacts", store.root / "partial"
    try:
        missing = [key for key in sorted(_whole(system, place)) if read_artifact(artifacts / key) is None]
        partial.mkdir(parents=True, exist_ok=True)
        for number, key in enumerate(missing, 1):
            with tempfile.TemporaryDirectory(dir=partial, prefix="pull-") as scratch:
                folder = Path(scratch, key)  # of the artifact's own name: that is what its manifest is compared with
                folder.mkdir()
                _copy(system, place / key, folder, url)
                with store.lock(key):
                    if read_artifact(artifacts / key) is None:  # nobody has built it meanwhile
                        store.publish(folder)
            progress(Step("copying", number, len(missing), "artifacts"))
    except OSError as error:
        raise StoreError(f"{url}: cannot be copied to {store.root} ({error}).") from error
    return len(missing)


def _copy(system: Any, source: PurePosixPath, folder: Path, url: str) -> None:
    """Copy one artifact into an empty folder. Raises :class:`StoreError` if it is not whole, or no artifact at all."""
    try:
        _fetch(system, source / MANIFEST, folder)
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name in listed_files(manifest):
            _fetch(system, source / name, folder)
    except (ValueError, FileNotFoundError) as error:
        raise StoreError(
            f"{url}: artifact {source.name} is none that lowbit made ({error}). Remove it there."
        ) from error
    if read_artifact(folder) is None:
        raise StoreError(f"{url}: artifact {source.name} is not what its manifest says. Remove it there.")


def _fetch(system: Any, source: PurePosixPath, folder: Path) -> None:
    """Copy one file. Raises ``ValueError`` for a link: it would be read from a place that nobody named."""
    info = system.info(str(source))
    if info.get("islink") or info.get("type") != "file":
        raise ValueError(f"{source.name} is no plain file")
    system.get_file(str(source), str(folder / source.name))


def _open(url: str) -> tuple[Any, PurePosixPath]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"{url}: is no address that fsspec can open ({error}).") from error
    return system, PurePosixPath(path) / "artifacts"


def _whole(system: Any, place: PurePosixPath) -> set[str]:
    """Keys of the folders that have a manifest."""
    if not system.exists(str(place)):
        return set()
    found = (PurePosixPath(name).parent.name for name in system.glob(f"{place}/*/{MANIFEST}"))
    return set(filter(is_key, found))
