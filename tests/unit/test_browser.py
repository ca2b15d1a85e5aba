"""The browser's driver gives up on a browser that says nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit import browser


def test_a_silent_browser_ends_the_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands in for it holds the pipe open and never answers."""
    silent = tmp_path / "chromium"
    silent.write_text("#!/bin/sh\nexec sleep 600\n")
    silent.chmod(0o755)
    monkeypatch.setattr(browser, "SILENCE", 0.05)
    with pytest.raises(TimeoutError, match=r"said nothing for 0\.05 s"):
        browser.Page(str(silent), tmp_path / "profile", 800)
