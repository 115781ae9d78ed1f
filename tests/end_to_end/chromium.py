"""A page in headless Chromium: what it says on the console, what it asks the network for, how wide it is."""

import asyncio
import base64
import json
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PRESS, CLICK = "press ", "click "  # in the place of a script: a key, or where across it (0 to 1) to click which element
ENTER = PRESS + "Enter"
KEYS = {
    "Enter": ("\r", 13),
    "Escape": ("", 27),
    "ArrowDown": ("", 40),
    "ArrowUp": ("", 38),
    "ArrowRight": ("", 39),
    " ": (" ", 32),
}
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0",
)  # fmt: skip


@dataclass
class Seen:
    """What a page did: console errors and exceptions, requested addresses, values of scripts, a screenshot as PNG."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    png: bytes = b""


def find_chromium() -> str | None:
    """Path of a Chromium, None without one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def look_at(
    page: Path | str,
    profile: Path,
    *,
    fragment: str = "",
    width: int = 1280,
    height: int = 900,
    dark: bool = False,
    scripts: tuple[str, ...] = (),
    shoot: bool = False,
) -> Seen:
    """Open a file, or an address, in a window of this size, run scripts one after the other, say what was seen.

    In the place of a script may stand `press KEY` or `click SHARE SELECTOR`, done as a user does it: `click 0.5 #next`.
    fragment: what follows the file's address, with its "#". shoot: take a picture of the window at the end.
    """
    command = [str(find_chromium()), *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as browser:
        try:
            url = page if isinstance(page, str) else page.absolute().as_uri()
            return asyncio.run(_drive(url + fragment, profile, (width, height), dark, scripts, shoot))
        finally:
            browser.terminate()


async def _drive(
    url: str, profile: Path, window: tuple[int, int], dark: bool, scripts: tuple[str, ...], shoot: bool
) -> Seen:
    import aiohttp

    seen = Seen()
    async with aiohttp.ClientSession() as session:
        port = await _port(profile)
        async with session.get(f"http://127.0.0.1:{port}/json/list") as reply:
            (tab,) = [one for one in await reply.json() if one["type"] == "page"]
        async with session.ws_connect(tab["webSocketDebuggerUrl"], max_msg_size=0) as socket:
            number = 0

            async def call(method: str, **params: Any) -> dict[str, Any]:
                nonlocal number
                number += 1
                await socket.send_json({"id": number, "method": method, "params": params})
                while True:
                    message = await socket.receive_json(timeout=60)
                    _note(seen, message)
                    if message.get("id") == number:
                        assert "error" not in message, message
                        return dict(message["result"])

            for domain in ("Page", "Runtime", "Log", "Network"):
                await call(f"{domain}.enable")
            size = {"width": window[0], "height": window[1], "deviceScaleFactor": 1, "mobile": False}
            await call("Emulation.setDeviceMetricsOverride", **size)
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            await call("Emulation.setEmulatedMedia", features=[scheme])
            await call("Page.navigate", url=url)
            for _ in range(200):
                state = await call("Runtime.evaluate", expression="document.readyState + location.protocol")
                if state["result"]["value"] in ("completefile:", "completehttp:"):
                    break
                await asyncio.sleep(0.05)
            for script in scripts:
                if script.startswith(PRESS):
                    name = script.removeprefix(PRESS)
                    text, code = KEYS.get(name) or (name, ord(name.upper()))
                    key = {"key": name, "windowsVirtualKeyCode": code}
                    await call("Input.dispatchKeyEvent", type="keyDown", text=text, **key)
                    await call("Input.dispatchKeyEvent", type="keyUp", **key)
                    continue
                if script.startswith(CLICK):
                    share, selector = script.removeprefix(CLICK).split(" ", 1)
                    box = f"(({{x, y, width, height}}) => [x + {share} * width, y + height / 2])"
                    find = f"{box}(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
                    found = await call("Runtime.evaluate", expression=find, returnByValue=True)
                    x, y = found["result"]["value"]
                    mouse = {"x": x, "y": y, "button": "left", "clickCount": 1}
                    await call("Input.dispatchMouseEvent", type="mousePressed", **mouse)
                    await call("Input.dispatchMouseEvent", type="mouseReleased", **mouse)
                    continue
                done = await call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
                assert "exceptionDetails" not in done, done
                seen.values.append(done["result"].get("value"))
            if shoot:
                seen.png = base64.b64decode((await call("Page.captureScreenshot"))["data"])
            with suppress(TimeoutError, asyncio.TimeoutError):
                while True:  # what is still on its way
                    _note(seen, json.loads((await socket.receive(timeout=0.3)).data))
    return seen


def _note(seen: Seen, message: dict[str, Any]) -> None:
    method, params = message.get("method", ""), message.get("params", {})
    if method == "Network.requestWillBeSent":
        seen.requests.append(params["request"]["url"])
    elif method == "Runtime.exceptionThrown":
        seen.errors.append(params["exceptionDetails"]["text"])
    elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        seen.errors.append(str(params["args"]))
    elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        seen.errors.append(params["entry"]["text"])


async def _port(profile: Path) -> int:
    file = profile / "DevToolsActivePort"
    for _ in range(400):
        if file.is_file() and (lines := file.read_text().splitlines()):
            return int(lines[0])
        await asyncio.sleep(0.05)
    raise AssertionError(f"Chromium did not start: no {file} after 20 s")
