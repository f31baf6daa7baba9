"""A real browser without a window, and a server for it."""

import pytest
from page_api import Api, serving
from page_browser import BROWSER, DRIVER, Page, start


@pytest.fixture(scope="session")
def chromium():
    pytest.importorskip("selenium", reason="selenium is not installed")
    if not BROWSER or not DRIVER:
        pytest.skip("chromium or chromedriver is not installed (Debian: chromium chromium-driver)")
    driver = start(BROWSER, DRIVER)
    yield driver
    driver.quit()


@pytest.fixture
def api():
    with serving(Api()) as served:
        yield served


@pytest.fixture
def page(chromium, api):
    page = Page(chromium, api)
    page.fresh()
    yield page
    assert page.errors() == []
