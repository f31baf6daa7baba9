"""The page in a browser in front of the real server and a tiny backbone."""

import re
from dataclasses import dataclass

import pytest
from page_browser import Page

pytest.importorskip("adapterhub.server.app", reason="the server's own routes are not there")

TEXT = "the film was good"


@dataclass
class Real:
    """Where the server listens, in the form of the small one of the other tests."""

    url: str


@pytest.fixture
def real(chromium, served):
    page = Page(chromium, Real(served.url))
    page.fresh()
    yield page
    assert page.errors() == []


def test_the_base_an_adapter_and_a_blend_answer(real, served):
    real.open("playground?ref=alpha@1")
    real.type("#play-max", "6")
    real.type("#play-prompt", TEXT)
    real.click("#play-add")
    real.run("[...document.querySelectorAll('button[aria-label^=Blend]')].at(-1).click()")
    real.click("#play-go")
    real.until(lambda: "Base" in real.text("#play-status"), "the answers")
    assert real.text("#play-status").count("done") == 3
    facts = real.texts(".facts")
    assert all(re.match(r"\d+ token", each) for each in facts)
    assert served.digest("alpha").split(":")[1][:12] in facts[1]
    assert " + " in facts[2]


def test_texts_are_classified_and_tagged(real, served):
    for ref in ("moods@1", "things@1"):
        assert served.post("/v1/adapters/load", {"ref": ref}).status_code == 200
    real.open("label")
    real.run("for (const b of document.querySelectorAll('#label-choices input:not(:checked)'))"
             " b.click()")  # fmt: skip
    real.type("#label-text", TEXT)
    real.click("#label-go")
    real.until(lambda: len(real.all(".result")) == 2, "both answers")
    assert sorted(real.texts(".bar-name")) == ["glad", "odd", "sad"]
    assert real.text(".marked") == TEXT
    for text, start, end in real.run(
        "return [...document.querySelectorAll('mark')].map((m) =>"
        " [m.textContent, Number(m.dataset.start), Number(m.dataset.end)])"
    ):
        assert TEXT[start:end] == text


def test_buttons_load_and_unload_adapters(real, served):
    real.open()
    names = real.texts(".adapter-name > .mono")
    assert {"alpha@1", "beta@1", "moods@1", "things@1"} <= set(names)
    real.click("[aria-label='Load beta@1']")
    real.until(lambda: real.all("[aria-label='Unload beta@1']"), "the adapter to be loaded")
    real.click("[aria-label='Pin beta@1']")
    real.until(lambda: real.all("[aria-label='Unpin beta@1']"), "the pin")
    real.click("[aria-label='Unpin beta@1']")
    real.until(lambda: real.all("[aria-label='Pin beta@1']"), "the pin to be gone")
    real.click("[aria-label='Unload beta@1']")
    real.until(lambda: real.all("[aria-label='Load beta@1']"), "the adapter to be gone")
    real.click("[aria-label='Alias beta@1']")
    real.keys("staging", "\ue007")
    real.until(lambda: "staging" in real.text("[data-ref='beta@1']"), "the alias")
    assert served.digest("beta@staging") == served.digest("beta@1")


def test_statistics_and_reports_are_shown(real):
    real.open("live")
    real.until(lambda: "–" not in real.text("#live-tiles .tile:nth-child(4) dd"), "the numbers")
    assert real.text("#live-notice") == ""
    real.open("report?ref=alpha@1")
    real.until(lambda: "loss" in real.text("#report-body"), "the report")
    assert real.texts("#report-body tbody tr > *") == ["loss", "3", "2", "−1"]


def test_the_api_documentation_sends_requests(real, served):
    real.driver.get(f"{served.url}/docs")
    operation = "#operations-server-ready"
    real.until(lambda: real.all(f"{operation} .opblock-summary-control"), "the operations")
    real.click(f"{operation} .opblock-summary-control")
    real.until(lambda: real.all(f"{operation} .execute"), "the button")
    real.click(f"{operation} .execute")
    status = f"{operation} .live-responses-table .response-col_status"
    real.until(lambda: "200" in "".join(real.texts(status)), "the response")
