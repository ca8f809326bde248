"""The page as people use it: in a browser, on paper, on a telephone, by keyboard, in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from integration.report.conftest import TrainedRun
from playwright.sync_api import Browser, Page, expect, sync_playwright

from support.chromium import PROGRAM, why_not

TEXTS = "p, a, th, td, li, figcaption, h1, h2, h3, h4, text"
CONTRAST = """
(texts) => {
  const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = numbers(text).map((v) => {
      v /= 255;
      return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const paper = light(getComputedStyle(document.documentElement).backgroundColor);
  const poor = [];
  for (const one of document.querySelectorAll(texts)) {
    const style = getComputedStyle(one);
    const ink = light(one.tagName === "text" ? style.fill : style.color);
    const ratio = (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
    if (ratio < 4.5) poor.push([one.tagName, one.textContent.trim().slice(0, 30), ratio]);
  }
  return poor;
}
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if reason := why_not():
        pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(PROGRAM))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, trained_run: TrainedRun) -> Iterator[Any]:
    contexts = []

    def open_it(**settings: Any) -> tuple[Page, list[str]]:
        context = browser.new_context(**settings)
        contexts.append(context)
        page, trouble = context.new_page(), []
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith("data:") else trouble.append(request.url)
            ),
        )
        page.goto(trained_run.page.as_uri())
        (asked,) = trouble  # for the page itself
        assert asked == trained_run.page.as_uri()
        trouble.clear()
        return page, trouble

    yield open_it
    for context in contexts:
        context.close()


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_and_asks_for_nothing(open_page: Any, width: int, scheme: str) -> None:
    page, trouble = open_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(CONTRAST, TEXTS) == []
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    assert trouble == []


def test_copying_works_by_keyboard(open_page: Any) -> None:
    page, trouble = open_page(permissions=["clipboard-read", "clipboard-write"])
    for button in page.query_selector_all("button[data-copy]"):
        wanted = page.text_content(f"#{button.get_attribute('data-copy')}")
        button.focus()
        page.keyboard.press("Enter")
        expect(page.locator("[role=status]")).to_contain_text("Copied")
        assert page.evaluate("navigator.clipboard.readText()") == wanted
        assert page.evaluate("document.activeElement.tagName") == "BUTTON"
        page.evaluate("document.querySelector('[role=status]').textContent = ''")
    assert trouble == []


def test_links_open_what_is_closed(open_page: Any) -> None:
    page, _ = open_page()
    last = page.query_selector_all("details.config[id]")[-1]
    assert last.get_attribute("open") is None
    page.click(f"table a[href='#{last.get_attribute('id')}']")
    expect(page.locator(f"#{last.get_attribute('id')}")).to_have_attribute("open", "")
    page.goto(page.url.partition("#")[0] + "#data")
    expect(page.locator("nav a[href='#data']")).to_have_attribute("aria-current", "true")


def test_every_part_can_be_reached_and_named(open_page: Any) -> None:
    page, _ = open_page(viewport={"width": 390, "height": 800})
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    for role in ("main", "navigation", "banner", "contentinfo"):
        assert page.get_by_role(role).count() == 1, role
    unnamed = page.evaluate(
        """() => [...document.querySelectorAll("figure, [role=region], section, nav, svg")]
        .filter((one) => !one.getAttribute("aria-label") && !one.getAttribute("aria-labelledby")
          && !one.closest(".mistakes")).length"""
    )
    assert unnamed == 0
    overflowing = page.evaluate(
        """() => [...document.querySelectorAll("main *")]
        .filter((one) => ["auto", "scroll"].includes(getComputedStyle(one).overflowX)
          && one.scrollWidth > one.clientWidth + 1 && one.tabIndex < 0)
        .map((one) => one.className)"""
    )
    assert overflowing == []


def test_paper_shows_what_is_closed(open_page: Any) -> None:
    page, _ = open_page(color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") == 0
    page.emulate_media(media="print")
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert not page.is_visible("nav.sections")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") > 0
