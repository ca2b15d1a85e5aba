"""Detections of a whole data set, by one session."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import cv2

from lowbit.data.dataset import Dataset, ImageRecord
from lowbit.data.detections import Detections
from lowbit.data.letterbox import InputSpec, preprocess
from lowbit.detector.head import Head
from lowbit.runtime import Session, available_cores


def predict(
    session: Session,
    head: Head,
    dataset: Dataset,
    spec: InputSpec,
    progress: Callable[[int, int], None] | None = None,
    *,
    in_turns: bool = False,
) -> dict[int, Detections]:
    """Detections of every image in its own pixels, by image id.

    Several images at once, each read, letterboxed, run and decoded by one thread: with a session of one thread
    (:meth:`lowbit.runtime.Runtime.for_many`) that is quicker than one image by many, and gives the same bits. ``in_turns``: the session takes
    one image at a time (GPUs), and the others are prepared meanwhile. ``progress`` gets images done and in all. Raises
    :class:`lowbit.errors.InputError` for an unreadable image.
    """
    name = session.get_inputs()[0].name
    turn = threading.Lock() if in_turns else nullcontext()

    def one(image: ImageRecord) -> Detections:
        tensor, place = preprocess(image.path, spec, as_stored=image.as_stored)
        with turn:
            outputs = session.run(None, {name: tensor})
        seen = head.decode(outputs)
        return Detections(place.to_image(seen.boxes), seen.scores, seen.classes)

    found: dict[int, Detections] = {}
    # OpenCV's own threads would take the cores from those that run images.
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    pool = ThreadPoolExecutor(max(2, available_cores()))
    try:
        for image, seen in zip(dataset.images, pool.map(one, dataset.images), strict=True):
            found[image.id] = seen
            if progress:
                progress(len(found), len(dataset.images))
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads)
    return found
