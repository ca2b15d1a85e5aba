"""The command line."""

from lowbit.cli.commands import doctor, main, schemes_table

__all__ = ["doctor", "main", "schemes_table"]
