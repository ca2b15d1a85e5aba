"""What shapes an artifact, and its key."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowbit import files
from lowbit.data.letterbox import InputSpec
from lowbit.store.artifact import Artifact

# Bump when lowbit itself builds the same settings differently: all tools', or of those that it concerns, for some builds
# take half an hour.
BUILD_VERSION = 4
TOOL_VERSIONS = {"ort": 8, "lower": 8}


@dataclass(frozen=True)
class BuildRequest:
    """All that shapes an artifact. ``settings`` must be JSON-able.

    ``source``: the FP32 ONNX to quantize, or the checkpoint for tool ``export``. ``identity`` describes it by content.
    ``calibration``: list of pictures, ``calibration_digest`` their content; empty for tools that need none.
    ``training``: pictures that a recovery may learn from, likewise; ``training_labels``: the data set that labels
    them, for settings that use labels, and ``training_classes``, its category of every class (``training_digest`` covers
    both). ``start``: the artifact that this one starts from.
    """

    tool: str
    scheme: str
    settings: dict[str, Any]
    source: Path
    identity: dict[str, Any]
    input: InputSpec
    calibration: tuple[Path, ...] = ()
    calibration_digest: str | None = None
    training: tuple[Path, ...] = ()
    training_digest: str | None = None
    training_labels: Path | None = None
    training_classes: tuple[int, ...] = ()
    start: Artifact | None = None
    packages: tuple[str, ...] = ()

    def ingredients(self) -> dict[str, Any]:
        """What the key is made of, and what the manifest says."""
        return {
            "build_version": TOOL_VERSIONS.get(self.tool, BUILD_VERSION),
            "scheme": self.scheme,
            "tool": self.tool,
            "settings": self.settings,
            "source": self.identity,
            "size": self.input.sides,
            "calibration": self.calibration_digest,
            **({"training": self.training_digest} if self.training else {}),
            **({"start": self.start.manifest["key"]} if self.start else {}),
            "preprocessing": self.input.preprocessing if self.calibration else None,
            "tool_versions": {name: version(name) for name in self.packages},
        }

    @property
    def key(self) -> str:
        """SHA-256 of the ingredients, shortened to 40 hexadecimal digits."""
        return files.digest(self.ingredients())[:40]


def version(package: str) -> str | None:
    """The installed version of a package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
