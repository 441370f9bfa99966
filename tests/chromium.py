"""Chromium without a window, driven over the pipes of its DevTools protocol."""

import base64
import json
import os
import select
import shutil
import subprocess
import time

NAMES = "chromium", "chromium-browser", "google-chrome"
FOUND = next(filter(None, map(shutil.which, NAMES)), None)
"""Path of the browser; None where there is none."""

TIMEOUT = 120

KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "Enter": 13, "Escape": 27, "Tab": 9}


class Chromium:
    """One tab of a browser, to be used as a context manager."""

    def __init__(self, profile):
        self.messages = []
        self.number = 0
        self.session = None
        self.profile = profile

    def __enter__(self):
        read, their_write = os.pipe()
        their_read, write = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        options += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={self.profile}"]
        # The protocol wants the file descriptors 3 and 4.
        redirect = f'exec "$@" 3<&{their_read} 4>&{their_write}'
        command = ["bash", "-c", redirect, "bash", FOUND, *options]
        self.process = subprocess.Popen(
            command, pass_fds=(their_read, their_write), stderr=subprocess.DEVNULL
        )
        os.close(their_read)
        os.close(their_write)
        self.to, self.back, self.buffer = write, read, b""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        attached = self.send("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.send(f"{domain}.enable")
        return self

    def __exit__(self, *error):
        self.send("Browser.close")
        self.process.wait(timeout=30)
        os.close(self.to)
        os.close(self.back)

    def send(self, method, **params):
        """Result of a command; events that come before it are kept in ``messages``."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session and not method.startswith("Browser."):
            message["sessionId"] = self.session
        text = json.dumps(message).encode() + b"\0"
        while text:
            text = text[os.write(self.to, text) :]
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _receive(self):
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.back], [], [], TIMEOUT)
            assert ready, f"the browser has said nothing for {TIMEOUT} seconds"
            part = os.read(self.back, 2**16)
            assert part, "the browser has ended"
            self.buffer += part
        text, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(text)
        if "id" not in message:
            self.messages.append(message)
        return message

    def wait(self, method, **params):
        """Wait for an event with these parameters, unless it has come."""
        while not any(
            m["method"] == method and params.items() <= m["params"].items() for m in self.messages
        ):
            self._receive()

    def open(self, url):
        """Load a page and wait until it has been drawn; the seconds that this took."""
        self.messages.clear()
        start = time.perf_counter()
        self.send("Page.navigate", url=url)
        self.wait("Page.loadEventFired")
        self("new Promise(done => requestAnimationFrame(() => setTimeout(done)))")
        seconds = time.perf_counter() - start
        self.send("Page.captureScreenshot")  # keys are ignored until something is seen
        return seconds

    def complaints(self):
        """Errors and warnings since the page was opened."""
        kinds = "Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"
        return [message for message in self.messages if message["method"] in kinds]

    def __call__(self, expression):
        """Value of a JavaScript expression, of a promise too."""
        found = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def press(self, *keys):
        """Press keys, one after the other."""
        for key in keys:
            event = {"key": key}
            if len(key) == 1:
                event |= {"text": key, "windowsVirtualKeyCode": ord(key.upper())}
            else:
                event |= {"windowsVirtualKeyCode": KEYS[key]}
            event |= {"text": "\r"} if key == "Enter" else {}
            self.send("Input.dispatchKeyEvent", type="keyDown", **event)
            self.send("Input.dispatchKeyEvent", type="keyUp", key=key)

    def resize(self, width, height, scheme="light"):
        """Set the size of the window, and a light or a dark color scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.send("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path):
        """Write what is seen as a PNG file."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))
