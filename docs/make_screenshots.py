"""Take the screenshots in ``docs/screenshots``; run it after a change of the web UI.

Needs Debian's ``chromium`` and ``chromium-driver``, and selenium. The page is served by the
test server of its tests, so that the screenshots change with the UI only.
"""

from __future__ import annotations

import math
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests" / "server" / "page")]

from page_api import BACKBONE, Api, serving  # noqa: E402
from page_browser import DESK, PHONE, Page, start  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable

TARGET = HERE / "screenshots"
TALL = (1280, 940)
TEXT = "Anna Müller flew from the University of Zürich to Paris, where Renault builds cars."
BLEND = "support@3*0.7+tone-friendly@1*0.3"
ANSWERS = {
    BACKBONE: [
        "I'm sorry to hear that. ",
        "Please contact the seller, ",
        "and describe the problem in detail, including the order number.",
    ],
    "support@3": [
        "I've found order 4417. ",
        "It left our warehouse on Monday ",
        "and arrives tomorrow. ",
        "If it doesn't, reply here and I refund it.",
    ],
    BLEND: [
        "Oh no, that's annoying! ",
        "Your parcel left on Monday, ",
        "and should be with you tomorrow.",
    ],
}


def main() -> None:
    """Take every screenshot."""
    TARGET.mkdir(exist_ok=True)
    driver = start("/usr/bin/chromium", "/usr/bin/chromedriver")
    try:
        with serving(filled()) as api:
            page = Page(driver, api)
            take(page, "adapters", "light", DESK)
            take(page, "playground", "light", TALL, play)
            take(page, "label", "dark", DESK, label)
            take(page, "live", "dark", DESK, watch)
            take(page, "report?ref=topics@1", "light", DESK)
            take(page, "adapters", "dark", PHONE)
            take(page, "playground", "light", PHONE, play)
    finally:
        driver.quit()


def filled() -> Api:
    """Return a test server with example answers."""
    spans = [
        {"label": kind, "start": TEXT.index(part), "end": TEXT.index(part) + len(part),
         "score": score}
        for kind, part, score in (
            ("PER", "Anna Müller", 0.991),
            ("ORG", "University of Zürich", 0.942),
            ("LOC", "Zürich", 0.887),
            ("LOC", "Paris", 0.996),
            ("ORG", "Renault", 0.973),
        )
    ]  # fmt: skip
    report = {
        "curves": curves(),
        "before": {"accuracy": 0.229, "macro f1": 0.180, "loss": 2.31},
        "after": {"accuracy": 0.938, "macro f1": 0.921, "loss": 0.214},
    }
    return Api(spans=spans, report=report, texts=ANSWERS, pause=0.05)


def curves() -> list[dict[str, object]]:
    """Return curves as those of a training run."""
    train = [
        [5 * step, 0.3 + 2.1 * math.exp(-step / 18) + 0.09 * math.sin(1.7 * step)]
        for step in range(1, 61)
    ]
    steps = range(1, 7)
    return [
        {"name": "train loss", "points": train},
        {
            "name": "validation loss",
            "points": [[50 * step, 0.42 + 1.8 * math.exp(-step / 2.1)] for step in steps],
        },
        {
            "name": "validation accuracy",
            "points": [[50 * step, 0.94 - 0.6 * math.exp(-step / 1.6)] for step in steps],
        },
    ]


def take(
    page: Page,
    view: str,
    scheme: str,
    size: tuple[int, int],
    act: Callable[[Page], None] | None = None,
) -> None:
    """Take one screenshot."""
    page.fresh()
    page.size(size)
    page.scheme(scheme)
    page.open(view)
    if act is not None:
        act(page)
    page.run("document.activeElement.blur()")
    time.sleep(0.5)
    name = f"{'phone-' if size is PHONE else ''}{view.partition('?')[0]}-{scheme}.png"
    page.shoot(TARGET / name)


def play(page: Page) -> None:
    """Send a prompt to the base model, an adapter and a weighted combination."""
    page.type("#play-prompt", "My parcel has not arrived. What now?")
    page.click("#play-add")
    page.run("[...document.querySelectorAll('button[aria-label^=Blend]')].at(-1).click()")
    page.run(
        "const set = (e, value, event) => { e.value = value; e.dispatchEvent(new Event(event)) };"
        "const last = () => [...document.querySelectorAll('.column')].at(-1);"
        "['support@3', 'tone-friendly@1'].forEach((ref, i) =>"
        " set(last().querySelectorAll('.part select')[i], ref, 'change'));"
        "[0.7, 0.3].forEach((weight, i) =>"
        " set(last().querySelectorAll('input[type=range]')[i], weight, 'input'));"
    )
    page.run("document.querySelector('#play-go').click()")
    page.until(lambda: "done" in page.text("#play-status"), "the answers")
    page.run("scrollTo(0, innerWidth < 500 ? 610 : 0)")


def label(page: Page) -> None:
    """Classify and tag a text."""
    page.run("for (const b of document.querySelectorAll('#label-choices input:not(:checked)'))"
             " b.click()")  # fmt: skip
    page.fill("#label-text", TEXT)
    page.click("#label-go")
    page.until(lambda: page.all(".result"), "the labels")


def watch(page: Page) -> None:
    """Wait until there is something to see."""
    page.until(lambda: page.all(".chart"), "the charts")
    time.sleep(25)


if __name__ == "__main__":
    main()
