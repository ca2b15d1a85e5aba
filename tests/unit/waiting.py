"""Waiting for what another process or thread does, as long as the slowest machine may need: no test depends on speed."""

from __future__ import annotations

import time
from collections.abc import Callable

# Seconds after which what a test waits for is taken to hang. Only a fault comes near it.
PATIENCE = 1200


def wait_until(happened: Callable[[], object]) -> None:
    """Return once ``happened()`` is true. Raises :class:`TimeoutError` after :data:`PATIENCE` seconds."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {PATIENCE} s in vain")
        time.sleep(0.02)
