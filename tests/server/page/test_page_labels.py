"""Bars and marked spans, with offsets as Python counts them."""

import base64

import pytest
from page_api import adapter
from vision_backbones import shape_image

TEXT = "Zoë 👩‍🚀 flew from the 𝒰niversity of Zürich 🚀 to Paris"


def span(label, part, text=TEXT):
    start = text.index(part)
    return {"label": label, "start": start, "end": start + len(part), "score": 0.9}


def label(page, text, *refs, question=None):
    page.open("label")
    page.run(
        "for (const box of document.querySelectorAll('#label-choices input'))"
        " if (box.checked !== arguments[0].includes(box.dataset.key)) box.click()", list(refs),
    )  # fmt: skip
    page.fill("#label-text", text)
    if question:
        page.fill("#label-question", question)
    page.click("#label-go")
    page.until(lambda: page.all(".result"), "the labels")


def marks(page):
    return page.run(
        "return [...document.querySelectorAll('mark')].map((m) =>"
        " [m.textContent, m.title, Number(m.dataset.start), Number(m.dataset.end)])"
    )


def test_a_classifier_shows_bars_the_highest_first(page, api):
    label(page, "You charged me twice", "topics@1")
    assert page.texts(".bar-name") == ["billing", "delivery", "other"]
    assert page.texts(".bars .num") == ["0.910", "0.060", "0.030"]
    widths = page.run(
        "return [...document.querySelectorAll('.fill')].map((f) =>"
        " f.getBoundingClientRect().width / f.parentElement.getBoundingClientRect().width)"
    )
    assert widths == pytest.approx([0.91, 0.06, 0.03], abs=0.02)
    assert api.sent("/v1/classify") == [
        {"items": [{"model": "topics@1", "input": "You charged me twice"}]}
    ]


def test_spans_are_marked_at_offsets_in_code_points(page, api):
    api.spans = [span("PER", "Zoë 👩‍🚀"), span("LOC", "Paris")]
    label(page, TEXT, "entities@2")
    assert [mark[0] for mark in marks(page)] == ["Zoë 👩‍🚀", "Paris"]
    assert page.text(".marked") == TEXT
    rows = page.texts(".spans tbody td:nth-child(3)")
    start = TEXT.index("Paris")
    assert rows == [f"0–{len('Zoë 👩‍🚀')}", f"{start}–{start + 5}"]


def test_overlapping_and_nested_spans_are_shown(page, api):
    api.spans = [
        span("ORG", "𝒰niversity of Zürich"),
        span("LOC", "Zürich"),
        span("EVT", "Zürich 🚀 to Paris"),
    ]
    label(page, TEXT, "entities@2")
    assert [mark[:2] for mark in marks(page)] == [
        ["𝒰niversity of ", "ORG"],
        ["Zürich", "ORG, EVT, LOC"],
        [" 🚀 to Paris", "EVT"],
    ]
    assert page.text(".marked") == TEXT
    lanes = page.run(
        "return [...document.querySelectorAll('mark:nth-of-type(2) .lane')]"
        ".map((l) => l.style.getPropertyValue('--lane'))"
    )
    assert sorted(lanes) == ["0", "1", "2"]


def test_spans_outside_of_the_text_are_only_listed(page, api):
    api.spans = [span("LOC", "Paris"), {"label": "X", "start": 50, "end": 900},
                 {"label": "Y", "start": 3, "end": 3}]  # fmt: skip
    label(page, TEXT, "entities@2")
    assert [mark[0] for mark in marks(page)] == ["Paris"]
    assert "2 spans are outside of the text" in page.text("#label-results")


def test_offsets_refer_to_the_text_that_was_sent(page, api):
    api.spans = [span("LOC", "Paris")]
    label(page, TEXT, "entities@2")
    page.fill("#label-text", "other text by now")
    assert page.text(".marked") == TEXT


def test_splitting_agrees_with_slices_of_python(page):
    page.open("label")
    text = "a😀b\u0301é𝒰\u200d\n\tz🏳️‍🌈"
    spans = [
        {"label": str(index), "start": start, "end": end}
        for index, (start, end) in enumerate(
            (start, end) for start in range(len(text)) for end in range(start + 1, len(text) + 1)
        )
    ]
    split = page.module("results.js", "splitBySpans", text, spans)
    assert "".join(part["text"] for part in split["parts"]) == text
    for part in split["parts"]:
        assert part["text"] == text[part["start"] : part["end"]]
        covering = {s["label"] for s in spans if s["start"] <= part["start"] < s["end"]}
        assert {s["label"] for s in part["spans"]} == covering
        assert len({s["lane"] for s in part["spans"]}) == len(part["spans"])


def test_a_classifier_and_a_tagger_are_used_together(page, api):
    api.spans = [span("LOC", "Paris")]
    label(page, TEXT, "topics@1", "entities@2")
    assert page.texts(".result h2") == ["topics@1", "entities@2"]
    assert page.all(".bars")
    assert page.all("mark")


def test_without_a_selection_nothing_is_sent(page, api):
    page.open("label")
    page.click("#label-choices input")
    page.type("#label-text", "text")
    page.click("#label-go")
    assert "Choose at least one adapter" in page.text("#label-notice")
    assert api.calls == []


@pytest.mark.parametrize("found", ["𝒰niversity of Zürich", None])
def test_an_answer_is_marked_in_its_context(page, api, found):
    api.adapters.append(adapter("manuals", 1, "question-answering"))
    api.answer = found
    label(page, TEXT, "manuals@1", question="Where from?")
    assert [mark[0] for mark in marks(page)] == ([found] if found else [])
    assert page.text(".marked") == TEXT
    wanted = {"question": "Where from?", "context": TEXT}
    assert api.sent("/v1/answer") == [{"items": [{"model": "manuals@1", "input": wanted}]}]


def test_the_question_is_hidden_without_an_adapter_for_it(page, api):
    page.open("label")
    page.until(lambda: page.all("#label-choices input"), "the choices")
    assert page.run("return document.querySelector('#label-question').offsetParent === null")


def test_an_image_is_sent_unchanged(page, api, tmp_path):
    api.adapters = [adapter("colours", task="image-classification")]
    file = tmp_path / "one.png"
    file.write_bytes(shape_image("red", 1))
    page.fresh()
    page.open("label")
    page.until(lambda: page.find("#label-image").is_displayed(), "the field for an image")
    assert not page.find("#label-text").is_displayed()
    page.find("#label-image").send_keys(str(file))
    page.click("#label-go")
    page.until(lambda: page.all(".result"), "the labels")
    ((item,),) = [body["items"] for body in api.sent("/v1/classify")]
    start, _, content = item["input"]["image"].partition(",")
    assert (item["model"], start) == ("colours@1", "data:image/png;base64")
    assert base64.b64decode(content) == file.read_bytes()


def test_adapters_for_images_are_not_in_the_playground(page, api):
    api.adapters = [adapter("colours", task="image-classification"), adapter("talk")]
    page.fresh()
    page.open("playground")
    page.until(lambda: page.texts("#play-columns option"), "the columns")
    assert not any("colours" in each for each in page.texts("#play-columns option"))
