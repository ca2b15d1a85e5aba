"""``python -m lowbit.cli``."""

from lowbit.cli import main

raise SystemExit(main())
