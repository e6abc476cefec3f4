"""Chromium, as Debian ships it, under Playwright."""

from contextlib import contextmanager

from fleet import Clock
from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"


@contextmanager
def chromium():
    # As root there is no sandbox; what is opened comes from this machine's own fleet.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        idle = browser.new_page()
        Clock.wait = lambda seconds: idle.wait_for_timeout(1000 * seconds)
        yield browser
        browser.close()
