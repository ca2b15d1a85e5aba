"""A detector small enough for unit tests that really sees, and images for it to see.

Images are 64 x 64, black, with a red or a blue square of 32 px in some cells of a 2 x 2 grid; two classes. The
detector's stride-32 level answers with the cell's mean colour; its boxes are the cells. AP is 1, in float and in INT8.
"""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIZE, CLASSES, BINS = 64, 2, 16


def make_detector(path: Path) -> Path:
    """Write the toy detector with a raw head, 1 x (64 + 2) x 84."""
    nodes, weights = [], []
    for stride in (8, 16, 32):
        kernel = np.zeros((64 + CLASSES, 3, stride, stride), np.float32)
        bias = np.full(64 + CLASSES, -20.0, np.float32)
        # Half a cell to each side: bins 0 and 1 are equally likely, all others are not.
        bias[:64] = np.tile([10.0, 10.0] + [-20.0] * (BINS - 2), 4)
        if stride == 32:
            kernel[64, 0] = kernel[65, 2] = 20 / stride**2
            bias[64:] = -10
        weights += [numpy_helper.from_array(kernel, f"w{stride}"), numpy_helper.from_array(bias, f"b{stride}")]
        name = f"/model.1/level{stride}"
        inputs = ["features", f"w{stride}", f"b{stride}"]
        options = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes.append(helper.make_node("Conv", inputs, [f"c{stride}"], name=f"{name}/Conv", **options))
        nodes.append(helper.make_node("Reshape", [f"c{stride}", "flat"], [f"r{stride}"], name=f"{name}/Reshape"))
    identity = np.eye(3, dtype=np.float32)[:, :, None, None]
    weights += [numpy_helper.from_array(identity, "w0"), numpy_helper.from_array(np.array([1, 66, -1]), "flat")]
    nodes.insert(0, helper.make_node("Conv", ["images", "w0"], ["features"], name="/model.0/Conv"))
    joined = helper.make_node("Concat", ["r8", "r16", "r32"], ["output0"], name="/model.1/Concat", axis=2)
    graph = helper.make_graph(
        [*nodes, joined],
        "toy",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 66, 84])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def make_images(folder: Path, count: int, seed: int) -> list[list[tuple[int, int, int]]]:
    """Write ``count`` images ``<seed>-<i>.png``; returns each one's objects as (class, column, row)."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for index in range(count):
        image = rng.integers(0, 20, (SIZE, SIZE, 3), np.uint8)
        cells = rng.permutation(4)[: rng.integers(1, 4)]
        objects = [(int(rng.integers(2)), int(cell % 2), int(cell // 2)) for cell in cells]
        for label, column, row in objects:
            place = (slice(row * 32, row * 32 + 32), slice(column * 32, column * 32 + 32))
            image[(*place, 0 if label else 2)] = rng.integers(215, 256)
        cv2.imwrite(str(folder / f"{seed}-{index}.png"), image)
        out.append(objects)
    return out


def make_dataset(folder: Path, count: int = 6, stretch: tuple[int, int] = (1, 1)) -> Path:
    """Write images and their COCO file; returns the latter's path. ``stretch``: how much wider and higher they are."""
    objects = make_images(folder, count, seed=1)
    wide, high = stretch
    if stretch != (1, 1):
        for index in range(count):
            path = str(folder / f"1-{index}.png")
            cv2.imwrite(path, cv2.resize(cv2.imread(path), (SIZE * wide, SIZE * high)))
    annotations = [
        {
            "image_id": i + 1,
            "category_id": label + 1,
            "bbox": [x * 32 * wide, y * 32 * high, 32 * wide, 32 * high],
            "area": 1024 * wide * high,
            "iscrowd": 0,
        }
        for i, found in enumerate(objects)
        for label, x, y in found
    ]
    images = [
        {"id": i + 1, "file_name": f"1-{i}.png", "width": SIZE * wide, "height": SIZE * high} for i in range(count)
    ]
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}]
    listed = folder / "instances_toy.json"
    numbered = [{"id": number, **entry} for number, entry in enumerate(annotations, 1)]
    listed.write_text(json.dumps({"images": images, "annotations": numbered, "categories": categories}))
    return listed


def make_calibration(folder: Path, count: int = 4) -> Path:
    """Write other images and the list of them; returns the list's path."""
    make_images(folder, count, seed=2)
    path = folder / "calibration.txt"
    path.write_text("".join(f"2-{i}.png\n" for i in range(count)))
    return path


def make_qcdq(detector: Path, path: Path) -> Path:
    """The toy detector as Brevitas writes them: S8 activations as QuantizeLinear, Clip, DequantizeLinear."""
    model = onnx.load(str(detector))
    nodes, weights = [], list(model.graph.initializer)
    floats = {t.name: numpy_helper.to_array(t) for t in weights}
    weights += [
        numpy_helper.from_array(np.float32(1 / 127), "act_scale"),
        numpy_helper.from_array(np.int8(0), "act_zero"),
        numpy_helper.from_array(np.int8(-127), "low"),
        numpy_helper.from_array(np.int8(127), "high"),
    ]
    for node in model.graph.node:
        if node.op_type != "Conv":
            nodes.append(node)
            continue
        name, data, weight = node.name, node.input[0], node.input[1]
        values = floats[weight]
        scale = np.abs(values).reshape(len(values), -1).max(1).clip(1e-6) / 127
        weights += [
            numpy_helper.from_array(scale.astype(np.float32), f"{weight}_scale"),
            numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{weight}_zero"),
            numpy_helper.from_array(np.rint(values / scale[:, None, None, None]).astype(np.int8), f"{weight}_int8"),
        ]
        nodes += [
            helper.make_node("QuantizeLinear", [data, "act_scale", "act_zero"], [f"{name}_q"], name=f"{name}_Q"),
            helper.make_node("Clip", [f"{name}_q", "low", "high"], [f"{name}_c"], name=f"{name}_Clip"),
            helper.make_node(
                "DequantizeLinear", [f"{name}_c", "act_scale", "act_zero"], [f"{name}_d"], name=f"{name}_DQ"
            ),
            helper.make_node(
                "DequantizeLinear",
                [f"{weight}_int8", f"{weight}_scale", f"{weight}_zero"],
                [f"{weight}_d"],
                name=f"{weight}_DQ",
                axis=0,
            ),
        ]
        node.input[0], node.input[1] = f"{name}_d", f"{weight}_d"
        nodes.append(node)
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(t for t in weights if t.name not in {"w0", "w8", "w16", "w32"})
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path
