"""The playground in a browser: answers side by side, as they stream."""

from page_api import BACKBONE, adapter, digest_of

CHAT = "/v1/chat/completions"


def open_with(page, *refs):
    """Open the playground with one column a reference, the first of which is there already."""
    page.open("playground")
    for _ in refs[1:]:
        page.click("#play-add")
    for index, ref in enumerate(refs):
        choose(page, index, ref)


def choose(page, column, ref, part=0):
    page.run(
        "const s = document.querySelectorAll('.column')[arguments[0] + 1]"
        ".querySelectorAll('.part select')[arguments[2]];"
        "s.value = arguments[1]; s.dispatchEvent(new Event('change'))",
        column, ref, part,
    )  # fmt: skip


def answer(page, prompt="Where is it?"):
    page.type("#play-prompt", prompt)
    page.click("#play-go")
    finished(page)


def finished(page):
    page.until(lambda: "Base model" in page.text("#play-status"), "the end of the answers")


def test_the_base_and_four_adapters_answer_one_prompt(page, api):
    refs = ["support@3", "support@2", "tone-friendly@1", "legal/summaries@4"]
    open_with(page, *refs)
    assert not page.find("#play-add").is_enabled()
    assert "maximum" in page.text("#play-add-reason")
    answer(page)
    for text, model in zip(page.texts(".answer"), (BACKBONE, *refs), strict=True):
        assert text.endswith(f"I am {model}.")
    sent = api.sent(CHAT)
    assert sorted(body["model"] for body in sent) == sorted([BACKBONE, *refs])
    for body in sent:
        assert body["messages"] == [{"role": "user", "content": "Where is it?"}]
        assert body["stream"] is True
    assert len({body["seed"] for body in sent}) == 1
    assert page.text("#play-status").count("done") == 5
    assert "3 tokens" in page.text(".facts")
    assert page.texts(".facts .mono") == [digest_of(ref).split(":")[1][:12] for ref in refs]


def test_the_columns_stream_at_the_same_time(page, api):
    # no answer goes on before all have begun
    api.meet = 5
    open_with(page, "support@3", "support@2", "tone-friendly@1", "legal/summaries@4")
    answer(page)
    assert page.text("#play-status").count("done") == 5


def test_deltas_are_shown_at_once_and_stop_cancels_the_requests(page, api):
    api.endless = True
    open_with(page, "support@3")
    page.type("#play-prompt", "Go on")
    page.click("#play-go")
    page.until(lambda: all("more more" in text for text in page.texts(".answer")), "words")
    assert page.find(".answer").get_attribute("aria-busy") == "true"
    assert page.focused() == "Stop"
    page.click("#play-stop")
    finished(page)
    assert page.text("#play-status").count("stopped") == 2
    assert page.find(".answer").get_attribute("aria-busy") == "false"
    assert "stopped" in page.text(".facts")
    page.until(
        lambda: sorted(api.left) == sorted([BACKBONE, "support@3"]), "the requests to be cancelled"
    )


def test_sliders_set_the_weights_of_a_blend(page, api):
    open_with(page, "support@3")
    page.click(".column header button[aria-label^=Blend]")
    choose(page, 0, "tone-friendly@1", part=1)
    assert page.text(".formula") == "support@3*0.5+tone-friendly@1*0.5"
    sliders = page.all(".part input[type=range]")
    # four steps to the right, four to the left
    sliders[0].send_keys(*["\ue014"] * 4)
    sliders[1].send_keys(*["\ue012"] * 4)
    assert page.text(".formula") == "support@3*0.7+tone-friendly@1*0.3"
    answer(page)
    assert {body["model"] for body in api.sent(CHAT)} == {
        BACKBONE, "support@3*0.7+tone-friendly@1*0.3"
    }  # fmt: skip


def test_a_blend_without_weight_is_not_sent(page, api):
    open_with(page, "support@3")
    page.find(".part input[type=range]").send_keys("\ue011")
    assert "above 0" in page.text(".formula")
    page.type("#play-prompt", "Hello")
    page.click("#play-go")
    page.until(lambda: "needs a weight" in page.text("#play-status"), "the reason")
    assert api.calls == []


def test_settings_are_sent(page, api):
    open_with(page, "support@3")
    page.click(".more summary")
    page.type("#play-system", "Be brief")
    page.type("#play-max", "12")
    page.type("#play-temperature", "0.3")
    page.type("#play-seed", "7")
    answer(page)
    body = api.sent(CHAT)[0]
    assert (body["max_tokens"], body["temperature"], body["seed"]) == (12, 0.3, 7)
    assert body["messages"][0] == {"role": "system", "content": "Be brief"}
    page.run("document.querySelector('#play-form-kind').value = 'text'")
    page.click("#play-go")
    page.until(lambda: len(api.sent("/v1/completions")) == 2, "plain text")
    assert api.sent("/v1/completions")[0]["prompt"] == "Where is it?"


def test_the_playground_works_with_the_keyboard_alone(page, api):
    page.open()
    page.tab_to("Playground")
    page.keys("\ue007")
    page.until(lambda: page.find("#play-prompt").is_displayed(), "the playground")
    page.tab_to("Prompt")
    page.keys("Where is my parcel?")
    page.tab_to("Seed")
    page.keys("5")
    page.tab_to("Add a column")
    page.keys("\ue007")
    page.tab_to("Weight of support@2")
    page.keys(*["\ue012"] * 10)
    page.chord("\ue009", "\ue007")
    finished(page)
    models = sorted(body["model"] for body in api.sent(CHAT))
    assert models == sorted([BACKBONE, "support@3", "support@2*0.5"])
    assert {body["seed"] for body in api.sent(CHAT)} == {5}
    api.endless = True
    page.tab_to("Generate")
    page.keys(" ")
    page.until(lambda: all("more" in text for text in page.texts(".answer")), "words")
    page.keys("\ue00c")
    page.until(lambda: page.text("#play-status").count("stopped") == 3, "the end")


def test_the_focus_is_visible(page):
    page.open("playground")
    for name in ("Playground", "Prompt", "Max tokens", "Generate", "Add a column", "Adapter"):
        page.tab_to(name)
        style, width = page.run(
            "const s = getComputedStyle(document.activeElement);"
            "return [s.outlineStyle, parseFloat(s.outlineWidth)]"
        )
        assert style == "solid", name
        assert width >= 2, name


def test_output_of_a_model_is_never_markup(page, api):
    evil = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    api.texts[BACKBONE] = [evil, "\u2028</p>", "🚀"]
    open_with(page, "support@3")
    answer(page)
    assert evil + "\u2028</p>🚀" in page.text(".answer")
    assert not page.all("img[src='x']")
    assert "owned" not in page.driver.title


def test_one_column_fails_and_the_others_answer(page, api):
    open_with(page, "support@3")
    api.errors[CHAT] = (429, "The queue is full", {"Retry-After": "3"})
    page.expect("429")
    answer(page)
    assert page.text("#play-status").count("failed") == 2
    assert "Try again in 3 seconds" in page.text(".column .notice")
    api.errors.clear()
    page.click(".column .notice button")
    page.until(lambda: f"I am {BACKBONE}." in page.text(".answer"), "the second try")
    assert not page.all(".column:first-child .notice")
    assert page.all(".column:nth-child(2) .notice")


def test_a_repeated_request_can_be_stopped(page, api):
    open_with(page, "support@3")
    api.errors[CHAT] = (429, "The queue is full", {"Retry-After": "1"})
    page.expect("429")
    answer(page)
    api.errors.clear()
    api.endless = True
    page.click(".column .notice button")
    page.until(lambda: "more" in page.text(".answer"), "words")
    assert page.focused() == "Text of the answer"
    page.click("#play-stop")
    page.until(lambda: api.left == [BACKBONE], "the request to be cancelled")
    assert page.find("#play-go").is_enabled()


def test_submitting_from_the_prompt_keeps_the_focus(page):
    open_with(page, "support@3")
    page.type("#play-prompt", "Hello")
    page.chord("\ue009", "\ue007")
    finished(page)
    assert page.focused() == "Prompt"


def test_an_adapter_is_tried_from_the_list(page):
    page.open()
    page.click("a[aria-label='Try tone-friendly@1']")
    page.until(lambda: page.find("#play-prompt").is_displayed(), "the playground")
    assert page.find(".part select").get_property("value") == "tone-friendly@1"
    assert page.focused() == "Playground"


def test_an_encoder_does_not_generate(page, api):
    api.kind = "encoder"
    page.open("playground")
    page.until(lambda: "encoder" in page.text("#play-columns"), "the reason")
    assert not page.all(".column")
    page.type("#play-prompt", "Where is it?")
    assert page.run("return document.querySelector('#play-go').disabled")
    assert page.run("return document.querySelector('#play-add').disabled")
    assert not api.sent(CHAT)


def test_adapters_are_grouped_by_backbone_and_blended_within_one(page, api):
    api.adapters = [
        adapter("support", backbone="small"),
        adapter("words", backbone="large"),
        adapter("tone", backbone="small"),
    ]
    page.open("playground")
    page.until(lambda: page.texts(".part select option"), "the picker")
    assert page.run(
        "return [...document.querySelectorAll('.part optgroup')]"
        ".map((g) => [g.label, [...g.children].map((o) => o.value)])"
    ) == [["small", ["support@1", "tone@1"]], ["large", ["words@1"]]]
    page.click(".column header button[aria-label^=Blend]")
    second = "return [...document.querySelectorAll('.part select')[1].options].map((o) => o.value)"
    assert page.run(second) == ["support@1", "tone@1"]
    # the other part is of another backbone now
    choose(page, 0, "words@1")
    assert page.run("return document.querySelectorAll('.part').length") == 1
