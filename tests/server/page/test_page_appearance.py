"""Both themes, a phone's width, keys, and errors that say what to do."""

import pytest
from page_browser import DESK, PHONE
from test_page_labels import TEXT, label, span
from test_page_playground import answer, open_with

VIEWS = ("adapters", "playground", "label", "audio", "live", "report?ref=topics@1")
REPORT = {
    "curves": [{"name": "train loss", "points": [[1, 2.0], [2, 1.0]]}],
    "before": {"accuracy": 0.2},
    "after": {"accuracy": 0.9},
}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast_in_both_themes(page, api, scheme):
    api.report = REPORT
    api.spans = [span("PER", "Zoë"), span("LOC", "Paris")]
    page.scheme(scheme)
    for view in VIEWS:
        page.open(view)
        assert page.poor_contrast() == [], view
    label(page, TEXT, "topics@1", "entities@2")
    assert page.poor_contrast() == []
    open_with(page, "support@3", "support@2", "tone-friendly@1", "legal/summaries@4")
    api.errors["/v1/chat/completions"] = (404, "no adapter 'x'; near: 'y'")
    page.expect("404")
    answer(page)
    assert page.poor_contrast() == []


def test_the_themes_differ(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    page.open()
    light = page.run(ground)
    page.scheme("dark")
    assert page.run(ground) != light


@pytest.mark.parametrize("size", [PHONE, DESK])
def test_no_view_scrolls_sideways(page, api, size):
    api.report = REPORT
    api.spans = [span("PER", "Zoë"), span("LOC", "Paris")]
    page.size(size)
    for view in VIEWS:
        page.open(view)
        assert page.overflow() == [], view
    label(page, TEXT + "x" * 200, "topics@1", "entities@2")
    assert page.overflow() == []
    open_with(page, "support@3", "support@2")
    api.texts["support@3"] = ["w" * 300]
    answer(page)
    assert page.overflow() == []
    page.open()
    page.click("#load-other")
    assert page.overflow() == []


def test_every_control_has_a_name(page):
    for view in VIEWS:
        page.open(view)
        nameless = page.run(
            "const all = 'button, a, input, select, textarea, [role=img]';"
            "const named = (e) => e.getAttribute('aria-label') || e.labels?.length"
            " || e.textContent.trim();"
            "return [...document.querySelectorAll(all)].filter((e) => !named(e))"
            ".map((e) => e.outerHTML)"
        )
        assert nameless == [], view


def test_a_required_key_is_stored_by_the_tab_only(page, api):
    api.key = "ah-secret"
    page.expect("401")
    page.open()
    assert "An API key is required" in page.text("#app-notice")
    page.click("#app-notice button")
    page.keys("ah-wrong", "\ue007")
    page.until(lambda: not page.all("dialog[open]"), "the dialog to close")
    page.until(lambda: page.text("#connection") == "no access", "the error")
    page.click("#key-open")
    page.keys("ah-secret", "\ue007")
    page.until(lambda: page.all("#adapters-list tbody tr"), "the list")
    assert page.text("#key-open") == "Key desk"
    assert page.text("#app-notice") == ""
    assert page.run("return Object.values(sessionStorage)") == ["ah-secret"]
    assert page.run("return localStorage.length + document.cookie.length") == 0
    assert "ah-secret" not in page.run("return document.documentElement.outerHTML + location.href")
    page.click("#key-open")
    page.click("#key-forget")
    page.until(lambda: not page.all("#adapters-list tbody tr"), "the list to be gone")
    assert page.run("return sessionStorage.length") == 0


def test_a_key_with_invalid_characters_is_rejected_at_once(page):
    page.open()
    page.click("#key-open")
    page.keys("schlüssel", "\ue007")
    assert "ASCII" in page.text("#key-error")
    assert page.run("return sessionStorage.length") == 0


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (400, "Correct the field that the message names"),
        (403, "Use a key with the required role"),
        (404, "Choose one from the list"),
        (409, "Start a server with the backbone"),
        (413, "Send a smaller input"),
        (429, "Try again in 2 seconds"),
        (500, "req-17"),
        (503, "It is starting or shutting down"),
    ],
)
def test_errors_say_what_happened_and_what_to_do(page, api, status, said):
    api.errors["/v1/classify"] = (status, "what the server says", {"Retry-After": "2"})
    page.expect(str(status))
    page.open("label")
    page.type("#label-text", "text")
    page.click("#label-go")
    page.until(lambda: page.text("#label-notice"), "the error")
    assert "what the server says" in page.text("#label-notice")
    assert said in page.text("#label-notice")
    assert page.all("#label-notice [role=alert]")


def test_a_lost_connection_is_shown_and_restored(page, api):
    page.expect("Failed to load", "ERR_")
    page.open()
    page.run(
        "window.real = window.fetch; window.fetch = () => Promise.reject(new TypeError('gone'))"
    )
    page.until(lambda: page.text("#connection") == "not connected", "the loss")
    assert "adapterhub serve" in page.text("#app-notice")
    # what was known stays on the page
    assert page.all("#adapters-list tbody tr")
    page.run("window.fetch = window.real")
    page.click("#app-notice button")
    page.until(lambda: page.text("#app-notice") == "", "the server")


def test_an_interrupted_answer_is_an_error(page, api):
    page.open("playground")
    page.run(
        'const half = \'data: {"choices":[{"delta":{"content":"half"}}]}\\n\\n\';'
        "const real = window.fetch; window.fetch = (path, options) => path.includes('chat')"
        " ? Promise.resolve(new Response(half)) : real(path, options)"
    )
    answer(page)
    assert "half" in page.text(".answer")
    assert "closed before the response was complete" in page.text(".column .notice")


def test_events_are_parsed_in_any_chunks(page):
    page.open()
    text = 'data: {"a":"é🚀"}\r\n\r\n: comment\n\ndata:one\ndata: two\n\ndata: [DONE]\n\n'
    found = page.driver.execute_async_script(
        "const [text, done] = arguments;"
        "(async () => { const { events } = await import('/page/api.js'); const all = [];"
        " for (const size of [1, 2, 3, 7, 1000]) {"
        "  const bytes = new TextEncoder().encode(text); const found = [];"
        "  const body = new ReadableStream({ start(c) {"
        "   for (let i = 0; i < bytes.length; i += size) c.enqueue(bytes.slice(i, i + size));"
        "   c.close(); } });"
        "  for await (const data of events(body)) found.push(data); all.push(found); }"
        " return all; })().then(done, (e) => done(String(e)))",
        text,
    )
    assert found == [['{"a":"é🚀"}', "one\ntwo", "[DONE]"]] * 5


def test_injected_scripts_do_not_run(page):
    page.expect("Content Security Policy", "TrustedHTML", "TrustedScript")
    page.open()
    blocked = page.run(
        "try { document.body.innerHTML = '<b>x</b>'; return false } catch { return true }"
    )
    assert blocked
    page.run("const s = document.createElement('script'); try { s.textContent = 'window.ran = 1';"
             "document.body.append(s) } catch {}")  # fmt: skip
    assert page.run("return window.ran") is None
