"""A quantizer for the store's tests: does what its settings say, however bad."""

from __future__ import annotations

import os
import resource
import signal
import time
from pathlib import Path
from typing import Any

from lowbit.errors import InputError
from lowbit.quantize import Job, Promises, Tool


def build(job: Job) -> dict[str, Any]:
    print("the fake tool starts")
    with Path(job.settings["count"]).open("a") as count:
        count.write(f"{os.getpid()}\n")
    what = job.settings.get("what", "good")
    if os.environ.get("LOWBIT_TEST_GOOD"):
        what = "good"
    if what == "raise":
        raise RuntimeError("the tool's own trouble")
    if what == "refuse":
        raise InputError("this input is unfit")
    if what == "refuse source":
        raise InputError(f"{job.source}: is unfit")
    if what == "read":
        # The user's file changes in the middle of a build.
        Path(job.settings["count"]).with_name("source").write_bytes(b"other weights")
        job.output.write_bytes(job.source.read_bytes())
        return {"read_from": str(job.source)}
    if what == "threads":
        job.output.write_text(str(os.environ.get("OMP_NUM_THREADS")))
        return {}
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "exit":
        os._exit(7)
    if what == "silent":
        return {}
    if what == "half":
        job.output.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "hog":
        resource.setrlimit(resource.RLIMIT_AS, (400 * 2**20, 400 * 2**20))
        bytearray(2**30)
    if what == "hang":
        signal.pause()
    if what == "resume":
        state = job.unfinished / "state"
        if not state.exists():
            state.write_text("half of the work")
            os.kill(os.getpid(), signal.SIGKILL)
        job.output.write_text(state.read_text())
        return {}
    if what == "litter":
        (job.output.parent / "below").mkdir()
        (job.output.parent / "below" / "temporary").write_bytes(b"x")
        (job.output.parent / "link").symlink_to(Path(job.settings["count"]).with_name("source"))
    if what == "beside":
        (job.output.parent / "beside.bin").write_bytes(b"weights")
    if what == "slow":
        time.sleep(1.5)
    job.output.write_bytes(b"an artifact of " + job.scheme.encode())
    return {"said": "well done"}


TOOL = Tool(build, Promises(symmetric=True))
