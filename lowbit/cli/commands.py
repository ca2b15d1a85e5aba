"""``lowbit``: the library for people at a prompt. Gating is pytest's: see ``pytest --help``, group lowbit."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowbit.cli import runs
from lowbit.display import Display
from lowbit.environment import VARIABLES
from lowbit.errors import InputError, LowbitError
from lowbit.markdown import table
from lowbit.progress import Progress

if TYPE_CHECKING:
    from lowbit.host import Processor


GOOD, REGRESSION, BAD_INPUT, INTERRUPTED = 0, 1, 2, 128 + signal.SIGINT
EXIT_CODES = {
    GOOD: "it went well",
    REGRESSION: "`compare` found a regression",
    BAD_INPUT: "bad input: the message names the file, the value and the remedy",
    INTERRUPTED: "interrupted by Ctrl-C",
}


def parser() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(prog="lowbit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser(
        "doctor", help="what this machine can run, or what an INT8 file loses on other processors"
    )
    check.add_argument(
        "artifact", type=Path, nargs="?", help="an INT8 .onnx file: lists the layers that saturate without VNNI"
    )
    check.add_argument("--images", type=Path, help="list of images for that (the bundled detector's, if the size fits)")
    commands.add_parser("schemes", help="the scheme catalogue as a table")
    begin = commands.add_parser("init", help="write a lowbit.toml from the detectors and data that a folder has")
    begin.add_argument("folder", type=Path, nargs="?", default=Path(), help="where to look and to write (this folder)")
    described = commands.add_parser(
        "schema", help="the JSON schema of lowbit.toml or of a thresholds file, for editors"
    )
    described.add_argument(
        "file",
        nargs="?",
        choices=("lowbit.toml", "thresholds.toml"),
        default="lowbit.toml",
        help="of which (lowbit.toml)",
    )
    report = commands.add_parser("report", help="write summary.md and report.html again from a run's results.json")
    report.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"), help="run folder (runs/latest)")
    _add_explain(commands)
    _add_study(commands)
    get = commands.add_parser("fetch", help="download official checkpoints and COCO images")
    get.add_argument("asset", nargs="+", help="yolov10n, yolov10s, yolov10m, coco-val100, coco-val5k, coco-calib100")
    get.add_argument("--to", type=Path, help="folder ($LOWBIT_ASSETS, or lowbit/assets in the user's cache)")
    get.add_argument("--mirror", action="append", metavar="FROM=TO", help="replace the start of addresses, repeatable")
    get.add_argument("--offline", action="store_true", help="never connect: say what is missing")
    compare = commands.add_parser("compare", help="what changed between two runs; exit code 1 on a regression")
    compare.add_argument("first", type=Path, help="run folder to compare with")
    compare.add_argument("second", type=Path, nargs="?", default=Path("runs/latest"), help="run folder (runs/latest)")
    compare.add_argument("--max-drop", type=float, default=0.005, help="allowed fall of AP, a fraction (0.005)")
    compare.add_argument(
        "--max-slowdown", type=float, default=0.10, help="allowed fall of the speed-up, a ratio (0.10)"
    )
    compare.add_argument("--max-growth", type=float, default=0.05, help="allowed growth of the file, a ratio (0.05)")
    runs.add(commands)
    merge = commands.add_parser("merge", help="one run out of the shards that several jobs measured")
    merge.add_argument("part", type=Path, nargs="+", help="run folder of a shard")
    merge.add_argument("--to", type=Path, required=True, help="the run folder to make")
    expectations = commands.add_parser("expectations", help="rewrite the expected failures from a run's results.json")
    expectations.add_argument("action", choices=("update",), help="entries of what the run measured, others are kept")
    expectations.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"), help="run folder (runs/latest)")
    expectations.add_argument(
        "--file", type=Path, default=Path("expected_failures.toml"), help="to rewrite (expected_failures.toml)"
    )
    widen = commands.add_parser("widen", help="write an INT4 artifact's INT8 form, for runtimes that have no INT4")
    widen.add_argument("source", type=Path, help="the .onnx file to read")
    widen.add_argument("target", type=Path, help="the .onnx file to write")
    store = commands.add_parser(
        "store", help="share artifacts with other machines, over any file system or object store"
    )
    store.add_argument("direction", choices=("push", "pull"), help="to URL or from it, what is missing")
    store.add_argument("url", help="an fsspec address: s3://bucket/lowbit, gs://..., file:///shared/lowbit")
    _add_sensitivity(commands)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code is one of :data:`EXIT_CODES`."""
    options = parser().parse_args(arguments)
    try:
        with Display(sys.stderr) as progress:
            return _run(options, progress)
    except LowbitError as error:
        print(f"lowbit: {error}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        print("lowbit: interrupted", file=sys.stderr)
        return INTERRUPTED


def _run(options: argparse.Namespace, progress: Progress) -> int:
    """Run a parsed command; its exit status."""
    if options.command == "doctor":
        given = options.artifact or options.images
        print(examine(options.artifact, options.images, progress) if given else doctor())
    elif options.command == "schemes":
        print(schemes_table())
    elif options.command == "init":
        print(begin_project(options.folder, progress))
    elif options.command == "schema":
        from lowbit.detector import declare
        from lowbit.gate import limits

        of = {"lowbit.toml": declare, "thresholds.toml": limits}
        print(json.dumps(of[options.file].schema(), indent=2))
    elif options.command == "fetch":
        fetch_assets(options, progress)
    elif options.command == "compare":
        return compare_runs(options)
    elif options.command in ("sweep", "layers", "search"):
        from lowbit.cli import layers

        print(getattr(layers, options.command)(options, progress))
    elif options.command == "calibrate-study":
        from lowbit.cli import calibration

        print(calibration.study(options, progress))
    elif options.command == "explain":
        from lowbit.cli import collapses

        print(collapses.explain(options, progress))
    elif options.command in ("history", "export-card", "log"):
        print(getattr(runs, options.command.replace("-", "_"))(options))
    elif options.command == "merge":
        print(merge_runs(options.part, options.to))
    elif options.command == "expectations":
        from lowbit.report.expectations import update

        print(update(options.run, options.file))
    elif options.command == "store":
        print(share_store(options, progress))
    elif options.command == "widen":
        print(write_widened(options.source, options.target))
    else:
        print(write_report(options.run))
    return GOOD


def _add_explain(commands: Any) -> None:
    """The command on where a collapse begins."""
    why = commands.add_parser("explain", help="where a scheme of a run departs from FP32, and the scheme that mends it")
    why.add_argument("run", type=Path, help="run folder, as runs/latest")
    why.add_argument("scheme", help="a quantized scheme that the run has built")
    why.add_argument(
        "--detector", help="which one, where the run has several; the .onnx or .pt file of one without a name"
    )
    why.add_argument("--dataset", type=Path, help="images with objects (those that the run was measured on)")
    why.add_argument("--trust-checkpoint", action="store_true", help="unpickle checkpoints of unknown origin")
    why.add_argument("--image-size", type=int, help="side of the input, for files that leave it open")
    why.add_argument("--json", action="store_true", help="print it as results.json has it")


def _add_study(commands: Any) -> None:
    """The command on the choice of calibration images."""
    study = commands.add_parser(
        "calibrate-study", help="how much of a scheme's drop is the choice of its calibration images"
    )
    study.add_argument("--detector", default="shapes10n", help="a name, an .onnx or .pt file (shapes10n)")
    study.add_argument("--scheme", default="int8-ort-minmax", help="a scheme that is calibrated (int8-ort-minmax)")
    study.add_argument("--sizes", type=int, nargs="+", default=[8, 32, 100], help="images of a draw (8 32 100)")
    study.add_argument("--seeds", type=int, default=5, help="draws of every size (5)")
    study.add_argument("--calibration", type=Path, help="list that is drawn from (the detector's own)")
    study.add_argument(
        "--dataset", type=Path, help="COCO file or data.yaml that drops are measured on (the detector's)"
    )
    study.add_argument("--image-size", type=int, help="side of the input, for files that leave it open")
    study.add_argument("--trust-checkpoint", action="store_true", help="unpickle checkpoints of unknown origin")
    study.add_argument("--to", type=Path, default=Path("runs"), help="where the result is kept (runs)")


def _add_sensitivity(commands: Any) -> None:
    """The commands on layer sensitivity."""
    sweep = commands.add_parser(
        "sweep", help="AutoQuant's layer sensitivity over dtypes and granularity, or merge parts"
    )
    sweep.add_argument("--only", action="append", metavar="ID", help="combination, repeatable (all of them)")
    sweep.add_argument("--size", type=int, default=320, help="side of the images, at most the detector's own (320)")
    sweep.add_argument("--to", type=Path, default=Path("runs"), help="where sweeps are kept (runs)")
    sweep.add_argument("--merge", type=Path, nargs="+", metavar="PART", help="merge folders of one sweep into --to")
    layers = commands.add_parser(
        "layers", help="sensitivity of every convolution of the ONNX graph: quantized alone, and leave-one-out"
    )
    layers.add_argument("--weight", choices=("int4", "int8", "fp8"), default="int8", help="dtype of weights (int8)")
    layers.add_argument(
        "--activation",
        choices=("int4", "int8", "fp8", "fp16"),
        default="fp16",
        help="dtype of inputs; fp16 leaves them in float (fp16)",
    )
    find = commands.add_parser("search", help="bit allocation: the cheapest dtype for every convolution within a drop")
    find.add_argument(
        "--max-drop", type=float, default=0.01, help="allowed drop of agreement with the float graph, a fraction (0.01)"
    )
    find.add_argument(
        "--objective", choices=("bits", "size", "latency"), default="bits", help="what is minimized (bits)"
    )
    find.add_argument(
        "--dataset", type=Path, help="COCO file or data.yaml that the result is checked on (the detector's)"
    )
    find.add_argument(
        "--allow-similar",
        action="store_true",
        help="take calibration images that look like evaluation images, as frames of one fixed camera do",
    )
    find.add_argument("--to", type=Path, default=Path("runs"), help="where the result is kept (runs)")
    for parser, images in ((sweep, 16), (layers, 8), (find, 40)):
        parser.add_argument("--detector", default="shapes10n", help="a name, an .onnx or .pt file (shapes10n)")
        parser.add_argument("--calibration", type=Path, help="list of images (the detector's own)")
        parser.add_argument("--images", type=int, default=images, help=f"how many of them ({images})")
        parser.add_argument("--image-size", type=int, help="side of the input, for files that leave it open")
        parser.add_argument("--trust-checkpoint", action="store_true", help="unpickle checkpoints of unknown origin")


def doctor() -> str:
    """The capability table of this machine, as Markdown."""
    from lowbit import capability, host
    from lowbit.results import environment
    from lowbit.runtime import runtimes
    from lowbit.schemes import catalogue

    machine = environment()
    processor, gpu = host.processor(), host.gpu()
    lines = [f"Processor: {processor.name}", f"INT8 kernels: {_int8_kernels(processor)}"]
    lines.append(f"GPU: {f'{gpu.name}, driver {gpu.driver}, {gpu.uuid}' if gpu else 'none that the driver shows'}")
    lines.append(f"Python {machine['python']}")
    lines += [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    lines += [f"{name}: {found or 'not installed'}" for name, found in machine["packages"].items()]
    reasons: dict[str, None] = {}
    rows = []
    for scheme in catalogue().values():
        rows.append([scheme.id])
        for runtime in runtimes().values():
            reason = capability.missing(scheme, runtime)
            if reason:
                reasons.setdefault(reason)
            rows[-1].append(f"no ({list(reasons).index(reason) + 1})" if reason else "yes")
    lines += ["", *table(["scheme", *runtimes()], "l" * (1 + len(runtimes())), rows)]
    lines += ["", *(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))]
    return "\n".join(lines)


def examine(artifact: Path | None, images: Path | None, progress: Progress) -> str:
    """What :func:`lowbit.measure.diagnosis.diagnose` finds."""
    from lowbit.measure.diagnosis import diagnose
    from lowbit.store.store import Store, default_root

    if artifact is None:
        raise InputError(
            "doctor --images: needs the .onnx file that is run on them: lowbit doctor ARTIFACT --images LIST."
        )
    return diagnose(artifact, images, Store(default_root()).data, progress)


def _int8_kernels(processor: Processor) -> str:
    """How a processor's kernels add products of 8-bit integers."""
    narrow = processor.adds_pairs_in_16_bits
    if narrow is None:
        return "unknown, this system does not say its processor's instruction sets"
    if narrow:
        return (
            "no VNNI, so they add pairs of products in 16 bits: U8S8 products saturate where weights are large "
            "(7-bit weights do not; session.x64quantprecision=1 is right and slower)"
        )
    return "add products in 32 bits, nothing saturates"


def schemes_table() -> str:
    """The catalogue as a Markdown table."""
    from lowbit.schemes import catalogue

    rows = [(f"`{scheme.id}`", scheme.tool, scheme.summary) for scheme in catalogue().values()]
    return "\n".join(table(("scheme", "tool", "what it is"), "lll", rows))


def begin_project(folder: Path, progress: Progress) -> str:
    """Write what :mod:`lowbit.proposal` proposes; returns what was chosen and why, and the next command."""
    from lowbit import proposal

    made = proposal.propose(folder, progress)
    written = proposal.write(made)
    parts = {
        "Chosen": made.chosen,
        "Left out": made.left_out,
        "Note": made.remarks,
        "To be declared": made.missing,
        "Written": written,
    }
    lines = [
        line for title, entries in parts.items() if entries for line in (f"{title}:", *(f"  {one}" for one in entries))
    ]
    gate = "pytest --pyargs lowbit_suite.test_accuracy lowbit_suite.test_artifact"
    first = [] if folder.resolve() == Path.cwd() else [f"cd {shlex.quote(str(folder))}"]
    lines += [
        f"Next{', when that is declared' if made.missing else ''}:",
        *(f"  {one}" for one in (*first, f"{gate} --quick", gate)),
    ]
    return "\n".join(lines)


def write_report(run: Path) -> Path:
    """Write ``summary.md`` and ``report.html`` beside a results.json and return the latter's path."""
    from lowbit import report, results

    return report.write(results.read(run / "results.json"), run)


def fetch_assets(options: argparse.Namespace, progress: Progress) -> None:
    """Fetch assets and say where they are and how to use them."""
    from lowbit.detector.fetch import Fetcher, default_folder, fetch, parse_mirrors
    from lowbit.detector.registry import ASSETS_VARIABLE, assets_folder

    folder = options.to or assets_folder() or default_folder()
    mirrors = parse_mirrors(",".join(options.mirror)) if options.mirror else None
    fetcher = Fetcher(folder, mirrors=mirrors, offline=options.offline or None, progress=progress)
    for name in options.asset:
        for path in fetch(name, fetcher):
            print(path)
    if folder != default_folder():
        print(f"use it with {ASSETS_VARIABLE}={folder}")


def compare_runs(options: argparse.Namespace) -> int:
    """Print what changed; 1 on a regression."""
    from lowbit.report.compare import Limits, compare

    limits = Limits(options.max_drop, options.max_slowdown, options.max_growth)
    changes, text = compare(options.first, options.second, limits)
    print(text, end="")
    return REGRESSION if any(change.regressions for change in changes) else GOOD


def merge_runs(parts: Sequence[Path], target: Path) -> Path:
    """Merge runs, say if several hosts measured them, and return the report's path."""
    from lowbit import results
    from lowbit.report.merge import merge

    page = merge(parts, target)
    if len(hosts := results.read(target / "results.json").hosts()) > 1:
        print(f"lowbit: the shards were measured on several hosts: {'; '.join(hosts)}", file=sys.stderr)
    return page


def share_store(options: argparse.Namespace, progress: Progress) -> str:
    """Copy artifacts and say how many."""
    from lowbit.store import sharing
    from lowbit.store.store import Store, default_root

    count = getattr(sharing, options.direction)(Store(default_root()), options.url, progress)
    return f"{count} artifacts {'pushed to' if options.direction == 'push' else 'pulled from'} {options.url}"


def write_widened(source: Path, target: Path) -> Path:
    """Write the INT8 form of ``source`` and return its path."""
    from lowbit import files, graph
    from lowbit.graph import qcdq

    files.write_atomic(target, qcdq.widen_int4(graph.load(source)).SerializeToString())
    return target
