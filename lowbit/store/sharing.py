"""A store on another file system: any that fsspec (https://filesystem-spec.readthedocs.io) knows, object stores too.

Artifacts are named by what they are made of, and never change: copying in both directions cannot conflict. An object
store renames nothing, so the manifest goes last, and a folder without one is not there yet.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from lowbit.errors import InputError, StoreError
from lowbit.store.artifact import MANIFEST, read_artifact
from lowbit.store.store import Store

Progress = Callable[[str], None]


def push(store: Store, url: str, progress: Progress = lambda _: None) -> int:
    """Copy every whole artifact that ``url`` does not hold there; returns how many.

    Raises :class:`InputError` for an address that can't be used, :class:`StoreError` for a copy that failed.
    """
    system, place = _open(url)
    try:
        there = _whole(system, place)
        mine = sorted(folder.name for folder in (store.root / "artifacts").glob("*") if read_artifact(folder))
        missing = [key for key in mine if key not in there]
        for number, key in enumerate(missing, 1):
            progress(f"copying artifact {number} of {len(missing)}")
            folder = store.root / "artifacts" / key
            files = sorted(path for path in folder.rglob("*") if path.is_file())
            files.sort(key=lambda path: path.name == MANIFEST)
            for path in files:
                target = str(place / key / path.relative_to(folder).as_posix())
                system.makedirs(str(PurePosixPath(target).parent), exist_ok=True)
                system.put_file(str(path), target)
    except OSError as error:
        raise StoreError(f"{url}: cannot be written ({error}).") from error
    return len(missing)


def pull(store: Store, url: str, progress: Progress = lambda _: None) -> int:
    """Copy every artifact of ``url`` that the store does not hold into it, checked against its manifest; returns how many.

    Raises :class:`InputError` for an address that can't be used, :class:`StoreError` for a copy that failed or is not what
    its manifest says.
    """
    system, place = _open(url)
    artifacts, partial = store.root / "artifacts", store.root / "partial"
    try:
        missing = [key for key in sorted(_whole(system, place)) if read_artifact(artifacts / key) is None]
        for number, key in enumerate(missing, 1):
            progress(f"copying artifact {number} of {len(missing)}")
            # Of the artifact's own name: that is what its manifest is compared with.
            folder = partial / f"pull-{os.getpid()}" / key
            shutil.rmtree(folder, ignore_errors=True)
            for name in system.find(str(place / key)):
                target = folder / PurePosixPath(name).relative_to(_bare(system, place / key))
                target.parent.mkdir(parents=True, exist_ok=True)
                system.get_file(name, str(target))
            if read_artifact(folder) is None:
                raise StoreError(f"{url}: artifact {key} is not what its manifest says. Remove it there.")
            artifacts.mkdir(parents=True, exist_ok=True)
            with store.lock(key):
                if read_artifact(artifacts / key) is None:  # nobody has built it meanwhile
                    shutil.rmtree(artifacts / key, ignore_errors=True)
                    folder.rename(artifacts / key)
    except OSError as error:
        raise StoreError(f"{url}: cannot be copied to {store.root} ({error}).") from error
    finally:
        shutil.rmtree(partial / f"pull-{os.getpid()}", ignore_errors=True)
    return len(missing)


def _open(url: str) -> tuple[Any, PurePosixPath]:
    import fsspec

    try:
        system, path = fsspec.core.url_to_fs(url)
    except (ValueError, ImportError, OSError) as error:
        raise InputError(f"{url}: is no address that fsspec can open ({error}).") from error
    return system, PurePosixPath(path) / "artifacts"


def _bare(system: Any, place: PurePosixPath) -> str:
    return str(system._strip_protocol(str(place)))


def _whole(system: Any, place: PurePosixPath) -> set[str]:
    """Keys of the folders that have a manifest."""
    if not system.exists(str(place)):
        return set()
    found = (PurePosixPath(name) for name in system.glob(f"{place}/*/{MANIFEST}"))
    return {path.parent.name for path in found}
