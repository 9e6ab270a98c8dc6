"""A real browser without a window, told what to do over its debugging port."""

import base64
import itertools
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
EXECUTABLE = next(filter(None, map(shutil.which, NAMES)), None)
#: Elements that reach beyond the column, or have to be scrolled sideways, but for those that may.
OUTSIDE = """
[...document.body.querySelectorAll("*")].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && (box.left < -1 || box.right > document.documentElement.clientWidth + 1
    || element.scrollWidth > element.clientWidth + 1 && getComputedStyle(element).overflowX == "auto");
}).map(element => element.outerHTML.slice(0, 80))
"""


class Page:
    """One page: what it logged, and what it asked the network for."""

    def __init__(self, connection: ClientConnection):
        self._connection, self._numbers = connection, itertools.count(1)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Log", "Runtime", "Network"):
            self._ask(f"{domain}.enable")

    def open(self, file: Path, width: int = 1280, *, dark: bool = False, media: str = "screen") -> None:
        """Show a file at a width in pixels, on a light or dark screen, or as it is printed (``media`` print)."""
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self._ask("Page.navigate", url=file.resolve().as_uri())
        while self.evaluate("document.readyState") != "complete":
            time.sleep(0.05)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self._ask("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press a key that has a name, such as Tab, and let it go."""
        codes = {"key": key, "code": key, "windowsVirtualKeyCode": {"Tab": 9}[key]}
        for what in ("keyDown", "keyUp"):
            self._ask("Input.dispatchKeyEvent", type=what, **codes)

    def picture(self) -> bytes:
        """The whole page as PNG."""
        found = self._ask("Page.captureScreenshot", captureBeyondViewport=True, clip=self._whole())
        return base64.b64decode(found["data"])

    def printed(self) -> bytes:
        """The page as PDF."""
        found = self._ask("Page.printToPDF", printBackground=False, preferCSSPageSize=True)
        return base64.b64decode(found["data"])

    def _whole(self) -> dict[str, float]:
        size = self._ask("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}

    def _ask(self, method: str, **parameters: object) -> dict[str, Any]:
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=60))
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer["method"], answer["params"])

    def _note(self, event: str, about: dict[str, Any]) -> None:
        if event == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif event in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(about))


@contextmanager
def browser() -> Iterator[Page]:
    """A browser with one page."""
    assert EXECUTABLE is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        command = [EXECUTABLE, *options, f"--user-data-dir={folder}", "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with connect(_address(Path(folder) / "DevToolsActivePort"), max_size=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            process.wait(timeout=30)


def _address(file: Path) -> str:
    """Where the browser's page can be told what to do."""
    until = time.monotonic() + 60
    while not file.exists() or not file.read_text().strip():
        assert time.monotonic() < until, "the browser does not start"
        time.sleep(0.1)
    port = file.read_text().split()[0]
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while True:
        with opener.open(f"http://127.0.0.1:{port}/json", timeout=30) as answer:
            pages = [target for target in json.load(answer) if target["type"] == "page"]
        if pages:
            return str(pages[0]["webSocketDebuggerUrl"])
        assert time.monotonic() < until, "the browser has no page"
        time.sleep(0.1)
