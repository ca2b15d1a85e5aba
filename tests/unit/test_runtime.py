"""Predictions of many images: the same as one by one, in order, and in turns where a session asks for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from lowbit import graph, runtime
from lowbit.data.dataset import Dataset
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.data.load import load_data
from lowbit.detector import heads
from lowbit.detector.head import Head
from lowbit.errors import InputError
from lowbit.measure.predict import predict
from tests.unit import toys
from tests.unit.waiting import PATIENCE, wait_until

SPEC = InputSpec(toys.SIZE)
CPU, CUDA = runtime.find_runtime("cpu"), runtime.find_runtime("cuda")


@pytest.fixture
def detector(tmp_path: Path) -> Path:
    return toys.make_detector(tmp_path / "toy.onnx")


@pytest.fixture
def head(detector: Path) -> Head:
    return heads.recognise(detector, graph.load(detector))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return load_data(toys.make_dataset(tmp_path / "data", 12))


class Slow:
    """A session that notes how many runs were in it at once. ``pause``: seconds that a run gives another one to come."""

    def __init__(self, session: Any, pause: float) -> None:
        self._session, self._pause, self.inside, self.most, self.runs = session, pause, 0, 0, 0
        self._lock, self._met = threading.Lock(), threading.Event()

    def get_inputs(self) -> Any:
        return self._session.get_inputs()

    def run(self, names: Any, feed: Any) -> Any:
        with self._lock:
            self.inside += 1
            self.runs += 1
            self.most = max(self.most, self.inside)
            if self.inside > 1:
                self._met.set()
        self._met.wait(self._pause)
        try:
            return self._session.run(names, feed)
        finally:
            with self._lock:
                self.inside -= 1


@pytest.mark.parametrize("in_turns", [True, False])
def test_many_images_are_seen_as_one_by_one(detector: Path, head: Head, dataset: Dataset, in_turns: bool) -> None:
    options = runtime.SessionOptions(threads=2)
    one, many = (runtime.open_session(detector, o) for o in (options, CPU.for_many(options)))
    session, steps = Slow(many, 0.02 if in_turns else PATIENCE), []
    found = predict(
        session,  # type: ignore[arg-type]
        head,
        dataset,
        SPEC,
        lambda *step: steps.append(step),
        in_turns=in_turns,
    )
    assert list(found) == [image.id for image in dataset.images]
    assert steps == [(number, 12) for number in range(1, 13)]
    assert (session.most == 1) == in_turns
    for image in dataset.images:
        tensor, place = preprocess(image.path, SPEC)
        seen = head.decode(one.run(None, {"images": tensor}))
        assert np.array_equal(found[image.id].scores, seen.scores)
        assert np.array_equal(found[image.id].boxes, place.to_image(seen.boxes))


def test_an_unreadable_image_ends_it_at_once(detector: Path, head: Head, dataset: Dataset) -> None:
    dataset.images[0].path.write_bytes(b"no image")
    session = Slow(runtime.open_session(detector, runtime.SessionOptions(threads=1)), 0.5)
    with pytest.raises(InputError, match="no image that OpenCV can decode"):
        predict(session, head, dataset, SPEC, in_turns=True)  # type: ignore[arg-type]
    assert session.runs < 11


@pytest.fixture
def threads() -> Iterator[int]:
    before = cv2.getNumThreads()
    yield before
    cv2.setNumThreads(before)


def test_opencv_gets_its_threads_back(detector: Path, head: Head, dataset: Dataset, threads: int) -> None:
    cv2.setNumThreads(3)
    predict(runtime.open_session(detector, runtime.SessionOptions()), head, dataset, SPEC)
    assert cv2.getNumThreads() == 3


def test_what_sees_many_images_soonest() -> None:
    assert CPU.for_many(runtime.SessionOptions("cpu", threads=8)).threads == 1
    assert CUDA.for_many(runtime.SessionOptions("cuda", threads=8)).threads == 8


def allowed() -> dict[str, str]:
    """The processors that every thread of this process may use, by thread."""
    lines = {path.parent.name: path.read_text() for path in Path("/proc/self/task").glob("*/status")}
    return {thread: text.split("Cpus_allowed_list:")[1].split()[0] for thread, text in lines.items()}


@pytest.mark.skipif(runtime.available_cores() < 2, reason="one processor: there is nothing to choose")
def test_every_thread_of_a_timed_session_has_its_processor(detector: Path) -> None:
    options = CPU.for_timing(runtime.SessionOptions(threads=2))
    mine, other = options.cores
    assert mine != other and {mine, other} <= os.sched_getaffinity(0)
    assert options.as_json()["affinity"] == [mine, other]
    before, everywhere = allowed(), os.sched_getaffinity(0)
    session = runtime.open_session(detector, options)
    # A thread goes to its processor once it runs.
    wait_until(lambda: [place for thread, place in allowed().items() if thread not in before] == [str(other)])
    with pytest.raises(ZeroDivisionError), runtime.on_cores(options):
        session.run(None, {"images": np.zeros((1, 3, toys.SIZE, toys.SIZE), np.float32)})
        assert os.sched_getaffinity(0) == {mine}
        raise ZeroDivisionError
    assert os.sched_getaffinity(0) == everywhere


def test_other_sessions_are_left_to_the_operating_system() -> None:
    everywhere = os.sched_getaffinity(0)
    assert runtime.SessionOptions().as_json()["affinity"] is None
    gpu = runtime.SessionOptions("cuda")
    assert CUDA.for_timing(gpu) == gpu
    with runtime.on_cores(gpu):
        assert os.sched_getaffinity(0) == everywhere
