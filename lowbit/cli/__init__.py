"""The command line."""

from lowbit.cli.commands import EXIT_CODES, doctor, main, parser, schemes_table

__all__ = ["EXIT_CODES", "doctor", "main", "parser", "schemes_table"]
