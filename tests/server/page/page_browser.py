"""The page in Chromium, for its tests and the screenshots of the documentation."""

import os
import shutil
import time
from pathlib import Path

HERE = Path(__file__).parent
BROWSER = os.environ.get("ADAPTERHUB_TEST_BROWSER") or shutil.which("chromium")
DRIVER = shutil.which("chromedriver")
WAIT_S = 10
DESK = (1280, 860)
PHONE = (360, 740)


def start(browser, driver, *flags):
    """Start Chromium with a log of the errors of its pages, and with further flags."""
    from selenium.webdriver import Chrome, ChromeOptions
    from selenium.webdriver.chrome.service import Service

    options = ChromeOptions()
    options.binary_location = browser
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
                 "--force-device-scale-factor=1", "--hide-scrollbars", "--lang=en",
                 *flags):  # fmt: skip
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return Chrome(options=options, service=Service(driver))


class Page:
    """The page of a server or of its test double."""

    def __init__(self, driver, api, wait_s=WAIT_S):
        self.driver = driver
        self.api = api
        self.wait_s = wait_s
        self.expected = ()

    def fresh(self):
        """Reset the browser between tests."""
        self.driver.get("about:blank")
        self.driver.get_log("browser")
        self.size(DESK)
        self.scheme("light")

    def open(self, view="adapters"):
        """Open a view and wait for the server's response."""
        self.driver.get(f"{self.api.url}/?{time.monotonic_ns()}#{view}")
        self.until(lambda: self.text("#connection") != "connecting", "a response of the server")

    def size(self, size):
        width, height = size
        self.driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )

    def scheme(self, name):
        self.driver.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": name},
                          {"name": "prefers-reduced-motion", "value": "reduce"}]},
        )  # fmt: skip

    def find(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, selector):
        """Return the text of an element, visible or not."""
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def texts(self, selector):
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)",
            selector,
        )

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def module(self, name, call, *arguments):
        """Call a function that a module exports."""
        return self.driver.execute_async_script(
            "const [name, call, args, done] = arguments;"
            "import(`/page/${name}`).then((m) => done(m[call](...args)), (e) => done(String(e)))",
            name, call, list(arguments),
        )  # fmt: skip

    def click(self, selector):
        self.find(selector).click()

    def type(self, selector, text):
        element = self.find(selector)
        element.clear()
        element.send_keys(text)

    def fill(self, selector, text):
        """Set a text that the driver can't type, such as emoji."""
        self.run(
            "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('input', {bubbles: true}))", selector, text,
        )  # fmt: skip

    def keys(self, *keys):
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def chord(self, modifier, key):
        """Press a key together with a modifier."""
        from selenium.webdriver import ActionChains

        ActionChains(self.driver).key_down(modifier).send_keys(key).key_up(modifier).perform()

    def focused(self):
        """Return the accessible name of the focused element."""
        return self.run(
            "const e = document.activeElement;"
            "const label = e.labels?.[0]?.querySelector('span')?.textContent;"
            "return e.getAttribute('aria-label') || label || e.textContent.trim()"
        )

    def tab_to(self, name, most=60):
        """Press Tab until the element with this name has the focus."""
        for _ in range(most):
            if self.focused() == name:
                return
            self.keys("\ue004")
        raise AssertionError(f"Tab never reached {name!r}")

    def until(self, holds, what):
        end = time.monotonic() + self.wait_s
        while not holds():
            assert time.monotonic() < end, f"no {what} within {self.wait_s} seconds"
            time.sleep(0.02)

    def overflow(self):
        """Return the width and the elements that exceed the window."""
        return self.run(
            "const w = innerWidth;"
            "const out = [...document.querySelectorAll('body *')].filter((e) => e.checkVisibility()"
            " && !e.closest('.visually-hidden') && e.getBoundingClientRect().right > w + 1)"
            ".map((e) => e.tagName + '.' + e.className);"
            "const d = document.scrollingElement;"
            "return d.scrollWidth > w ? [d.scrollWidth, ...out] : []"
        )

    def poor_contrast(self):
        return self.run((HERE / "contrast.js").read_text(encoding="utf-8"))

    def expect(self, *parts):
        """Allow errors in the browser's log that contain one of these parts."""
        self.expected = parts

    def errors(self):
        """Return errors of scripts, of the security policy and of the network."""
        return [
            entry["message"]
            for entry in self.driver.get_log("browser")
            if entry["level"] == "SEVERE"
            and not any(part in entry["message"] for part in self.expected)
        ]

    def shoot(self, path):
        """Save a screenshot."""
        self.driver.save_screenshot(str(path))
