"""The commands that read runs and give their numbers to people and to other tools."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from lowbit.errors import InputError


def add(commands: Any) -> None:
    """Add the commands to argparse's."""
    history = commands.add_parser(
        "history", help="AP, speed and size over the runs of a folder, with the steps between them"
    )
    history.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="folder of run folders (runs)")
    history.add_argument("--detector", help="only of this one")
    history.add_argument("--scheme", help="only of this one")
    card = commands.add_parser("export-card", help="a model card with a scheme's numbers, for a hub or a release page")
    card.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"), help="run folder (runs/latest)")
    card.add_argument("--detector", help="which one, where the run has several")
    card.add_argument("--scheme", help="what is released (what the run recommends)")
    card.add_argument("--to", type=Path, help="the file to write; one that exists is not replaced (print the card)")
    log = commands.add_parser("log", help="a run's numbers as a flat dictionary, printed or for an experiment tracker")
    log.add_argument("run", type=Path, nargs="?", default=Path("runs/latest"), help="run folder (runs/latest)")
    log.add_argument("--to", choices=("json", "mlflow", "wandb"), default="json", help="where: json prints it (json)")
    log.add_argument("--experiment", default="lowbit", help="MLflow's experiment or W&B's project (lowbit)")


def history(options: argparse.Namespace) -> str:
    """The history of a folder of runs, as Markdown."""
    from lowbit.report import history

    found, unread = history.read(options.runs)
    chosen = [
        one
        for one in history.series(found)
        if options.detector in (None, one.detector) and options.scheme in (None, one.scheme)
    ]
    return history.markdown(chosen, unread)


def export_card(options: argparse.Namespace) -> str | Path:
    """Write a model card and return its path, or the card itself."""
    from lowbit import files, results
    from lowbit.report import card

    text = card.markdown(results.read(options.run / "results.json"), options.detector, options.scheme)
    if options.to is None:
        return text.rstrip()
    if options.to.exists():
        raise InputError(f"{options.to}: exists, and a card would replace it. Name another file with --to.")
    files.write_atomic(options.to, text)
    return Path(options.to)


def log(options: argparse.Namespace) -> str:
    """A run's flat dictionary as JSON, or where it was logged."""
    from lowbit import results
    from lowbit.report import flat

    run = results.read(options.run / "results.json")
    if options.to == "json":
        return json.dumps(flat.numbers(run), indent=2)
    return flat.log(run, options.run, options.to, options.experiment)
