"""Debian's headless Chromium, driven by Playwright. Nothing is downloaded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Error, Page, async_playwright

CHROMIUM = "/usr/bin/chromium"
LAUNCH_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
CHECKS = (Path(__file__).parent / "accessibility.js").read_text()
MAX_TABS = 200
TIMEOUT_MILLISECONDS = 20_000


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=LAUNCH_ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Person:
    """One person at a browser."""

    context: BrowserContext
    page: Page
    address: str
    #: Script errors and violations of the Content-Security-Policy.
    errors: list[str] = field(default_factory=list)

    async def go(self, path: str) -> None:
        await self.page.goto(f"{self.address}{path}")

    async def sign_in(self, key: str) -> None:
        await self.page.get_by_label("API key").fill(key)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.get_by_role("heading", name="Campaigns", exact=True).wait_for()

    async def text(self, selector: str) -> str:
        return (await self.page.locator(selector).inner_text()).strip()

    async def count(self, word: str) -> int:
        """The number beside a word in a campaign's counts."""
        value = self.page.locator("dl.counts > div").filter(has=self.page.get_by_text(word, exact=True))
        return int((await value.locator("strong").inner_text()).replace(",", ""))

    async def wait_sent(self, least: int, most: int = 2**31) -> int:
        """Waits until the page shows between `least` and `most` sent emails, without reloading it."""
        async with asyncio.timeout(TIMEOUT_MILLISECONDS / 1000):
            sent: int = await self.page.evaluate(WAIT_SENT, [least, most])
        return sent

    async def focused(self) -> str:
        """The id of the focused element."""
        focused: str = await self.page.evaluate("document.activeElement.id")
        return focused

    async def assert_accessible(self) -> None:
        """Checks names, labels, landmarks, headings and contrast, and that the Tab key reaches every control and the
        focus is visible."""
        await self.page.wait_for_load_state()
        problems = await self.page.evaluate(CHECKS)
        problems += await self._unreached()
        assert not problems, f"{self.page.url}:\n" + "\n".join(problems)

    async def _unreached(self) -> list[str]:
        await self.page.evaluate(MARK_FOCUSABLE)
        for _ in range(MAX_TABS):
            await self.page.keyboard.press("Tab")
            if await self.page.evaluate(MARK_FOCUSED):
                break
        unreached: list[str] = await self.page.evaluate(UNREACHED)
        return unreached


# Playwright's own wait_for_function needs eval, which the page's policy forbids.
WAIT_SENT = """([least, most]) => new Promise((resolve) => {
  const look = () => {
    const sent = Number(document.querySelector("dl.counts strong")?.textContent.replaceAll(",", ""));
    if (sent >= least && sent <= most) {
      observer.disconnect();
      resolve(sent);
    }
  };
  const observer = new MutationObserver(look);
  observer.observe(document.body, { childList: true, subtree: true, characterData: true });
  look();
})"""
MARK_FOCUSABLE = """() => {
  document.activeElement?.blur();
  const usable = "a[href], button, input:not([type=hidden]), textarea, summary, [tabindex='0']";
  window.toReach = [...document.querySelectorAll(usable)]
    .filter((one) => !one.disabled && one.checkVisibility());
}"""
# A live part may be replaced meanwhile. Its elements keep their ids, and htmx keeps the focus by the id.
MARK_FOCUSED = """() => {
  const now = document.activeElement;
  const style = getComputedStyle(now);
  const seenFocus = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
  for (const one of window.toReach) {
    if (one === now || (one.id && one.id === now.id)) one.seenFocus = seenFocus;
  }
  return window.toReach.every((one) => one.seenFocus !== undefined);
}"""
UNREACHED = """() => window.toReach.filter((one) => !one.seenFocus)
  .map((one) => `the keyboard does not reach, or does not show the focus of: ${one.outerHTML.slice(0, 120)}`)"""


@asynccontextmanager
async def person(browser: Browser, address: str, **options: Any) -> AsyncIterator[Person]:
    """A person without cookies. Fails at the end if the browser logged errors."""
    context = await browser.new_context(viewport={"width": 1180, "height": 800}, **options)
    context.set_default_timeout(TIMEOUT_MILLISECONDS)
    page = await context.new_page()
    user = Person(context, page, address)

    def on_console(message: ConsoleMessage) -> None:
        # A refused form is a normal answer, but browsers log its status.
        if message.type in ("error", "warning") and "status of 4" not in message.text:
            user.errors.append(f"console: {message.text}")

    def on_error(error: Error) -> None:
        user.errors.append(f"script: {error}")

    page.on("console", on_console)
    page.on("pageerror", on_error)
    await context.expose_binding("tellViolation", lambda _source, text: user.errors.append(f"policy: {text}"))
    await context.add_init_script(
        "document.addEventListener('securitypolicyviolation',"
        " (event) => tellViolation(`${event.violatedDirective} ${event.blockedURI} ${event.sourceFile}`));"
    )
    try:
        yield user
        assert not user.errors, "\n".join(user.errors)
    except Exception as error:
        error.add_note(f"at {page.url}:\n{await page.locator('body').inner_text()}\n{user.errors}")
        raise
    finally:
        await context.close()
