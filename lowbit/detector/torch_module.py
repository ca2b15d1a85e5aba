"""A detector's torch module, up to its raw head: what sensitivity and quantizers of a torch module work on."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from lowbit.detector.detector import Detector
from lowbit.errors import UnavailableError

# What a raw detector gives: neck features [n, c, h, w] a stride, box logits [n, 4 * reg_max, anchors], class logits
# [n, classes, anchors].
Raw = tuple[list[Tensor], Tensor, Tensor]


class RawHead(nn.Module):
    """An Ultralytics detector up to its raw head, the one-to-one head where it has two."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    @property
    def branches(self) -> dict[str, Any]:
        """The head's box and class branches, one module a stride each."""
        head = self.model.model[-1]
        found: dict[str, Any] = head.one2one if head.end2end else head.one2many
        return found

    def features(self, images: Tensor) -> list[Tensor]:
        """Images float [n, 3, h, w] to the neck's features, one [n, c, h / stride, w / stride] a stride."""
        seen: list[Any] = []
        x: Any = images
        for layer in self.model.model[:-1]:
            if layer.f != -1:
                x = seen[layer.f] if isinstance(layer.f, int) else [x if j == -1 else seen[j] for j in layer.f]
            x = layer(x)
            seen.append(x)
        return [seen[j] for j in self.model.model[-1].f]

    def forward(self, images: Tensor) -> Raw:
        """Images to neck features, box logits and class logits."""
        features = self.features(images)
        raw = self.model.model[-1].forward_head(features, **self.branches)
        return features, raw["boxes"], raw["scores"]


def fused(detector: Detector) -> RawHead:
    """The detector with its BatchNorm folded, as the FP32 export has it, in evaluation mode.

    Raises :class:`UnavailableError` for a head without distribution focal loss, which recovery compares.
    """
    model = detector.fused_module()
    if model.model[-1].reg_max < 2:
        raise UnavailableError(f"{detector.name}: its head has no distribution focal loss; only such are supported.")
    return RawHead(model).eval()


def convolutions(network: RawHead) -> dict[str, nn.Conv2d]:
    """Every convolution by its module name, in the order of the modules; not the distribution focal loss'."""
    from ultralytics.nn.modules.block import DFL

    bins = {id(module.conv) for module in network.modules() if isinstance(module, DFL)}
    return {n: m for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and id(m) not in bins}
