"""The docs as a site: it builds strictly, asks no other host for anything, and its search works."""

import functools
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Request, Route, async_playwright

from scripts.docs_site import SITE
from tests.support.browser import CHROMIUM, LAUNCH_ARGUMENTS
from tests.support.licences import ALLOWED, licences, locked

pytestmark = [pytest.mark.more, pytest.mark.timeout(400)]

ROOT = Path(__file__).parents[2]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Builds the site, and serves it."""
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.usefixtures("site")
def test_the_licences_of_its_tools_fit() -> None:
    installed = [str(path) for path in (ROOT / "var/docs/environment/lib").glob("python*/site-packages")]
    for package in locked("docs.txt"):
        found = licences(package, installed)
        assert found, f"{package} names no licence"
        assert found <= ALLOWED, f"{package}: {found - ALLOWED}"


@pytest.mark.parametrize("is_served", [True, False])
async def test_pages_need_no_other_host_and_search_finds_them(site: str, is_served: bool) -> None:
    """From a server, and opened as files."""
    elsewhere: list[str] = []
    root = site if is_served else SITE.as_uri()

    async def only_ours(route: Route, request: Request) -> None:
        if request.url.startswith(site) or not request.url.startswith("http"):
            await route.continue_()
        else:
            elsewhere.append(request.url)
            await route.abort()

    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH_ARGUMENTS)
        page = await browser.new_page()
        await page.route("**/*", only_ours)
        for name in ("index.html", "start.html", "reference.html", "architecture.html"):
            answer = await page.goto(f"{root}/{name}")
            assert answer is not None
            assert answer.ok, name
        await page.locator("label.md-search__icon[for=__search]").first.click(force=True)
        # Keys, because the search listens to them alone, as a person who types presses them.
        await page.locator("input.md-search__input").press_sequentially("greylisting")
        await page.locator(".md-search-result__item a").first.wait_for(timeout=120_000)
        assert "greylist" in (await page.locator(".md-search-result__list").inner_text()).lower()
        await browser.close()
    assert elsewhere == []
