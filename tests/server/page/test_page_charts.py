"""Live plots and training reports in a browser."""

import pytest

CURVES = [
    {"name": "train loss", "points": [[step, 3 / step] for step in range(1, 41)]},
    {"name": "validation loss", "points": [[10, 1.2], [20, 0.8], [40, 0.7]]},
    {"name": "validation accuracy", "points": [[10, 0.6], [20, 0.8], [40, 0.9]]},
]


def test_statistics_are_polled_and_drawn(page, api):
    page.open("live")
    page.until(lambda: api.stats_requests >= 3, "three polls")
    page.until(lambda: "L" in (page.find(".plot .line").get_attribute("d") or ""), "a curve")
    tiles = page.text("#live-tiles")
    for said in ("Tokens per second", "Time to first token", "Step", "KV cache used", "184 MB"):
        assert said in tiles
    assert len(page.all("#live-charts .chart")) == 4
    assert "Throughput in tokens per second" in page.find(".plot").get_attribute("aria-label")


def test_polling_ends_when_the_view_is_left(page, api):
    page.open("live")
    page.until(lambda: api.stats_requests >= 1, "a poll")
    page.click("nav a[href='#adapters']")
    page.until(lambda: page.find("#adapters-list").is_displayed(), "the list")
    seen = api.stats_requests
    page.run("return new Promise((done) => setTimeout(done, 1500))")
    assert api.stats_requests <= seen + 1


def test_a_failed_poll_shows_an_error_and_recovers(page, api):
    api.errors["/v1/stats"] = (503, "The server drains")
    page.expect("503")
    page.open("live")
    page.until(lambda: "The server drains" in page.text("#live-notice"), "the reason")
    api.errors.clear()
    page.until(lambda: page.text("#live-notice") == "", "the recovery")


def test_a_report_has_curves_and_metric_changes(page, api):
    api.report = {"curves": CURVES, "before": {"accuracy": 0.229}, "after": {"accuracy": 0.938}}
    page.open("report?ref=topics@1")
    page.until(lambda: page.all(".chart"), "the charts")
    assert page.texts(".chart h3") == ["Before and after", "Loss", "validation accuracy"]
    assert page.texts(".chart:nth-child(2) .legend strong") == ["0.075", "0.700"]
    row = page.texts("#report-body tbody tr > *")
    assert row == ["accuracy", "0.229", "0.938", "+0.709"]


def test_points_of_a_curve_are_read_with_the_arrow_keys(page, api):
    api.report = {"curves": CURVES}
    page.open("report?ref=topics@1")
    page.until(lambda: page.all(".chart"), "the charts")
    page.run("document.querySelectorAll('.plot')[1].focus()")
    page.keys("\ue011")
    assert page.texts(".chart:last-child .legend li") == ["validation accuracy 0.600 at 10"]
    page.keys("\ue014")
    assert page.texts(".chart:last-child .legend li") == ["validation accuracy 0.800 at 20"]


def test_another_adapter_is_selected_and_a_missing_report_is_shown(page, api):
    page.open("report?ref=topics@1")
    page.until(lambda: "No training report" in page.text("#report-body"), "the empty report")
    api.report = {"after": {"perplexity": 3.57}}
    page.run("const s = document.querySelector('#report-adapter'); s.value = 'support@2';"
             "s.dispatchEvent(new Event('change'))")  # fmt: skip
    page.until(lambda: "support%402" in page.run("return location.hash"), "the address")
    page.until(lambda: "perplexity" in page.text("#report-body"), "the other report")


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [
        (0, 1, 4, [0, 0.5, 1]),
        (0, 97, 4, [0, 50]),
        (0, 4, 4, [0, 1, 2, 3, 4]),
        (-60, 0, 3, [-60, -40, -20, 0]),
    ],
)
def test_ticks_are_round(page, low, high, count, expected):
    page.open()
    assert page.module("chart.js", "ticks", low, high, count) == pytest.approx(expected)


def test_gaps_and_single_points_are_drawn(page, api):
    api.report = {"curves": [{"name": "f1", "points": [[1, 0.5], [2, None], [3, 0.7], [4, 0.8]]}]}
    page.open("report?ref=topics@1")
    page.until(lambda: page.all(".chart"), "the chart")
    path = page.find(".line").get_attribute("d")
    assert path.count("M") == 2
    assert path.count("L") == 1
    assert len(page.all(".plot circle")) == 1
