"""A finished artifact: the files in its folder, and how they are read back."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowbit import files

MODEL, MANIFEST, LOG = "model.onnx", "manifest.json", "build.log"
_KEY = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Artifact:
    """A finished artifact: its file, its hash and its manifest."""

    path: Path
    sha256: str
    manifest: dict[str, Any]
    built: bool

    @property
    def size_bytes(self) -> int:
        """Size of the ONNX file in bytes."""
        return self.path.stat().st_size

    @property
    def log(self) -> Path:
        """The log of the build."""
        return self.path.parent / LOG


def is_key(name: str) -> bool:
    """Whether a folder's name can be an artifact's key."""
    return _KEY.fullmatch(name) is not None


def write_manifest(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    """Write the manifest of a finished folder and return it: what is given, the model's hash and size, and the SHA-256 of
    every file. Folders and links, which a tool may leave behind, are removed."""
    listed = {}
    for path in sorted(folder.iterdir()):
        if path.is_symlink():
            path.unlink()
        elif path.is_dir():
            shutil.rmtree(path)
        else:
            listed[path.name] = files.sha256(path)
    manifest = {**manifest, "sha256": listed[MODEL], "bytes": (folder / MODEL).stat().st_size, "files": listed}
    files.write_json(folder / MANIFEST, manifest)
    return manifest


def listed_files(manifest: Any) -> dict[str, str]:
    """SHA-256 of every file that a manifest lists, by name.

    Raises ``ValueError`` for anything that is not the manifest of an artifact, or a name that leads out of its folder.
    """
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise ValueError("lists no files")
    listed: dict[str, str] = manifest["files"]
    odd = [name for name in listed if Path(name).name != name or "\\" in name or name in ("", "..", MANIFEST)]
    if odd:
        raise ValueError(f"lists {odd[0]!r}, which is no plain file name")
    if MODEL not in listed or listed[MODEL] != manifest.get("sha256"):
        raise ValueError(f"lists no {MODEL}, or another one than it describes")
    return listed


def read_artifact(folder: Path) -> Artifact | None:
    """A whole artifact, or None if any part is missing, unreadable or not what the manifest says."""
    if folder.is_symlink():
        return None  # nothing that lowbit made; a link could point anywhere
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["key"] != folder.name:
            return None
        for name, expected in listed_files(manifest).items():
            if (folder / name).is_symlink() or files.sha256(folder / name) != expected:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Artifact(folder / MODEL, manifest["sha256"], manifest, built=False)
