"""report.html in a real browser: Debian's chromium, where it is installed."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

import pytest

from lowbit.report import html
from tests.unit.browser import NAMES, Page, installed
from tests.unit.synthetic_run import catalogue_run

BROWSER = installed()
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is on the PATH")

# A laptop's screen.
WIDTH = 1366
TABLE = "document.querySelector('table.sorts')"
HEADINGS = f"[...{TABLE}.tHead.rows[0].cells]"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("run")
    path = folder / "report.html"
    path.write_text(html.page(catalogue_run(folder, schemes=25, pictures=1), folder), encoding="utf-8")
    return path.as_uri()


@pytest.fixture
def page(address: str, tmp_path: Path) -> Iterator[Page]:
    assert BROWSER is not None
    with Page(BROWSER, tmp_path / "profile", WIDTH) as page:
        page.open(address)
        yield page


def column(page: Page, name: str) -> list[str]:
    return list(
        page.value(
            f"(() => {{ const at = {HEADINGS}.findIndex((h) => h.textContent === '{name}');"
            f"return [...{TABLE}.tBodies[0].rows].map((r) => r.cells[at].textContent.trim()); }})()"
        )
    )


def button(name: str) -> str:
    return f"{HEADINGS}.find((h) => h.textContent === '{name}').querySelector('button')"


def sorts(page: Page) -> list[str | None]:
    return list(page.value(f"{HEADINGS}.map((h) => h.getAttribute('aria-sort'))"))


def test_no_error_and_no_network(page: Page, address: str) -> None:
    """An image is decoded, everything folded was unfolded, and nothing was asked of a network or refused by the policy."""
    page.value("document.querySelectorAll('details').forEach((one) => one.open = true)")
    widths = page.value("Promise.all([...document.images].map((i) => i.decode().then(() => i.naturalWidth)))")
    assert widths and min(widths) > 100
    asked = [e["params"]["request"]["url"] for e in page.events if e.get("method") == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:image/webp;base64,")} == {address}
    wrong = [e for e in page.events if e.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded")]
    assert not wrong


def test_a_page_that_asks_the_network_is_noticed(address: str, tmp_path: Path) -> None:
    """The other test can fail: an image of another host is refused by the page's own policy, and that is reported."""
    assert BROWSER is not None
    text = Path(address.removeprefix("file://")).read_text(encoding="utf-8")
    bad = tmp_path / "bad.html"
    bad.write_text(text.replace("<main>", '<main><img src="https://example.org/a.png" alt="">'), encoding="utf-8")
    with Page(BROWSER, tmp_path / "profile", WIDTH) as page:
        page.open(bad.as_uri())
        page.wait("Log.entryAdded")
    said = [e["params"]["entry"]["text"] for e in page.events if e.get("method") == "Log.entryAdded"]
    assert any("Content Security Policy" in text for text in said)


def test_a_laptop_shows_it_without_a_horizontal_bar(page: Page) -> None:
    """Neither the page nor a table in it is wider than its place, with everything unfolded."""
    page.value("document.querySelectorAll('details').forEach((one) => one.open = true)")
    assert page.value("document.documentElement.scrollWidth") <= WIDTH
    wide = page.value(
        "[...document.querySelectorAll('.scroll, figure, pre')].filter((e) => e.scrollWidth > e.clientWidth)"
        ".map((e) => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_a_click_on_a_heading_sorts_by_value(page: Page) -> None:
    schemes = column(page, "scheme")
    page.click(button("size, MB"))
    sizes = column(page, "size, MB")
    known = [float(size) for size in sizes if size]
    assert len(known) == 26 and known == sorted(known) and sizes[-1] == ""
    assert sorts(page).count("ascending") == 1 and sorts(page)[9] == "ascending"
    assert column(page, "scheme") != schemes and sorted(column(page, "scheme")) == sorted(schemes)
    page.click(button("size, MB"))
    sizes = column(page, "size, MB")
    known = [float(size) for size in sizes if size]
    assert known == sorted(known, reverse=True) and sizes[-1] == ""
    page.click(button("scheme"))
    assert sorts(page)[0] == "ascending" and set(sorts(page)[1:]) == {None}


def test_the_keyboard_sorts_too(page: Page) -> None:
    for _ in range(30):
        page.press("Tab")
        if page.value("document.activeElement.textContent") == "AP":
            break
    assert page.value("document.activeElement.tagName") == "BUTTON"
    page.press("Enter", "\r")
    found = [float(ap) for ap in column(page, "AP") if ap]
    assert found == sorted(found) and sorts(page)[1] == "ascending"


def test_every_table_and_picture_has_a_name_for_screen_readers(page: Page) -> None:
    nameless = page.value(
        "[...document.querySelectorAll('table')].filter((t) => !t.caption || !t.caption.textContent.trim()).length"
        " + [...document.querySelectorAll('th')].filter((h) => !h.scope).length"
        " + [...document.querySelectorAll('svg')].filter((s) => s.getAttribute('role') !== 'img' || !s.ariaLabel).length"
        " + [...document.images].filter((i) => !i.alt).length"
    )
    assert nameless == 0
    assert page.value("document.querySelectorAll('table, svg, img').length") > 10


def test_paper_has_what_is_folded(page: Page) -> None:
    """Printed, a folded scheme's curves take their place: pages are more than without."""
    folded = "[...document.querySelectorAll('details:not([open])')].length"
    assert page.value(folded) > 10
    page.value("window.seen = []; addEventListener('beforeprint', () => window.seen.push(" + folded + "))")
    pdf = base64.b64decode(page.command("Page.printToPDF", preferCSSPageSize=True)["data"])
    assert pdf.startswith(b"%PDF")
    assert page.value("window.seen") == [0]
    assert page.value(folded) > 10
