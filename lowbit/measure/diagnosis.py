"""``lowbit doctor ARTIFACT``: what an artifact loses on processors whose kernels add two products in 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lowbit import graph, runtime
from lowbit.data.letterbox import InputSpec
from lowbit.data.lists import CalibrationSet, load_calibration
from lowbit.errors import InputError, LowbitError
from lowbit.graph.nodes import inputs
from lowbit.graph.saturation import HIGHEST
from lowbit.markdown import table
from lowbit.measure import comparison
from lowbit.measure.emulation import Emulator, Layer
from lowbit.progress import Progress, Step

if TYPE_CHECKING:
    import onnx

# Images that are run, of both processors: some seconds each.
IMAGES = 8


def diagnose(path: Path, images: Path | None, data: Path, progress: Progress) -> str:
    """Which layers of an ONNX file saturate without VNNI, and what that changes, as Markdown.

    ``images``: a list of images; the first :data:`IMAGES` of them are run. Without, those that the bundled detector is
    calibrated on, if they are of the file's size, kept in the folder ``data``.  Raises :class:`InputError` for a file
    that is no ONNX model, runs nothing in integers or takes no images of a fixed size.
    """
    model = graph.load(path)
    progress(Step("optimizing the graph as ONNX Runtime does"))
    emulator = _emulator(path, model)
    if not emulator.saturating:
        return (
            f"No layer can saturate. In none of {emulator.integer_nodes} integer convolutions and matrix products do the "
            "weights allow a sum of two neighbouring products that 16 bits do not hold. The file computes the same on x86 "
            "processors with VNNI and without."
        )
    spec = _input(path, model)
    chosen = _images(path, spec, images, data)
    heads: tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]] = ([], [])
    for number, tensor in enumerate(chosen.batches(spec), 1):
        for vnni, head in zip((True, False), heads, strict=True):
            head += emulator.run(tensor, vnni=vnni)
        progress(Step("computing as with VNNI, and as without", number, len(chosen.paths), "images"))
    return "\n".join(_report(emulator.layers(), comparison.compare_heads(*heads), chosen))


def _emulator(path: Path, model: onnx.ModelProto) -> Emulator:
    try:
        emulator = Emulator(model)
    except LowbitError as error:
        raise InputError(f"{path}: {error}") from error
    if not emulator.integer_nodes:
        raise InputError(
            f"{path}: has no convolution or matrix product that ONNX Runtime's CPU provider runs in integers, so nothing "
            "can saturate. Give an INT8 file, whose convolutions have Q/DQ pairs before and behind them."
        )
    return emulator


def _input(path: Path, model: onnx.ModelProto) -> InputSpec:
    """How its images are prepared: of its own sides, the rest as lowbit's defaults are."""
    values = inputs(model)
    dims = [dim.dim_value for dim in values[0].type.tensor_type.shape.dim] if len(values) == 1 else []
    if len(dims) != 4 or dims[:2] != [1, 3] or 0 in dims:
        raise InputError(
            f"{path}: takes {dims or 'several inputs'}, not one image of 1 x 3 x height x width. Export it so."
        )
    return InputSpec(*dims[2:])


def _images(path: Path, spec: InputSpec, images: Path | None, data: Path) -> CalibrationSet:
    from lowbit.detector import find_detector

    if images is not None:
        return load_calibration(images.resolve()).first(IMAGES)
    bundled = find_detector("shapes10n")
    if spec != bundled.input:
        raise InputError(
            f"{path}: takes images of {spec.height} x {spec.width} pixels, and the bundled ones have {bundled.input.size}. "
            "Name images like those of deployment: --images calibration.txt, one path a line."
        )
    return bundled.load_calibration(data).first(IMAGES)


def _report(layers: Sequence[Layer], difference: comparison.HeadDifference, images: CalibrationSet) -> list[str]:
    losing = sorted((layer for layer in layers if layer.share), key=lambda layer: -layer.share)
    lines = [
        f"{len(losing)} of {len(layers)} layers whose weights allow it saturate on x86 processors without VNNI, which add "
        f"two products in 16 bits (up to {HIGHEST}); {len(images.paths)} images of {images.source}.",
        "",
    ]
    if losing:
        headings = "layer", "op", "worst sum by its weights", "worst seen", "output sums that saturated"
        rows = ((f"`{one.name}`", one.op, one.allowed, one.seen, f"{100 * one.share:.2g} %") for one in losing)
        lines += table(headings, "llrrr", rows)
        lines += ["", f"Raw head without VNNI against with it: SQNR {difference.sqnr_db:.1f} dB."]
    else:
        lines += ["Nothing saturated on these images: the raw head is the same. Others may be brighter."]
    quiet = [layer for layer in layers if not layer.share]
    if quiet and losing:
        worst = max(layer.allowed for layer in quiet)
        lines += [f"{len(quiet)} other layers could by their weights, up to {worst}, and did not."]
    here = "does" if runtime.kernels_saturate() else "does not"
    lines += [
        f"This processor {here} saturate. Remedies: {'='.join(runtime.PRECISE)} as a session configuration entry (right and "
        "slower), or weights of 7 bits (QuantType.QInt8 with reduce_range).",
    ]
    return lines
