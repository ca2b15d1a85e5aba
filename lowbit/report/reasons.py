"""What went wrong with a scheme, for people: what happened, what to do, and then the message as it was raised."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lowbit.results import Entry, Status

# How Python and pytest write an exception: dotted name, colon, text.
_RAISED = re.compile(r"(?:[A-Za-z_]\w*\.)*([A-Za-z_]\w*(?:Error|Exception|Interrupt|Exit|Timeout)): ?(.*)", re.DOTALL)
# Errors whose own text names the remedy, see :mod:`lowbit.errors`.
_SAY_IT_THEMSELVES = ("InputError", "UnavailableError", "StoreError")
_PART = r"[^\s/\\'\"`:;,()<>\[\]]+"
# A path is what begins where machines have their files, or ends in a file name with a suffix. Names of nodes in ONNX
# graphs, as /model.23/cv2/Conv, are neither.
_PATH = re.compile(rf"(?<![\w:/.])/(?:{_PART}/)*({_PART})/?|\b[A-Za-z]:\\(?:{_PART}\\)*({_PART})")
_ROOTS = "home|root|tmp|var|usr|opt|etc|mnt|media|srv|proc|work|workspace|builds|Users|Volumes|private"
_ROOTED = re.compile(rf"/(?:{_ROOTS})/")
_FILE = re.compile(r"\.[A-Za-z]\w{0,7}$")


@dataclass(frozen=True)
class Reason:
    """``what`` happened, in one line; ``remedy``: what a person can do, empty where ``what`` says it; ``log``: the message
    as it was raised and the end of the log, empty where ``what`` is all of it."""

    what: str
    remedy: str
    log: str


def explain(entry: Entry) -> Reason:
    """Why an entry did not pass. Paths are cut down to names: whose machine it was is nobody's business."""
    whole = without_paths(entry.reason or "no reason given").strip()
    first, _, rest = whole.partition("\n")
    raised = _RAISED.match(first)
    kind, text = raised.groups() if raised else ("", first)
    what = text.strip() or f"it ended with {kind}"
    log = whole if rest or (raised and kind != "AssertionError") else ""
    return Reason(what, _remedy(entry, kind), log)


def _remedy(entry: Entry, kind: str) -> str:
    if kind in _SAY_IT_THEMSELVES or entry.status not in (Status.FAILED, Status.ERROR):
        return ""
    if entry.status is Status.FAILED:
        return "Ship another scheme, or set other limits in lowbit.toml."
    alone = f"pytest tests/test_accuracy.py --detector {entry.detector} --scheme {entry.scheme}"
    if kind == "BuildError":
        return f"Read the end of the log, mend what it names and build it alone: {alone}. The store keeps whole logs in failed/."
    if kind == "MetricError":
        return "Do not trust its numbers: two implementations disagree. Report it with results.json and the detections."
    return f"It could not be measured. Run it alone: {alone}; if that fails too, report it with what it prints."


def without_paths(text: str) -> str:
    """A text whose absolute paths are cut down to their last name, after an ellipsis."""
    return _PATH.sub(_short, text)


def _short(match: re.Match[str]) -> str:
    whole, name = match[0], match[1] or match[2]
    if match[1] and not _ROOTED.match(whole) and not _FILE.search(name):
        return whole
    return f"…/{name}"
