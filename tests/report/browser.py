"""A real Chromium without a network: what it drew, what it said, what it asked for."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Browser, Error, Page, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
DRAWN = "html[data-drawn]"


def chromium() -> str:
    """Where Chromium is. Without one a test is skipped, or fails if LAUNCHER_REQUIRE_BROWSER is set."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        if os.environ.get("LAUNCHER_REQUIRE_BROWSER"):
            pytest.fail(f"LAUNCHER_REQUIRE_BROWSER is set, and none of {', '.join(NAMES)} is there")
        pytest.skip("needs Chromium")
    return found


@contextmanager
def browser() -> Iterator[Browser]:
    """One for many pages. Closed before other tests run: its driver has an event loop in this thread."""
    path = chromium()
    with sync_playwright() as playwright:
        # A container seldom allows Chromium's own sandbox; the pages are ours.
        started = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@dataclass
class Looked:
    """A page that is open."""

    page: Page
    said: list[str] = field(default_factory=list)
    """Everything on the console, and every error."""
    asked: list[str] = field(default_factory=list)
    """Every request."""

    def measured(self, expression: str) -> Any:
        """What an expression of JavaScript gives, also of a page that loads itself again meanwhile."""
        while True:
            try:
                return self.page.evaluate(expression)
            except Error as error:
                if "Execution context was destroyed" not in error.message:
                    raise
                self.page.wait_for_load_state()

    def wait(self, expression: str, seconds: float = 30) -> None:
        """Until an expression is true. The page forbids the driver's own way, which evaluates text in it."""
        until = time.monotonic() + seconds
        while not self.measured(expression):
            assert time.monotonic() < until, expression
            self.page.wait_for_timeout(50)

    def traces(self) -> list[dict[str, Any]]:
        """Visible lines: what they are, of whom, and their values."""
        one = "({meta, name, x: Array.from(x), y: Array.from(y), color: line.color, dash: line.dash})"
        drawn = "document.documentElement.dataset.drawn && document.getElementById('figure').data"
        found: list[dict[str, Any]] | None = None
        while found is None:
            self.page.wait_for_selector(DRAWN)
            found = self.measured(f"({drawn})?.map(({{meta, name, x, y, line}}) => {one}) ?? null")
        return found


@contextmanager
def opened(started: Browser, url: str, width: int = 1200, **context: Any) -> Iterator[Looked]:
    """Open a page in a window of a width, offline or on loopback only."""
    with started.new_context(viewport={"width": width, "height": 900}, **context) as window:
        page = window.new_page()
        looked = Looked(page)
        page.on("console", lambda message: looked.said.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: looked.said.append(f"error: {error}"))
        page.on("request", lambda request: looked.asked.append(request.url))
        page.goto(url)
        yield looked
