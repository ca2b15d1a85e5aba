"""What shapes an artifact, and its key."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from lowbit import files, host
from lowbit.artifact import Artifact
from lowbit.data.letterbox import InputSpec
from lowbit.quantize import module_of, tool
from lowbit.store.code import Code, code_of

BUILD_PROCESS = "lowbit.quantize"


@dataclass(frozen=True)
class BuildRequest:
    """What is to be built. ``settings`` must be JSON-able.

    ``source``: the FP32 ONNX to quantize, or the checkpoint for tools that take one. ``identity`` describes it by content.
    ``calibration``: list of images, ``calibration_digest`` their content; empty for tools that need none.
    ``training``: images that a recovery may learn from, likewise; ``training_labels``: the data set that labels them, for
    settings that use labels, and ``training_classes``, its category of every class (``training_digest`` covers both).
    ``start``: the artifact that this one starts from. ``measured_on``: the processor, for settings whose artifact depends
    on what its kernels compute. ``trust``: whether a pickled checkpoint of unknown origin may be read; it shapes nothing.
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
    measured_on: dict[str, Any] | None = None
    trust: bool = False

    @cached_property
    def ingredients(self) -> dict[str, Any]:
        """What the key is made of, and what the manifest says: everything that shapes the artifact, by its content. No
        path is among it, so machines can share artifacts."""
        code = self._code
        versions = {**{name: host.package_version(name) for name in tool(self.tool).packages}, **code.packages}
        return {
            "code": code.digest,
            "scheme": self.scheme,
            "tool": self.tool,
            "settings": self.settings,
            "source": self.identity,
            "size": self.input.sides,
            "calibration": self.calibration_digest,
            **({"training": self.training_digest} if self.training else {}),
            **({"start": self.start.manifest["key"]} if self.start else {}),
            **({"measured_on": self.measured_on} if self.measured_on else {}),
            "preprocessing": self.input.preprocessing if self.calibration else None,
            "tool_versions": dict(sorted(versions.items())),
        }

    @property
    def _code(self) -> Code:
        return code_of(module_of(self.tool), f"{BUILD_PROCESS}.__main__")

    @cached_property
    def key(self) -> str:
        """SHA-256 of the ingredients, shortened to 40 hexadecimal digits."""
        return files.digest(self.ingredients)[:40]
