"""A finished artifact: the files in its folder, and how they are read back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowbit import files

MODEL, MANIFEST, LOG = "model.onnx", "manifest.json", "build.log"


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


def read_artifact(folder: Path) -> Artifact | None:
    """A whole artifact, or None if any part is missing, unreadable or not what the manifest says."""
    if folder.is_symlink():
        return None  # nothing that lowbit made; a link could point anywhere
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        model = folder / MODEL
        if model.is_symlink() or files.sha256(model) != manifest["sha256"] or manifest["key"] != folder.name:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Artifact(model, manifest["sha256"], manifest, built=False)
