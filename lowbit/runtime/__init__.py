"""What executes an artifact. The only package that makes a session."""

from lowbit.runtime.options import PROVIDERS, SessionOptions, available_cores, for_many, on_cores, pinned
from lowbit.runtime.ort import (
    BoundRun,
    capability,
    deployed_options,
    open_session,
    plain_session,
    provider_reason,
    timed_run,
)

__all__ = [
    "PROVIDERS",
    "BoundRun",
    "SessionOptions",
    "available_cores",
    "capability",
    "deployed_options",
    "for_many",
    "on_cores",
    "open_session",
    "pinned",
    "plain_session",
    "provider_reason",
    "timed_run",
]
