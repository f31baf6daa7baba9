"""The list of adapters in a browser, and what can be done with them."""

from page_api import adapter
from page_browser import PHONE


def button(page, name):
    return page.find(f"button[aria-label='{name}']")


def test_adapters_are_listed_with_their_metrics(page):
    page.open()
    row = page.text("[data-ref='topics@1']")
    for said in ("topics@1", "prod", "text-classification", "0.938", "accuracy", "9.94 MB",
                 "lora, rank 8", "device"):  # fmt: skip
        assert said in row
    assert "pinned" in page.text("[data-ref='support@3']")
    assert "remote" in page.text("[data-ref='legal/summaries@4']")
    assert page.text("#adapters-summary") == "6 versions, 2 on the device"
    assert page.text("#connection") == "smollm2-135m-instruct"


def test_a_tagger_is_listed_with_its_entity_types(page):
    page.open()
    assert "LOC, PER" in page.texts("[data-ref='entities@2'] .muted")


def test_the_filter_takes_words_and_a_task(page):
    page.open()
    page.type("#adapters-filter", "support prod")
    assert page.texts(".adapter-name > .mono") == ["support@3"]
    page.type("#adapters-filter", "nothing like it")
    assert "No matches" in page.text("#adapters-list")
    page.click("#adapters-list button")
    assert len(page.all("#adapters-list tbody tr")) == 6
    page.run("const s = document.querySelector('#adapters-task'); s.value = 'token-classification';"
             "s.dispatchEvent(new Event('change'))")  # fmt: skip
    assert page.texts(".adapter-name > .mono") == ["entities@2"]


def test_an_adapter_is_loaded_pinned_and_unloaded(page, api):
    page.open()
    button(page, "Load entities@2").click()
    page.until(lambda: page.all("[aria-label='Unload entities@2']"), "the adapter to be loaded")
    assert api.sent("/v1/adapters/load") == [{"ref": "entities@2"}]
    assert page.text("#toast") == "entities@2 is loaded"
    assert page.focused() == "Unload entities@2"
    button(page, "Pin entities@2").click()
    page.until(lambda: page.all("[aria-label='Unpin entities@2']"), "the pin")
    assert api.sent("/v1/adapters/pin") == [{"ref": "entities@2", "pinned": True}]
    button(page, "Unload entities@2").click()
    page.until(lambda: page.all("[aria-label='Load entities@2']"), "the adapter to be gone")
    assert api.sent("/v1/adapters/unload") == [{"name": "entities@2"}]


def test_an_alias_is_set_with_a_reason(page, api):
    page.open()
    button(page, "Alias support@2").click()
    assert page.focused() == "Alias"
    page.keys("canary", "\ue004", "tried for a week", "\ue007")
    page.until(lambda: api.sent("/v1/adapters/alias"), "the alias to be sent")
    assert api.sent("/v1/adapters/alias") == [
        {"ref": "support@2", "alias": "canary", "why": "tried for a week"}
    ]
    page.until(lambda: "canary" in page.text("[data-ref='support@2']"), "the alias to be listed")
    assert page.focused() == "Alias support@2"


def test_a_rejected_alias_shows_the_reason_and_stays_open(page, api):
    api.errors["/v1/adapters/alias"] = (409, "The gate of 'prod' asks for accuracy 0.9")
    page.expect("409")
    page.open()
    button(page, "Alias support@2").click()
    page.keys("prod", "\ue007")
    page.until(lambda: page.text("#alias-error"), "the reason")
    assert "The gate of 'prod' asks for accuracy 0.9" in page.text("#alias-error")
    assert page.find("#alias-dialog").is_displayed()
    page.keys("\ue00c")
    assert not page.find("#alias-dialog").is_displayed()


def test_a_reference_is_loaded_under_another_name(page, api):
    page.open()
    page.click("#load-other")
    page.keys("support@2", "\ue004", "old", "\ue007")
    page.until(lambda: "as old" in page.text("[data-ref='support@2']"), "the name")
    assert api.sent("/v1/adapters/load") == [{"ref": "support@2", "name": "old"}]


def test_the_role_use_sees_why_the_buttons_are_disabled(page, api):
    api.role = "use"
    page.open()
    assert "role manage" in page.find("#role-note").text
    load = button(page, "Load entities@2")
    assert load.get_attribute("aria-disabled") == "true"
    assert load.get_attribute("aria-describedby") == "role-note"
    for name in ("Load entities@2", "Pin entities@2", "Alias entities@2"):
        button(page, name).click()
    page.click("#load-other")
    assert api.calls == []
    assert not page.all("dialog[open]")


def test_without_adapters_the_page_says_how_to_get_some(page, api):
    api.adapters = []
    page.open()
    assert "adapterhub train" in page.text("#adapters-list")
    page.open("label")
    assert "text-classification" in page.text("#label-choices")
    assert not page.find("#label-go").is_enabled()
    page.open("report")
    assert "adapterhub train" in page.text("#report-body")
    page.open("playground")
    assert "No adapter that generates text" in page.text("#play-columns")


def test_a_task_without_a_view_is_listed_and_not_offered_to_try(page, api):
    api.adapters.append(adapter("answers", 1, "question-answering"))
    page.open()
    assert page.all("[aria-label='Report answers@1']")
    assert not page.all("[aria-label='Try answers@1']")
    page.open("playground")
    assert "answers@1" not in page.text(".picker")


def test_names_and_labels_are_never_markup(page, api):
    evil = "<img src=x onerror=\"document.title='owned'\">"
    api.adapters = [
        adapter(evil, 1, task=f"<script>{evil}</script>", aliases=[evil], labels=[evil],
                metrics={evil: 0.5}, method=evil, loaded_as=[evil]),
        adapter(evil, 2, "text-classification"),
    ]  # fmt: skip
    api.scores = {evil: 1.0}
    for view in ("adapters", "playground", "live", "report", "label"):
        page.open(view)
        assert not page.all("img[src='x']"), view
    page.type("#label-text", evil)
    page.click("#label-go")
    page.until(lambda: page.all(".result"), "the labels")
    assert evil in page.text("#label-results")
    assert not page.all("img[src='x']")
    assert "owned" not in page.driver.title


def test_the_list_fits_the_width_of_a_phone(page, api):
    api.adapters.append(adapter("a" * 90 + "/" + "b" * 90, 999_999_999, aliases=["c" * 90]))
    page.size(PHONE)
    page.open()
    assert page.overflow() == []
