"""summary.md: one table a detector and two sentences that recommend a scheme, fit for a pull request comment."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from lowbit.gate import points
from lowbit.markdown import escape, table
from lowbit.report import collapses, reasons, thresholds
from lowbit.results import CrossCheck, EngineRecord, Entry, GpuLoadRecord, RankedLayer, Results, Status, SweepRecord
from lowbit.runtime import PRECISE

VERDICTS = {
    Status.PASSED: "passed",
    Status.FAILED: "**FAILED**",
    Status.INCONCLUSIVE: "inconclusive",
    Status.SKIPPED: "skipped",
    Status.ERROR: "**ERROR**",
}

CUT = "This run was cut before its end: what it had not measured by then is missing."
# Of what a host measured, in the heading of a merged run.
_SHOWN = 6


def markdown(results: Results) -> str:
    """The whole summary."""
    lines = [f"# lowbit run {results.run_id}", "", *[escape(line) for line in hosts(results)], ""]
    if results.cut:
        lines += [f"**{CUT}**", ""]
    keyed = sorted(results.entries, key=lambda e: (e.detector, not e.on_default, e.provider))
    for (detector, provider), group in groupby(keyed, key=lambda e: (e.detector, e.provider)):
        entries = list(group)
        measured = [e for e in entries if e.status is not Status.SKIPPED]
        if not measured:
            continue
        lines += _section(detector, provider, measured)
    lines += _sweeps(results.sweeps)
    lines += _skips(results.entries)
    packages = results.environment.get("packages", {})
    named = [f"{name} {packages[name]}" for name in ("onnxruntime-gpu", "nvidia-modelopt") if packages.get(name)]
    python = f"Python {results.environment.get('python')}"
    lines += [f"{', '.join([results.started, python, *named])}.", ""]
    return "\n".join(lines)


def hosts(results: Results) -> list[str]:
    """The machine that a run was measured on; of a merged run, each with what it measured."""
    measured = results.hosts()
    if len(measured) < 2:
        here = results.environment.get("host", "an unknown host")
        only = next(iter(measured), here)
        return [f"Measured on {here if here.startswith(f'{only}, ') else only}."]
    lines = ["Measured on several hosts. Integer kernels differ between processors, and speeds do not compare:", ""]
    for name, cases in measured.items():
        shown = ", ".join(cases[:_SHOWN]) + (f" and {len(cases) - _SHOWN} more" if len(cases) > _SHOWN else "")
        lines.append(f"- {name}: {shown}")
    return lines


def _section(detector: str, provider: str, entries: Sequence[Entry]) -> list[str]:
    first = next((e for e in entries if e.images), None)
    on = f", {first.images} images of {first.dataset}" if first else ""
    headings = (
        "scheme",
        "AP",
        "drop, points [95 % interval]",
        "p50, ms",
        "speed-up",
        "size, MB",
        "integer MACs",
        "verdict",
    )
    rows = []
    for entry in entries:
        drop = "" if entry.drop is None else points(entry.drop)
        if entry.drop_ci:
            drop += f" [{points(entry.drop_ci[0])}, {points(entry.drop_ci[1])}]"
        timing = entry.latency
        ci = timing.speedup_ci if timing else None
        speed = "" if timing is None or timing.speedup is None else f"{timing.speedup:.2f}x"
        if ci and entry.scheme != "fp32":
            speed += f" [{ci[0]:.2f}, {ci[1]:.2f}]"
        integer = entry.runtime.int8_mac_fraction if entry.runtime else None
        verdict = VERDICTS[entry.status] + (" (expected)" if entry.expected_failure else "")
        rows.append(
            (
                entry.scheme,
                _number(entry.map, 4),
                drop,
                _number(timing.p50 * 1000 if timing else None, 2),
                speed,
                _number(entry.artifact.bytes / 1e6 if entry.artifact else None, 2),
                None if integer is None else f"{integer:.1%}",
                verdict,
            )
        )
    lines = [f"## {escape(detector)} on {provider}{on}", "", recommend(entries), ""]
    lines += [*table(headings, "lrrrrrrl", rows), ""]
    for entry in entries:
        if (entry.expected_failure or entry.reason) and entry.status is not Status.PASSED:
            why = entry.expected_failure or reasons.explain(entry).what
            lines.append(f"- `{escape(entry.scheme)}`: {escape(why.splitlines()[0])}")
    lines += [f"- `{escape(e.scheme)}`: {escape(collapses.headline(e.collapse))}" for e in entries if e.collapse]
    in_name_only = [f"`{escape(e.scheme)}`" for e in entries if _in_name_only(e)]
    if in_name_only:
        lines.append(
            f"- Most of the arithmetic ran in float on this provider, though the file is quantized: {', '.join(in_name_only)}"
        )
    lines += [f"- {escape(line)}" for line in thresholds.summary_lines(entries)]
    lines += [f"- {sentence}" for entry in entries for sentence in remarks(entry)]
    lines += [f"- {sentence}" for sentence in (*left_out(entries), *costs(entries))]
    return [*lines, ""] if lines[-1] else lines


def remarks(entry: Entry) -> list[str]:
    """A sentence on an entry that was measured beside another tool's, one on what TensorRT made of it, and one on sums that
    this processor's kernels would lose."""
    found = [_beside(entry, entry.crosscheck)] if entry.crosscheck else []
    found += [_engine(entry, entry.engine)] if entry.engine else []
    load = entry.latency.gpu_load if entry.latency else None
    found += [_load(entry, load)] if load else []
    config = entry.runtime.options.get("config", {}) if entry.runtime else {}
    return found + ([_precise(entry)] if config.get(PRECISE[0]) == PRECISE[1] else [])


def _load(entry: Entry, load: GpuLoadRecord) -> str:
    """What the GPU did during the timing, and whether it was held back."""
    said = [
        f"{load.sm_clock_min} to {load.sm_clock_max} MHz" if load.sm_clock_min is not None else None,
        f"{load.power_mean:.0f} W" if load.power_mean is not None else None,
        f"{load.temperature_max} degrees Celsius at most" if load.temperature_max is not None else None,
        f"{load.energy_per_image:.3g} J an image" if load.energy_per_image is not None else None,
        f"{load.memory_max / 1e6:.0f} MB of its memory in use" if load.memory_max is not None else None,
    ]
    sentence = (
        f"`{escape(entry.scheme)}`: the GPU during its timing: {', '.join(filter(None, said)) or 'NVML says nothing'}"
    )
    if not load.throttled:
        return sentence
    reasons = ", ".join(
        f"{name} in {share:.0%} of the samples" for name, share in (load.throttle_reasons or {}).items()
    )
    return f"{sentence}. **It was throttled** ({reasons}): its times are those of a slower GPU"


def left_out(entries: Sequence[Entry]) -> list[str]:
    """A sentence on every rewrite that artifacts were built without, and why."""
    found: dict[tuple[str, str], list[str]] = {}
    for entry in entries:
        for one in (entry.artifact.left_out if entry.artifact else None) or ():
            found.setdefault((one.rewrite, one.reason), []).append(f"`{escape(entry.scheme)}`")
    return [
        f"Left out of {', '.join(schemes)}: {escape(rewrite)} ({escape(reason.rstrip('.'))})"
        for (rewrite, reason), schemes in found.items()
    ]


def costs(entries: Sequence[Entry]) -> list[str]:
    """A sentence on what loading and running every artifact costs a process, and one on every speed-up that a limit asked
    for."""
    weighed = [
        f"`{escape(e.scheme)}` {e.footprint.memory_bytes / 1e6:.0f} MB, {e.footprint.load_seconds:.2f} s"
        for e in entries
        if e.footprint
    ]
    said = (
        [f"Memory that loading and running adds to a process, and load time: {'; '.join(weighed)}"] if weighed else []
    )
    for entry in entries:
        if found := entry.process_speedup:
            low, high = found.interval
            said.append(
                f"`{escape(entry.scheme)}` over {len(found.by_process)} processes: {found.ratio:.2f}x the speed of FP32, "
                f"95 % CI [{low:.2f}, {high:.2f}]; at least {found.bounds[0]:.2f}x by the one-sided 95 % bound"
            )
    return said


def _precise(entry: Entry) -> str:
    said = (
        f"`{escape(entry.scheme)}` holds sums that this processor's 8-bit kernels lose (it has no VNNI), so it ran with "
        f"`{PRECISE[0]}={PRECISE[1]}`"
    )
    timing = entry.latency
    if timing is None or timing.precision_cost is None or timing.precision_cost_ci is None:
        return said
    low, high = timing.precision_cost_ci
    return f"{said}, which takes {timing.precision_cost:.2f}x [{low:.2f}, {high:.2f}] the time"


def _engine(entry: Entry, engine: EngineRecord, names: int = 5) -> str:
    low, high = engine.speedup_ci
    layers = ", ".join(f"{count} in {escape(kind)}" for kind, count in engine.layers.items())
    said = (
        f"`{escape(entry.scheme)}` as a TensorRT engine: p50 {engine.p50 * 1000:.3f} ms, {engine.speedup:.2f}x "
        f"[{low:.2f}, {high:.2f}] its FP32 engine; layers {layers}"
    )
    if engine.mac_fractions:
        shares = ", ".join(f"{share:.1%} in {escape(kind)}" for kind, share in engine.mac_fractions.items())
        said += f"; multiply-accumulates {shares}"
    left = engine.float_convolutions
    if not left or entry.scheme.startswith("fp"):
        return said
    shown = ", ".join(f"`{escape(name)}`" for name in left[:names]) + ", ..." * (len(left) > names)
    return f"{said}; {len(left)} convolutions in float: {shown}"


def _beside(entry: Entry, found: CrossCheck) -> str:
    low, high = found.ap_interval
    said = (
        f"`{escape(entry.scheme)}` beside `{escape(found.scheme)}`: AP {found.ap_difference * 100:+.2f} points "
        f"[{low * 100:+.2f}, {high * 100:+.2f}], "
    )
    if found.speed_ratio is not None and found.speed_interval is not None:
        said += f"{found.speed_ratio:.2f}x [{found.speed_interval[0]:.2f}, {found.speed_interval[1]:.2f}] as fast, "
    apart = ", ".join(f"`{escape(name)}`" for name in found.disagreements)
    return said + f"rank correlation of what convolutions suffer {found.rank_correlation:.2f}, furthest apart {apart}"


def recommend(entries: Sequence[Entry]) -> str:
    """Two sentences: which scheme to ship on the machine that measured ``entries`` and why, and what it costs."""
    if not any(e.drop is not None for e in entries):
        return "No accuracy was measured, so nothing is recommended."
    best = shipped(entries)
    if best is None:
        return (
            "**Ship `fp32`**: no quantized scheme stayed within its threshold. What failed is in the table, with why."
        )
    if _surely_faster(best):
        said = (
            f"**Ship `{escape(best.scheme)}`** on this machine: no other scheme within its threshold is faster beyond the "
            "95 % CI, and of those as fast this one loses least"
        )
    else:
        timed = any(e.latency and e.latency.speedup is not None for e in _allowed(entries))
        why = "none of those within their threshold is faster than FP32 here" if timed else "latency was not measured"
        said = f"**`{escape(best.scheme)}`** loses least; {why}"
    if best.status is Status.INCONCLUSIVE:
        said += "; its one-sided 95 % bounds lie on both sides of a limit, so judge it on more images first"
    return f"{said}. {_price(best, entries)}"


def shipped(entries: Sequence[Entry]) -> Entry | None:
    """The scheme that :func:`recommend` names, None where no quantized one was let through."""
    good = _allowed(entries)
    faster = [e for e in good if _surely_faster(e)]
    if faster:
        return _fast_and_true(faster)
    # Half precision loses least of all; where it is not faster nothing speaks for it.
    return min((e for e in good if e.scheme != "fp16"), key=lambda e: e.drop or 0.0, default=good[0] if good else None)


def _allowed(entries: Sequence[Entry]) -> list[Entry]:
    return [
        e
        for e in entries
        if e.status in (Status.PASSED, Status.INCONCLUSIVE) and not e.scheme.startswith("fp32") and e.drop is not None
    ]


def _surely_faster(entry: Entry) -> bool:
    return bool(entry.latency and entry.latency.speedup_ci and entry.latency.speedup_ci[0] > 1)


def _price(best: Entry, entries: Sequence[Entry]) -> str:
    """What a scheme costs and gives, in a sentence."""
    assert best.drop is not None
    said = f"It costs {points(best.drop)} points of AP"
    if best.drop_ci:
        said += f" [{points(best.drop_ci[0])}, {points(best.drop_ci[1])}]"
    if best.latency and best.latency.speedup is not None:
        said += f", runs at {best.latency.speedup:.2f}x the speed of FP32"
        if best.latency.speedup_ci:
            said += f" [{best.latency.speedup_ci[0]:.2f}, {best.latency.speedup_ci[1]:.2f}]"
    reference = next((e.artifact for e in entries if e.scheme == "fp32" and e.artifact), None)
    if best.artifact and reference:
        said += f" and takes {best.artifact.bytes / 1e6:.2f} MB instead of {reference.bytes / 1e6:.2f}"
    return f"{said}."


def _in_name_only(entry: Entry) -> bool:
    fraction = entry.runtime.int8_mac_fraction if entry.runtime else None
    return entry.scheme.startswith(("int8", "w8a8", "w4a8")) and fraction is not None and fraction < 0.5


def _fast_and_true(entries: Sequence[Entry]) -> Entry:
    """The entry with the least drop, of those whose speed-up's interval reaches the fastest one's lower bound."""
    speeds = {id(e): e.latency.speedup_ci for e in entries if e.latency and e.latency.speedup_ci}
    surely = max(ci[0] for ci in speeds.values())
    return min(
        (e for e in entries if speeds[id(e)][1] >= surely),
        key=lambda e: (e.drop if e.drop is not None else 1, e.scheme),
    )


def disagreements(sweep: SweepRecord, count: int = 5) -> list[RankedLayer]:
    """The layers whose ranks, AutoQuant's and the graph's, differ most."""
    return sorted(sweep.layers, key=lambda layer: (-abs(layer.rank - layer.graph_rank), layer.rank))[:count]


def _sweeps(sweeps: Sequence[SweepRecord], top: int = 3) -> list[str]:
    if not sweeps:
        return []
    headings = "detector", "combination", "rank correlation with the graph", "AutoQuant's worst", "the graph's worst"
    rows = []
    for sweep in sweeps:
        by_graph = sorted(sweep.layers, key=lambda layer: layer.graph_rank)
        worst = (", ".join(f"`{one.layer}`" for one in found[:top]) for found in (sweep.layers, by_graph))
        rows.append((sweep.detector, sweep.combination, f"{sweep.rank_correlation:.2f}", *worst))
    return ["## Sensitive layers", "", *table(headings, "llrll", rows), ""]


def _skips(entries: Sequence[Entry]) -> list[str]:
    found: dict[str, list[str]] = {}
    for entry in entries:
        if entry.status is Status.SKIPPED:
            found.setdefault(reasons.explain(entry).what, []).append(f"{entry.scheme} ({entry.provider})")
    if not found:
        return []
    lines = ["## Skipped", ""]
    lines += [f"- {escape(reason)}: {escape(', '.join(names))}" for reason, names in found.items()]
    return [*lines, ""]


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
