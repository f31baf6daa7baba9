"""Take the screenshots in ``docs/screenshots`` from a running server; run it after UI changes.

The audio view is that of a server with ``whisper-base`` and no adapter, which transcribes a voice
that Debian's ``espeak-ng`` generates; ``--only audio`` takes that one alone.

The adapters come from the quick start and from short runs of two recipes, all on the backbone of
the quick start. They are trained once (about ten minutes on two cores) and stay in a registry in
``--home``. The recipes read ``shared/data``; the quick start needs the package chatterbot-corpus;
the browser is Debian's ``chromium`` with ``chromium-driver``, driven by selenium.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "server" / "page")]

from page_browser import DESK, PHONE, Page, start  # noqa: E402

from adapterhub import Registry  # noqa: E402
from adapterhub.cli.quickstart import BACKBONE  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TARGET = ROOT / "docs" / "screenshots"
TOPICS, SUPPORT = "quickstart-topics", "quickstart-support"
REPLIES, ENTITIES = "support-replies", "conll2003-ner"
#: Recipes to run after the quick start, with the keys that make the run short.
RECIPES = {
    REPLIES: ("data.limit_train=96", "data.limit_validation=16"),
    ENTITIES: (
        f"backbone.name={BACKBONE}",
        "data.limit_train=400",
        "data.limit_validation=40",
        "train.epochs=2",
    ),
}
PROMPT = "How can I get a refund?"
BLEND = ((REPLIES, 0.7), (SUPPORT, 0.3))
TEXT = "Angela Weber of Siemens flew from Brussels to Japan to visit a factory of Toyota."
MAX_TOKENS = 80
#: Clients of the live view, and the seconds that its charts cover.
CLIENTS, LIVE_SECONDS = 6, 40
EAR = "whisper-base"
SAID = (
    "My parcel was due on Monday, but it has not arrived. I have called the shop three times. "
    "Please send me a new one, or give me my money back."
)
START_SECONDS, ANSWER_SECONDS = 300, 180


@dataclass(frozen=True)
class Served:
    """A running server.

    Args:
        url: Base URL.
    """

    url: str


def main() -> None:
    """Train what is missing, start the server and take every screenshot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--home",
        type=Path,
        default=ROOT / "runs" / "screenshots",
        help="folder of the registry and the training runs, kept for the next run",
    )
    parser.add_argument("--only", choices=["audio"], help="take this screenshot alone")
    options = parser.parse_args()
    home = options.home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    TARGET.mkdir(exist_ok=True)
    if options.only is None:
        train_missing(home)
        with serve(home, BACKBONE) as server, browser(server) as page:
            prepare_adapters(server)
            take_all(page)
    with serve(home / "audio", EAR) as server, browser(server) as page:
        take(page, "audio", "light", DESK, transcribe)


@contextmanager
def browser(server: Served) -> Iterator[Page]:
    """Yield the page of a server in Chromium."""
    driver = start("/usr/bin/chromium", "/usr/bin/chromedriver")
    try:
        yield Page(driver, server, wait_s=ANSWER_SECONDS)
    finally:
        driver.quit()


def train_missing(home: Path) -> None:
    """Train the adapters that the registry in `home` lacks."""
    stored = {version.name for version in Registry(home).list()}
    if not {TOPICS, SUPPORT} <= stored:
        run_command(home, "quickstart", "--folder", str(home / "quickstart"))
    for name, keys in RECIPES.items():
        if name not in stored:
            options = ("--audit-seconds", "0", "--output", str(home / name))
            run_command(home, "train", f"{name}.yaml", *keys, *options)


def run_command(home: Path, *arguments: str) -> None:
    """Run an ``adapterhub`` command on the registry in `home`, in the folder of the recipes."""
    # the recipes name their data relative to their folder
    subprocess.run(command(*arguments), env=environment(home), cwd=ROOT / "recipes", check=True)


def command(*arguments: str) -> list[str]:
    """Return the command line of an ``adapterhub`` command."""
    return [sys.executable, "-m", "adapterhub", *arguments]


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a command on the registry in `home`."""
    return {**os.environ, "ADAPTERHUB_HOME": str(home), "PYTHONPATH": str(ROOT)}


@contextmanager
def serve(home: Path, backbone: str) -> Iterator[Served]:
    """Run ``adapterhub serve`` on a free port until the block ends."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    process = subprocess.Popen(
        command("serve", "--backbone", backbone, "--port", port), env=environment(home)
    )
    try:
        server = Served(f"http://127.0.0.1:{port}")
        wait_until_ready(server, process)
        yield server
    finally:
        process.terminate()
        process.wait()


def wait_until_ready(server: Served, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server accepts requests."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise SystemExit(f"adapterhub serve ended with exit code {process.returncode}")
        try:
            if httpx.get(f"{server.url}/ready").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit(f"the server was not ready after {START_SECONDS} seconds")


def prepare_adapters(server: Served) -> None:
    """Set aliases, and pin, use and load adapters, so that the list shows several states."""
    chat = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 1}
    for path, body in (
        ("adapters/alias", {"ref": f"{REPLIES}@1", "alias": "prod"}),
        ("adapters/alias", {"ref": f"{TOPICS}@1", "alias": "staging"}),
        ("adapters/pin", {"ref": f"{REPLIES}@1", "pinned": True}),
        ("adapters/load", {"ref": f"{TOPICS}@1"}),
        ("chat/completions", {"model": f"{REPLIES}@1", **chat}),
    ):
        url = f"{server.url}/v1/{path}"
        httpx.post(url, json=body, timeout=ANSWER_SECONDS).raise_for_status()


def take_all(page: Page) -> None:
    """Take every screenshot."""
    take(page, "adapters", "light", DESK)
    take(page, "adapters", "dark", PHONE)
    take(page, "playground", "light", DESK, generate)
    take(page, "playground", "light", PHONE, generate)
    take(page, "label", "dark", DESK, label)
    take(page, f"report?ref={TOPICS}@1", "light", DESK)
    with busy(page.api):
        take(page, "live", "dark", DESK, watch)


def take(
    page: Page,
    view: str,
    scheme: str,
    size: tuple[int, int],
    act: Callable[[Page], None] | None = None,
) -> None:
    """Take one screenshot: of the whole view on a desktop, of one screen on a phone.

    Args:
        page: Page in the browser.
        view: View to open, with its parameters.
        scheme: Color scheme, ``light`` or ``dark``.
        size: Width and height of the window in pixels.
        act: Called on the open view before the screenshot.
    """
    page.fresh()
    page.size(size)
    page.scheme(scheme)
    page.open(view)
    time.sleep(1)
    if act is not None:
        act(page)
    page.run("document.activeElement.blur()")
    if size is DESK:
        # the page is at least as high as the window
        page.size((size[0], 100))
        page.size((size[0], page.run("return document.scrollingElement.scrollHeight")))
    time.sleep(1)
    name = f"{'phone-' if size is PHONE else ''}{view.partition('?')[0]}-{scheme}.png"
    page.shoot(TARGET / name)


def generate(page: Page) -> None:
    """Send a prompt to the base model, an adapter and a blend."""
    page.type("#play-prompt", PROMPT)
    page.type("#play-max", str(MAX_TOKENS))
    page.type("#play-temperature", "0")
    choose(page, 0, 0, f"{REPLIES}@1")
    page.click("#play-add")
    page.run("[...document.querySelectorAll('button[aria-label^=Blend]')].at(-1).click()")
    for part, (name, weight) in enumerate(BLEND):
        choose(page, 1, part, f"{name}@1")
        page.run(
            "const [part, weight] = arguments;"
            "const last = [...document.querySelectorAll('.column')].at(-1);"
            "const slider = last.querySelectorAll('input[type=range]')[part];"
            "slider.value = weight; slider.dispatchEvent(new Event('input'))",
            part,
            weight,
        )
    page.click("#play-go")
    page.until(lambda: "done" in page.text("#play-status"), "the answers")
    page.run(
        "scrollTo(0, innerWidth < 500 ? document.querySelector('.columns-head').offsetTop - 60 : 0)"
    )


def choose(page: Page, column: int, part: int, ref: str) -> None:
    """Choose the adapter of one part of a column; the column of the base model has none."""
    page.run(
        "const [column, part, ref] = arguments;"
        "const picker = document.querySelectorAll('.picker')[column];"
        "const select = picker.querySelectorAll('select')[part];"
        "select.value = ref; select.dispatchEvent(new Event('change'))",
        column,
        part,
        ref,
    )


def label(page: Page) -> None:
    """Classify and tag a text."""
    page.run(
        "for (const box of document.querySelectorAll('#label-choices input:not(:checked)'))"
        " box.click()"
    )
    page.type("#label-text", TEXT)
    page.click("#label-go")
    page.until(lambda: page.all(".result"), "the labels")


def transcribe(page: Page) -> None:
    """Transcribe a generated voice, and play its second segment."""
    with tempfile.TemporaryDirectory() as folder:
        voice = Path(folder) / "complaint.wav"
        subprocess.run(
            ["espeak-ng", "-v", "en-us", "-s", "140", "-w", str(voice), SAID], check=True
        )
        page.find("#audio-file").send_keys(str(voice))
        page.until(lambda: page.text("#audio-name") == voice.name, "the file")
        page.click("#audio-go")
        page.until(lambda: page.all(".segments button"), "the transcript")
        page.run("document.getElementById('audio-player').muted = true")
        page.run("document.querySelectorAll('.segments button')[1]?.click()")
        time.sleep(1)
        page.run("document.getElementById('audio-player').pause()")


def watch(page: Page) -> None:
    """Let the charts fill."""
    page.until(lambda: page.all(".chart"), "the charts")
    time.sleep(LIVE_SECONDS)


@contextmanager
def busy(server: Served) -> Iterator[None]:
    """Send requests for several models from several clients until the block ends."""
    models = (BACKBONE, f"{REPLIES}@1", f"{SUPPORT}@1", f"{REPLIES}@1*0.7+{SUPPORT}@1*0.3")
    stop = threading.Event()
    clients = [
        threading.Thread(target=send_requests, args=(server, models[index % 4], index, stop))
        for index in range(CLIENTS)
    ]
    for client in clients:
        client.start()
    yield
    stop.set()
    for client in clients:
        client.join()


def send_requests(server: Served, model: str, index: int, stop: threading.Event) -> None:
    """Send chat requests with pauses, both longer for a higher `index`, until `stop` is set."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 16 + 8 * index,
    }
    while not stop.wait(1 + index):
        httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=ANSWER_SECONDS)


if __name__ == "__main__":
    main()
