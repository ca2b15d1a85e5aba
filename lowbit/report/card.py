"""A model card with the numbers of one scheme: Markdown with the front matter that hubs read.

The front matter follows https://huggingface.co/docs/hub/model-cards#evaluation-results: ``model-index`` with task, data
set and metrics.
"""

from __future__ import annotations

from collections.abc import Sequence

import yaml

from lowbit.errors import InputError
from lowbit.gate import points
from lowbit.markdown import escape, plain, table
from lowbit.report.summary import VERDICTS, shipped
from lowbit.results import Entry, Results, Status


def markdown(run: Results, detector: str | None = None, scheme: str | None = None) -> str:
    """The card of ``scheme`` on ``detector``, on the default runtime. None: the only detector, and what the run recommends.

    Raises :class:`InputError` where the run has no such entry, has several detectors, or recommends nothing.
    """
    entries = [e for e in run.entries if e.on_default and e.status is not Status.SKIPPED and e.map is not None]
    entry = _chosen(run, entries, detector, scheme)
    reference = next((e for e in entries if (e.detector, e.scheme) == (entry.detector, "fp32")), None)
    front = yaml.safe_dump(_front(entry), sort_keys=False, allow_unicode=True)
    return "\n".join(["---", front.rstrip(), "---", "", *_body(run, entry, reference)]) + "\n"


def _chosen(run: Results, entries: Sequence[Entry], detector: str | None, scheme: str | None) -> Entry:
    names = sorted({entry.detector for entry in entries})
    if not names:
        raise InputError(
            f"run {run.run_id}: no accuracy was measured on ONNX Runtime's CPU provider: no card can be made."
        )
    if detector is None and len(names) > 1:
        raise InputError(f"run {run.run_id} has several detectors. Choose one: --detector {' or '.join(names)}.")
    detector = detector or names[0]
    mine = [entry for entry in entries if entry.detector == detector]
    if not mine:
        raise InputError(f"--detector {detector}: run {run.run_id} has {', '.join(names)}.")
    if scheme is None:
        best = shipped(mine)
        if best is None:
            raise InputError(f"run {run.run_id} recommends no scheme for {detector}. Name one: --scheme ID.")
        return best
    found = next((entry for entry in mine if entry.scheme == scheme), None)
    if found is None:
        raise InputError(f"--scheme {scheme}: run {run.run_id} has {', '.join(entry.scheme for entry in mine)}.")
    return found


def _front(entry: Entry) -> dict[str, object]:
    name = f"{entry.detector}-{entry.scheme}"
    metrics = [("mAP@[.5:.95]", entry.map), ("mAP@.5", entry.map50), ("mAP@.75", entry.map75)]
    return {
        "library_name": "onnx",
        "pipeline_tag": "object-detection",
        "tags": ["object-detection", "onnx", "quantized", entry.scheme],
        "model-index": [
            {
                "name": name,
                "results": [
                    {
                        "task": {"type": "object-detection"},
                        "dataset": {"name": entry.dataset, "type": entry.dataset, "revision": entry.dataset_digest},
                        "metrics": [
                            {"type": "mean_average_precision", "name": name, "value": round(value, 6)}
                            for name, value in metrics
                            if value is not None
                        ],
                    }
                ],
            }
        ],
    }


def _body(run: Results, entry: Entry, reference: Entry | None) -> list[str]:
    verdict = plain(VERDICTS[entry.status])
    lines = [f"# {escape(entry.detector)}, {escape(entry.scheme)}", ""]
    lines += [
        f"Quantized by the scheme `{escape(entry.scheme)}`. Verdict: **{verdict}**"
        + (f", allowed drop {points(entry.threshold)} points." if entry.threshold is not None else "."),
        "",
    ]
    if entry.reason and entry.status is not Status.PASSED:
        lines += [f"{escape(entry.reason.splitlines()[0])}", ""]
    ci = f" [{points(entry.drop_ci[0])}, {points(entry.drop_ci[1])}]" if entry.drop_ci else ""
    timing = entry.latency
    rows = [
        ("data set", f"{entry.dataset}, {entry.images} images"),
        ("AP of FP32", f"{reference.map:.4f}" if reference and reference.map is not None else None),
        ("AP", f"{entry.map:.4f}"),
        ("drop, points [95 % interval]", points(entry.drop) + ci if entry.drop is not None else None),
        ("accuracy measured on", entry.host),
        ("speed-up over FP32", f"{timing.speedup:.2f}x" if timing and timing.speedup else None),
        ("median latency, ms", f"{1000 * timing.p50:.2f}" if timing else None),
        ("timed on", timing.host if timing else None),
        ("size, MB", f"{entry.artifact.bytes / 1e6:.2f}" if entry.artifact else None),
        ("SHA-256 of the file", entry.artifact.sha256 if entry.artifact else None),
        ("SHA-256 of the detector's weights", entry.weights),
        ("digest of the data set", entry.dataset_digest),
        ("commit", run.commit),
    ]
    lines += [*table(("", ""), "ll", [(name, value) for name, value in rows if value is not None]), ""]
    advice = entry.operating_point
    if advice and advice.same_precision:
        lines += [
            f"Use a confidence threshold of {advice.same_precision.at.threshold:.2f} where FP32 had {advice.confidence:.2f}: "
            "precision is the same there.",
            "",
        ]
    packages = run.environment.get("packages", {})
    tools = ", ".join(f"{name} {packages[name]}" for name in ("lowbit", "onnxruntime-gpu") if packages.get(name))
    lines += [
        "Drop: fall of COCO AP@[.5:.95] against FP32 on the same images, with the interval of a paired bootstrap. Latency "
        f"and speed-up hold for that machine only. Measured by lowbit, run {run.run_id}, {run.started}"
        + (f" ({tools})." if tools else "."),
        "",
        "To measure it again:",
        "",
        "```console",
        f"pytest --pyargs lowbit_suite.test_accuracy lowbit_suite.test_latency --scheme fp32 --scheme {entry.scheme}",
        "```",
    ]
    return lines
