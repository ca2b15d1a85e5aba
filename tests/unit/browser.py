"""Chromium without a window, over the pipe of its DevTools protocol (https://chromedevtools.github.io/devtools-protocol/)."""

from __future__ import annotations

import fcntl
import json
import os
import select
import shutil
import subprocess
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
# Chromium reads commands from the first and writes answers to the second.
_COMMANDS, _ANSWERS = 3, 4
# How long a browser may say nothing. On a slow machine it takes seconds to start.
SILENCE = 120.0


def installed() -> str | None:
    """The browser's path, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """One page of a browser of its own. ``events``: what the page reported so far, with ``method`` and ``params``."""

    def __init__(self, browser: str, profile: Path, width: int, height: int = 900) -> None:
        to_child, commands = os.pipe()
        answers, from_child = os.pipe()
        # Above those that the child gets, so that putting one in place can't close the other.
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_child, from_child)]
        for end in (to_child, from_child):
            os.close(end)

        def in_place() -> None:
            os.dup2(ends[0], _COMMANDS)
            os.dup2(ends[1], _ANSWERS)

        # No sandbox: containers and root have none to offer, and the page is our own.
        options = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        )
        self._process = subprocess.Popen(
            [browser, *options, f"--window-size={width},{height}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=in_place,
            close_fds=False,
        )
        for end in ends:
            os.close(end)
        self._commands, self._answers = os.fdopen(commands, "wb"), os.fdopen(answers, "rb")
        self._unread, self._count, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.command("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.command("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.command(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.command("Emulation.setDeviceMetricsOverride", **metrics)

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._commands.close()
        self._answers.close()

    def command(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._commands.write(json.dumps(message).encode() + b"\0")
        self._commands.flush()
        while (answer := self._read()).get("id") != self._count:
            self.events.append(answer)
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            if not select.select([self._answers], [], [], SILENCE)[0]:
                self._process.kill()
                raise TimeoutError(f"the browser said nothing for {SILENCE:g} s")
            data = os.read(self._answers.fileno(), 1 << 16)
            assert data, "the browser ended"
            self._unread += data
        message, self._unread = self._unread.split(b"\0", 1)
        read: dict[str, Any] = json.loads(message)
        return read

    def open(self, address: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.command("Page.navigate", url=address)
        self.wait("Page.loadEventFired")

    def wait(self, method: str) -> None:
        """Wait until an event was reported."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(self._read())

    def value(self, script: str) -> Any:
        """What an expression evaluates to in the page, as JSON."""
        found = self.command("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, script: str) -> None:
        """Click in the middle of the element that an expression gives, as a mouse does."""
        x, y = self.value(
            f"(() => {{ const e = {script}; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.command("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key."""
        codes = {"Tab": 9, "Enter": 13}
        more = {"key": key, "code": key, "windowsVirtualKeyCode": codes[key]}
        self.command("Input.dispatchKeyEvent", type="keyDown", text=text, **more)
        self.command("Input.dispatchKeyEvent", type="keyUp", **more)
