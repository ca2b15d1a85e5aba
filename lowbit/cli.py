"""``lowbit``: the library for people at a prompt. Gating is pytest's: see ``pytest --help``, group lowbit."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lowbit.errors import LowbitError


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 if it went well, 2 for bad input."""
    parser = argparse.ArgumentParser(prog="lowbit", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("doctor", help="what this machine can run, what is missing and how to get it")
    commands.add_parser("schemes", help="the scheme catalogue as a table")
    report = commands.add_parser("report", help="write summary.md again from a run's results.json")
    report.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"), help="run folder (runs/latest)")
    options = parser.parse_args(arguments)
    try:
        if options.command == "doctor":
            print(doctor())
        elif options.command == "schemes":
            print(schemes_table())
        else:
            print(write_report(options.run))
    except LowbitError as error:
        print(f"lowbit: {error}", file=sys.stderr)
        return 2
    return 0


def doctor() -> str:
    """The capability table of this machine, as Markdown."""
    from lowbit import runtime
    from lowbit.results import environment
    from lowbit.schemes import CATALOGUE

    machine = environment()
    lines = [f"Python {machine['python']}, {machine['cpu']['name']}, {machine['cpu']['cores']} cores"]
    lines.append(f"GPU: {machine['gpu']['name'] if machine['gpu'] else 'none found by nvidia-smi'}")
    lines += [f"{name}: {found or 'not installed'}" for name, found in machine["packages"].items()]
    lines += ["", "| scheme | " + " | ".join(runtime.PROVIDERS) + " |", "|---|" + "---|" * len(runtime.PROVIDERS)]
    reasons: dict[str, None] = {}
    for scheme in CATALOGUE.values():
        cells = []
        for provider in runtime.PROVIDERS:
            reason = runtime.capability(scheme.precision, scheme.tool, provider)
            if reason:
                reasons.setdefault(reason)
            cells.append(f"no ({list(reasons).index(reason) + 1})" if reason else "yes")
        lines.append(f"| {scheme.id} | " + " | ".join(cells) + " |")
    lines += ["", *(f"({number}) {reason}" for number, reason in enumerate(reasons, 1))]
    return "\n".join(lines)


def schemes_table() -> str:
    """The catalogue as a Markdown table."""
    from lowbit.schemes import CATALOGUE

    rows = [f"| `{scheme.id}` | {scheme.tool} | {scheme.summary} |" for scheme in CATALOGUE.values()]
    return "\n".join(["| scheme | tool | what it is |", "|---|---|---|", *rows])


def write_report(run: Path) -> Path:
    """Write ``summary.md`` beside a results.json and return its path."""
    from lowbit import files, results
    from lowbit.report import summary

    target = run / "summary.md"
    files.write_atomic(target, summary.markdown(results.read(run / "results.json")))
    return target


if __name__ == "__main__":
    raise SystemExit(main())
