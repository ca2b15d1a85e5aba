"""The artifact store: every artifact under a key of all that shapes it, built once, locked, written atomically.

Layout: ``<root>/artifacts/<key>/{model.onnx, manifest.json, build.log}``; ``locks/``, ``partial/`` and ``unfinished/``
beside it. A build happens in a process of its own in ``partial/``, and a finished folder is moved into place by one
rename, so whoever reads the store sees whole artifacts only. A build that was interrupted leaves nothing but its partial
folder, which the next build of that key removes, and what its tool keeps in ``unfinished/`` to resume from.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from lowbit import files, worker
from lowbit.artifact import LOG, MODEL, Artifact, read_artifact, write_manifest
from lowbit.errors import BuildError, LowbitError, StoreError
from lowbit.progress import Progress, Step, silent
from lowbit.store.key import BUILD_PROCESS, BuildRequest

STORE_VARIABLE = "LOWBIT_STORE"
DEFAULT_TIMEOUT = 7200.0
_MIN_FREE_BYTES = 200 * 2**20


def default_root() -> Path:
    """``$LOWBIT_STORE``, or ``.lowbit/store`` in the working directory."""
    return Path(os.environ.get(STORE_VARIABLE) or ".lowbit/store").expanduser().resolve()


class Store:
    """A folder of artifacts. Safe for several processes at once.

    What failed is remembered as long as this object lives, and not tried again: every test of a scheme would wait for
    the same failure.
    """

    def __init__(self, root: Path, *, timeout: float = DEFAULT_TIMEOUT, progress: Progress = silent) -> None:
        """``timeout``: seconds that one build may take. ``progress`` is told what is going on."""
        self.root = root
        self.timeout = timeout
        self._progress = progress
        self._failed: dict[str, LowbitError] = {}

    @property
    def data(self) -> Path:
        """Where drawn data sets are kept."""
        return self.root / "data"

    @property
    def engines(self) -> Path:
        """Where runtimes keep what they compile of artifacts, by their own names for machine and version."""
        return self.root / "engines"

    def check(self) -> None:
        """Raise :class:`StoreError` unless the store can be written and its disk has 200 MiB free."""
        files.check_writable(self.root, f"${STORE_VARIABLE} or --store")
        free = shutil.disk_usage(self.root).free
        if free < _MIN_FREE_BYTES:
            raise StoreError(
                f"{self.root}: only {free // 2**20} MiB are free and artifacts need about {_MIN_FREE_BYTES // 2**20}. "
                f"Free some space or point ${STORE_VARIABLE} (or --store) to another disk."
            )

    def get(self, request: BuildRequest) -> Artifact:
        """The artifact of a request, built now if the store does not hold it whole.

        Raises :class:`BuildError` with the log's end if the build fails, whatever way it does, :class:`StoreError` if
        the store can't be written, and what the tool says of bad input; the same error when it is asked again.
        """
        artifact = read_artifact(self._final(request.key))
        if artifact is not None:
            return artifact
        if request.key in self._failed:
            raise self._failed[request.key].with_traceback(None)
        try:
            with self.lock(request.key):
                return self._get_locked(request)
        except LowbitError as error:
            self._failed[request.key] = error
            raise

    def _get_locked(self, request: BuildRequest) -> Artifact:
        final = self._final(request.key)
        artifact = read_artifact(final)  # another process may have built it while we waited
        if artifact is not None:
            return artifact
        if final.exists():
            self._progress(Step(f"{request.scheme}: the artifact in {final} is damaged; building it again"))
        return self._build(request, final)

    def _final(self, key: str) -> Path:
        return self.root / "artifacts" / key

    @contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the lock of a key, against other processes too. Raises :class:`StoreError` if it is held for too long."""
        path = self.root / "locks" / f"{key}.lock"
        lock = FileLock(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self._progress(Step(f"waiting for another process that builds {key[:12]}"))
                lock.acquire(timeout=self.timeout)
        except Timeout as error:
            raise StoreError(f"{path}: another process has held this lock for {self.timeout:.0f} s.") from error
        except OSError as error:
            raise StoreError(
                f"{path}: cannot be locked ({error.strerror or error}). Make the store writable or choose another with --store."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _build(self, request: BuildRequest, final: Path) -> Artifact:
        partial, unfinished = self.root / "partial" / request.key, self.root / "unfinished" / request.key
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            unfinished.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"{partial}: cannot be made ({error.strerror}). Make the store writable.") from error
        self._progress(
            Step(f"{request.scheme}: building with {request.tool} ({len(request.calibration)} calibration images)")
        )
        started = time.time()
        clock = time.monotonic()
        try:
            outcome = _build_in_worker(request, partial, unfinished, self.timeout, self._progress)
            model = partial / MODEL
            if not model.is_file():
                raise BuildError(f"{request.scheme}: {request.tool} ended without an error but wrote no {MODEL}.")
            manifest = {
                **request.ingredients,
                "key": request.key,
                "source_path": str(request.source),
                "calibration_images": len(request.calibration),
                "training_images": len(request.training),
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
                "seconds": round(time.monotonic() - clock, 3),
                "threads": worker.threads(),
                "peak_rss_bytes": outcome["peak_rss_bytes"],
                "python": sys.version.split()[0],
                "log": LOG,
                **outcome["info"],
            }
            manifest = write_manifest(partial, manifest)
            self.publish(partial)
            shutil.rmtree(unfinished, ignore_errors=True)
        except BuildError as error:
            raise BuildError(f"{error}{self._keep_log(partial, request.key)}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
            with suppress(OSError):
                unfinished.rmdir()  # a tool that can resume has left something in it
        self._progress(Step(f"{request.scheme}: built in {manifest['seconds']:.0f} s"))
        return Artifact(final / MODEL, manifest["sha256"], manifest, built=True)

    def publish(self, folder: Path) -> None:
        """Move a finished folder, named by its key, into the store, in place of what is there. The caller holds the lock.

        Raises :class:`StoreError` if that can't be written.
        """
        final = self._final(folder.name)
        try:
            final.parent.mkdir(parents=True, exist_ok=True)
            if final.is_symlink():
                final.unlink()
            elif final.exists():
                aside = self.root / "partial" / f"damaged-{final.name}-{os.getpid()}"
                final.rename(aside)
                shutil.rmtree(aside, ignore_errors=True)
            folder.rename(final)
        except OSError as error:
            raise StoreError(
                f"{final}: cannot be written ({error.strerror}). Free some space or use --store."
            ) from error

    def _keep_log(self, partial: Path, key: str) -> str:
        """Keep the log of a failed build; says where, or nothing if there is none."""
        log = partial / LOG
        if not log.is_file():
            return ""
        kept = self.root / "failed" / f"{key}.log"
        kept.parent.mkdir(parents=True, exist_ok=True)
        log.replace(kept)
        return f"\nThe whole log: {kept}"


def _build_in_worker(
    request: BuildRequest, folder: Path, unfinished: Path, timeout: float, progress: Progress
) -> dict[str, Any]:
    asked = {
        "tool": request.tool,
        "scheme": request.scheme,
        "settings": request.settings,
        "source": str(request.source),
        "identity": request.identity,
        "input": dataclasses.asdict(request.input),
        "calibration": [str(path) for path in request.calibration],
        "training": [str(path) for path in request.training],
        "training_labels": str(request.training_labels) if request.training_labels else None,
        "training_classes": list(request.training_classes),
        "start": str(request.start.path.parent) if request.start else None,
        "unfinished": str(unfinished),
        "trust": request.trust,
    }
    work = worker.Work(BUILD_PROCESS, f"{request.scheme}: {request.tool}", folder, folder / LOG, timeout)
    return worker.run(work, asked, lambda step: progress(step.under(request.scheme)))
