"""Tabs of one browser that can be hidden, frozen and killed.

Playwright keeps its own pages visible and awake. So these are of a browser context that it does not
know, and are driven by the DevTools protocol through a session of Playwright's.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hub_streams import PATIENCE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
START_TIMEOUT = 60.0  # seconds, on a machine that does much else
LONGEST = PATIENCE * 2  # seconds that a tab may take for anything
PAUSE = 20  # milliseconds


@contextmanager
def open_browser(*arguments: str) -> Iterator[Browser]:
    """A Chromium that keeps pages for going back, as a person's does."""
    import pytest

    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", *arguments],
            ignore_default_args=["--disable-back-forward-cache"],
            timeout=START_TIMEOUT * 2000,
        )
        yield browser
        browser.close()


class Tabs:
    """One profile: its tabs share cookies, locks and channels.

    Args:
        browser: The browser.
        url: Where paths begin.
    """

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self._session = browser.new_browser_cdp_session()
        self._session.on("Target.receivedMessageFromTarget", self._receive)
        self._pump = browser.new_page()  # events are handled while it waits
        self._context = self.send("Target.createBrowserContext")["browserContextId"]
        self._answers: dict[int, dict[str, Any]] = {}
        self._count = 0

    def open(self, script: str = "", path: str = "/") -> Tab:
        """Open a page in a new tab, and run a script there."""
        target = self.send(
            "Target.createTarget", url=self.url + path, browserContextId=self._context
        )["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=False)["sessionId"]
        tab = Tab(self, target, session)
        tab.wait("document.readyState === 'complete'")
        if script:
            tab.wait("window.follow")
            tab.run(script)
        return tab

    def close(self) -> None:
        """Close all tabs."""
        self.send("Target.disposeBrowserContext", browserContextId=self._context)
        self._pump.close()
        self._session.detach()

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send the browser a command of the DevTools protocol."""
        answer: dict[str, Any] = self._session.send(method, parameters)
        return answer

    def call(self, session: str, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a tab a command of the DevTools protocol, and wait for its answer."""
        number = self.post(session, method, **parameters)
        deadline = time.monotonic() + LONGEST
        while number not in self._answers:
            assert time.monotonic() < deadline, f"A tab did not answer to {method}."
            self.pause()
        answer = self._answers.pop(number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def post(self, session: str, method: str, **parameters: Any) -> int:
        """Send it without waiting."""
        self._count += 1
        message = json.dumps({"id": self._count, "method": method, "params": parameters})
        self.send("Target.sendMessageToTarget", sessionId=session, message=message)
        return self._count

    def pause(self) -> None:
        """Let the browser speak."""
        self._pump.wait_for_timeout(PAUSE)

    def _receive(self, event: dict[str, Any]) -> None:
        message = json.loads(event["message"])
        if "id" in message:
            self._answers[message["id"]] = message


class Tab:
    """One of them.

    Args:
        tabs: All of them.
        target: How the browser calls it.
        session: How it is spoken to.
    """

    def __init__(self, tabs: Tabs, target: str, session: str) -> None:
        self._tabs = tabs
        self._target = target
        self._session = session

    def run(self, script: str) -> Any:
        """Run a script in the page; its value, once it is there."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait(self, condition: str) -> None:
        """Wait until an expression is true, also while the page is still being made."""
        deadline = time.monotonic() + LONGEST
        while True:
            answer = self.call("Runtime.evaluate", expression=f"!!({condition})")
            if answer["result"].get("value") is True:
                return
            if time.monotonic() > deadline:
                state = self.run("JSON.stringify([window.seen, window.states, window.errors])")
                raise AssertionError(f"Waited in vain for {condition}; seen, states: {state}")
            self._tabs.pause()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send it a command of the DevTools protocol."""
        return self._tabs.call(self._session, method, **parameters)

    def go(self, path: str) -> None:
        """Go to another page."""
        self.call("Page.navigate", url=self._tabs.url + path)
        self.wait(f"location.pathname === {path!r} && document.readyState === 'complete'")

    def freeze(self) -> None:
        """Let the browser stop it, as it does with tabs that are hidden for long."""
        self.call("Page.setWebLifecycleState", state="frozen")

    def thaw(self) -> None:
        """Let it run again."""
        self.call("Page.setWebLifecycleState", state="active")

    def crash(self) -> None:
        """Kill its process."""
        self._tabs.post(self._session, "Page.crash")

    def close(self) -> None:
        """Close it."""
        self._tabs.send("Target.closeTarget", targetId=self._target)
