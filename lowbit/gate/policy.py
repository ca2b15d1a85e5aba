"""What an inconclusive verdict does to a merge: ``--inconclusive``, and which rule holds where nobody chose one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Choice = Literal["pass", "fail", "warn"]
# The environment variable that GitHub Actions, GitLab and most others set.
CI = "CI"
_RULES: dict[Choice, str] = {
    "pass": "an inconclusive verdict is let through",
    "fail": "the interval decides: what is not shown to be within its limit is stopped",
    "warn": "the point estimate decides",
}


@dataclass(frozen=True, slots=True)
class Policy:
    """``choice``: an inconclusive case is let through (``pass``), stopped, because its interval does not show it to be within
    the limit (``fail``), or follows its point estimate (``warn``). ``origin``: who chose that, in words."""

    choice: Choice
    origin: str

    def allows(self, point_within: bool) -> bool:
        """Whether an inconclusive case is let through. ``point_within``: whether its point estimate keeps the limit."""
        return self.choice == "pass" or (self.choice == "warn" and point_within)

    @property
    def said(self) -> str:
        """The rule and who chose it."""
        return f"{_RULES[self.choice]} ({self.origin})"


WARN = Policy("warn", "the default outside CI")
STRICT = Policy("fail", f"the default where {CI}=true")


def default_policy(environ: Mapping[str, str]) -> Policy:
    """Where nobody chose: in CI the interval decides, for nobody reads warnings there; in a terminal the point estimate."""
    return STRICT if environ.get(CI, "").lower() in ("true", "1") else WARN
