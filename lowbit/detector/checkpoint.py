"""Ultralytics' checkpoints: read, rebuilt as a torch module, exported to ONNX."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowbit import extras
from lowbit.detector.head import Head
from lowbit.detector.heads.decoded import Decoded
from lowbit.detector.heads.end2end import End2End
from lowbit.errors import InputError

if TYPE_CHECKING:
    import torch

OPSET = 17
# Ultralytics' detection heads.
HEADS = ("Detect", "v10Detect")
# Official checkpoints whose pickles are known: sha256 to file name (Git-LFS pointers of the releases of
# THU-MIG/yolov10, jameslahm/yolov10 or ultralytics/assets).
TRUSTED_CHECKPOINTS = {
    "55e1563d55db0a2bf89446d30131f0462c23a56c87b9c73a64c2f73cb5959365": "yolov10n.pt",
    "ead771e17479ccd099353b3240437822ec04b8b7a6292678b544cfcf427183b9": "yolov10s.pt",
    "36a0daa37ed8bdc7698d38e56a071dde503ae1d9333c50c212e8240b637bed7e": "yolov10m.pt",
}


def missing() -> str | None:
    """Why no torch module can be made here, with the remedy, to follow a detector's name; None if one can."""
    reason = extras.missing(dict.fromkeys(("torch", "ultralytics", "safetensors"), "lowbit[torch]"))
    return f"its Ultralytics module {reason}" if reason else None


def load_state(path: Path, *, trust: bool = False) -> dict[str, torch.Tensor]:
    """A checkpoint's state dict, float32.

    ``.safetensors`` is data and always read. Anything else is a pickle, which runs code when it is read: only with a
    known sha256 (:data:`TRUSTED_CHECKPOINTS`) or ``trust=True``. Raises :class:`InputError`.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            state = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: is no readable safetensors file ({error}).") from error
    else:
        state = _unpickled(path, trust=trust).state_dict()
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{path}: {broken[0]!r} holds NaN or infinity ({len(broken)} tensors). Use another checkpoint."
        )
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}


def _unpickled(path: Path, *, trust: bool) -> Any:
    """The model in a pickled checkpoint. Raises :class:`InputError` unless it is known or trusted, and has one."""
    import torch

    try:
        data = path.read_bytes()  # once: what is unpickled is what was hashed
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Check the path.") from error
    found = hashlib.sha256(data).hexdigest()
    if not trust and found not in TRUSTED_CHECKPOINTS:
        raise InputError(
            f"{path}: is a pickle with the unknown sha256 {found}; reading it would run whatever is in it. If you "
            "trust its origin, say --trust-checkpoint, or convert it to safetensors."
        )
    try:
        loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=False)
    except Exception as error:  # a pickle can raise anything
        raise InputError(
            f"{path}: is no readable checkpoint ({type(error).__name__}: {str(error)[:200]}). Fetch it again."
        ) from error
    module: Any = (loaded.get("ema") or loaded.get("model")) if isinstance(loaded, dict) else loaded
    if not hasattr(module, "state_dict"):
        raise InputError(f"{path}: holds no model, but a {type(module).__name__}.")
    return module


def architecture_of(
    path: Path, architecture: str | None, size: int, strides: tuple[int, ...], *, trust: bool
) -> tuple[dict[str, Any], Head]:
    """What a checkpoint is of: the content of Ultralytics' YAML and the head that it deploys, for an input of
    ``size`` pixels. ``architecture``: the YAML's name, where the checkpoint does not know it."""
    from ultralytics.nn.tasks import yaml_model_load

    state = load_state(path, trust=trust)
    content: str | dict[str, Any]
    if architecture is not None:
        content = architecture
    elif path.suffix == ".safetensors":
        raise InputError(f"{path}: safetensors hold no architecture. Declare it: architecture = 'yolov8n.yaml'.")
    else:
        found = getattr(_unpickled(path, trust=trust), "yaml", None)
        if not isinstance(found, dict):
            raise InputError(f"{path}: holds no Ultralytics detector with its architecture. Declare architecture.")
        content = json.loads(json.dumps(found, default=str))
    try:
        if isinstance(content, str):
            # What the file says: it changes, and lies elsewhere on another machine.
            content = {key: value for key, value in yaml_model_load(content).items() if key != "yaml_file"}
        name = str(content["head"][-1][2])
    except (OSError, KeyError, IndexError, TypeError) as error:
        raise InputError(f"{path}: architecture {str(content)[:80]!r} is no YAML of Ultralytics' ({error}).") from error
    if name not in HEADS:
        raise InputError(f"{path}: its head is {name}; detection heads ({', '.join(HEADS)}) are supported.")
    # The class branch's last convolution has an output channel a class.
    branches = {key: value for key, value in state.items() if re.search(r"\.(?:one2one_)?cv3\.0\.\d+\.bias$", key)}
    if not branches:
        raise InputError(f"{path}: has no class branch (cv3) as Ultralytics' detection heads have.")
    last = max(branches, key=lambda key: int(key.split(".")[-2]))
    end2end = any(".one2one_cv3." in key for key in state)
    return content, (End2End if end2end else Decoded)((size, size), len(state[last]), strides)


def rebuilt(path: Path, architecture: str | dict[str, Any], classes: int, *, trust: bool) -> torch.nn.Module:
    """A checkpoint as Ultralytics' ``DetectionModel``, float32. Raises :class:`InputError` for one that does not fit."""
    from ultralytics.nn.tasks import DetectionModel

    model: torch.nn.Module = DetectionModel(copy.deepcopy(architecture), nc=classes, verbose=False)
    state = load_state(path, trust=trust)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise InputError(
            f"{path}: does not fit {architecture} with {classes} classes ({str(error).splitlines()[-1].strip()[:200]})."
        ) from error
    return model.float()


def drawn(architecture: str, classes: int, seed: int) -> torch.nn.Module:
    """An architecture with seeded weights, whose BatchNorm has seen noise, so that activations have sane ranges, and whose
    logits stay near 0, so that no two scores are equal."""
    import torch
    from ultralytics.nn.tasks import DetectionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: torch.nn.Module = DetectionModel(architecture, nc=classes, verbose=False)
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = None  # the plain average of what it sees
                module.reset_running_stats()
        # Patches of all sizes, as images have: fine noise alone has next to no contrast after a few convolutions.
        noise = torch.cat(
            [torch.nn.functional.interpolate(torch.rand(1, 3, side, side), (320, 320)) for side in (5, 20, 80, 320)]
        )
        with torch.no_grad():
            model.train()(noise)
            # Convolutions that no BatchNorm follows.
            last = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d) and m.bias is not None]
            hooks = [one.register_forward_hook(_to_small_logits) for one in last]
            model.eval()(noise)
            for hook in hooks:
                hook.remove()
    return model.float()


def _to_small_logits(module: Any, _: Any, output: torch.Tensor) -> None:
    """A forward hook: scale a convolution by what it gave. Images call forth up to ten times more than noise."""
    module.weight.div_(10 * output.std())
    module.bias.zero_()


def fused(model: Any) -> Any:
    """The module with BatchNorm folded and only the head that deployment uses: the one-to-one head where it has one."""
    if getattr(model.model[-1], "one2one_cv2", None) is not None:
        model.model[-1].end2end = True  # before fusing, which drops the head that is not used
    model.fuse(verbose=False)
    return model


def export(model: Any, head: Head, path: Path) -> None:
    """Write a fused module as ONNX: input ``images``, float32 1 x 3 x height x width, output ``output0``.

    Raises :class:`InputError` if what it gives is not ``head``'s.
    """
    import onnx
    import torch

    model.model[-1].export = True
    model.model[-1].format = "onnx"
    example = torch.zeros(1, 3, *head.sides)
    with torch.inference_mode(), warnings.catch_warnings():
        # Of a tracer whose successor does not trace this head, and of sizes that are fixed on purpose.
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)
        given = model(example)  # settles the head's anchors before tracing
        head.decode([given.numpy()])
        torch.onnx.export(
            model,
            (example,),
            str(path),
            input_names=["images"],
            output_names=["output0"],
            opset_version=OPSET,
            dynamo=False,
        )
    exported = onnx.load(str(path))
    dims = exported.graph.output[0].type.tensor_type.shape.dim
    for dim, value in zip(dims, given.shape, strict=True):
        # The tracer can lose a static size behind TopK; consumers rely on it.
        dim.Clear()
        dim.dim_value = value
    onnx.checker.check_model(exported)
    onnx.save(exported, str(path))
