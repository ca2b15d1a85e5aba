"""Sphinx's settings: ``make docs`` builds the documentation, and a warning is an error."""

import lowbit

project = "lowbit"
version = release = lowbit.__version__
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "lowbit"
html_extra_path = ["lowbit.schema.json", "thresholds.schema.json"]
# Of headings, for links to them.
myst_heading_anchors = 3
# Links to files that are no pages, as people follow them on a forge.
suppress_warnings = ["myst.xref_missing"]
