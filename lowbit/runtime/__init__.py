"""What executes an artifact. The only package that makes a session."""

from lowbit.runtime.options import PROVIDERS, SessionOptions, available_cores, for_many, on_cores, pinned
from lowbit.runtime.ort import (
    PRECISE,
    BoundRun,
    capability,
    deployed_options,
    kernels_saturate,
    open_session,
    optimized_graph,
    plain_session,
    provider_reason,
    timed_run,
)

__all__ = [
    "PRECISE",
    "PROVIDERS",
    "BoundRun",
    "SessionOptions",
    "available_cores",
    "capability",
    "deployed_options",
    "for_many",
    "kernels_saturate",
    "on_cores",
    "open_session",
    "optimized_graph",
    "pinned",
    "plain_session",
    "provider_reason",
    "timed_run",
]
