"""What can be done here: a scheme asks its tools for what they need, and a runtime for what it takes."""

from __future__ import annotations

from lowbit import extras
from lowbit.quantize import tool
from lowbit.runtime import Form, Runtime
from lowbit.schemes import Scheme, origins


def missing(scheme: Scheme, runtime: Runtime) -> str | None:
    """Why no artifact of a scheme can run on a runtime here, with the remedy; None if it can."""
    return runtime.refuses(form(scheme)) or runtime.reason() or _unmet_need(scheme)


def form(scheme: Scheme) -> Form:
    """What a scheme's artifact asks of a runtime."""
    promised = tool(scheme.tool).promised(scheme.settings)
    return Form(scheme.precision, scheme.weight_bits, scheme.activation_bits, promised.symmetric)


def _unmet_need(scheme: Scheme) -> str | None:
    for origin in origins(scheme):
        if reason := extras.missing(tool(origin.tool).needs):
            return f"the tool {origin.tool} {reason}"
    return None
