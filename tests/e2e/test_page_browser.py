"""The page in headless Chromium on the whole system, from the sign-in to the last retry."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser

from shared.ledger.database import Ledger
from shared.ledger.keys import list_keys, revoke_key
from shared.sign_in import make_link
from shared.signing import Use, derived_key
from tests.support.browser import Person, chromium, person
from tests.support.relay import RecordingRelay
from tests.support.system import POLL_SECONDS, System

pytestmark = pytest.mark.timeout(300)

SECRET = "a key that signs in this test alone"
RECIPIENTS = 400
BLOCKED, GONE = 12, 5
"""Recipients of each campaign that are refused by policy, and that have no mailbox."""


@pytest.fixture
def database_url(sqlite_url: str) -> str:
    return sqlite_url


@pytest.fixture
def system(system: System) -> System:
    """Small batches and a slow relay, so that progress can be watched."""
    system.settings |= {"secret_key": SECRET, "batch_size": "20", "smtp_connections": "4"}
    return system


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as browser:
        yield browser


def refuse(relay: RecordingRelay) -> None:
    """Refusals with a different text for each recipient, as relays word them."""

    def answer(rcpt: str, tries: int) -> bytes | None:
        if rcpt.startswith("blocked-"):
            return f"550 5.7.1 <{rcpt}>: rejected by policy, reference {tries}77{len(rcpt)}4711\r\n".encode()
        if rcpt.startswith("gone-"):
            return f"550 5.1.1 <{rcpt}>: no such user here\r\n".encode()
        return None

    relay.behaviour.rcpt = answer
    relay.behaviour.seconds_per_email = 0.4


def csv_file(folder: Path) -> Path:
    addresses = [f"person-{number}@example.test" for number in range(RECIPIENTS - BLOCKED - GONE)]
    addresses += [f"blocked-{number}@example.test" for number in range(BLOCKED)]
    addresses += [f"gone-{number}@example.test" for number in range(GONE)]
    path = folder / "recipients.csv"
    path.write_text("email,first_name\n" + "".join(f"{one},N{at}\n" for at, one in enumerate(addresses)) + "nobody,N\n")
    return path


async def fill_form(user: Person, file: Path) -> None:
    page = user.page
    await page.get_by_role("link", name="New campaign").click()
    await page.get_by_label("Name", exact=True).fill("Spring news")
    await page.get_by_label("From", exact=True).fill("news@example.test")
    await page.get_by_label("From, name").fill("Example News")
    await page.get_by_label("Subject").fill("Hello {{ first_name }}")
    await page.get_by_label("HTML").fill("<p>Dear {{ first_name }}, it is spring.</p>")
    await page.get_by_label("File of recipients").set_input_files(file)


async def test_a_person_imports_a_file_that_names_things_differently(
    system: System, browser: Browser, tmp_path: Path
) -> None:
    file = tmp_path / "export.csv"
    file.write_bytes('"Почта";"Имя";"VIP"\r\n"ann@example.test";"Анна";"да"\r\n'.encode("cp1251"))
    await system.start()
    async with person(browser, system.processes["api"].http_url) as user:
        page = user.page
        await user.go("/")
        await user.sign_in(system.key)
        await fill_form(user, file)
        await page.get_by_label("Reply to", exact=True).fill("answers@example.test")
        await page.get_by_label("Reply to, name").fill("Support")
        await page.get_by_label("HTML").fill("<p>Dear *|FNAME|*, {{ first_name }}.</p>")
        await page.get_by_role("button", name="Save the draft").click()
        await page.locator("#notice").get_by_text("it looks like windows-1251").wait_for()
        await page.locator("#notice").get_by_text("There are warnings about its message").wait_for()

        await page.get_by_label("File of recipients").set_input_files(file)
        await page.get_by_text("The file is unusual").click()
        await page.get_by_label("Encoding").fill("windows-1251")
        await user.assert_accessible()
        await page.get_by_role("button", name="Import").click()
        await page.locator("#notice").get_by_text("if 'Почта' holds the addresses").wait_for()

        await page.get_by_label("File of recipients").set_input_files(file)
        await page.get_by_text("The file is unusual").click()
        await page.get_by_label("Encoding").fill("windows-1251")
        await page.get_by_label("Column of the addresses").fill("Почта")
        await page.get_by_label("Other columns").fill("Имя:first_name, VIP:vip")
        await page.get_by_label("Fields that mean yes or no").fill("vip")
        await page.get_by_role("button", name="Import").click()
        await page.get_by_text("1 recipient imported").first.wait_for()
        await page.get_by_role("link", name="Message").click()
        await page.get_by_text("*|FNAME|* is not a field here").wait_for()
        await page.get_by_text("Support <answers@example.test>").wait_for()
        await user.assert_accessible()


async def test_a_person_runs_a_campaign(
    system: System, relay: RecordingRelay, browser: Browser, tmp_path: Path
) -> None:
    refuse(relay)
    await system.start()
    async with person(browser, system.processes["api"].http_url) as user:
        page = user.page
        await user.go("/")
        await user.assert_accessible()
        await user.sign_in(system.key)
        await fill_form(user, csv_file(tmp_path))
        await user.assert_accessible()
        await page.get_by_role("button", name="Save the draft").click()

        # The draft shows who was imported, who was left out, and why. Then a test email.
        await page.get_by_text(f"{RECIPIENTS} recipients imported").wait_for()
        await page.get_by_text("1 line left out").click()
        await page.get_by_role("cell", name="nobody", exact=True).wait_for()
        await page.get_by_text("Send a test…").click()
        await page.get_by_label("Addresses, at most ten").fill("me@example.test")
        await user.assert_accessible()
        await page.get_by_role("button", name="Send the test").click()
        await page.get_by_text("The test is on its way.").wait_for()
        campaign = page.url.split("?")[0].rpartition("/")[2]

        # Progress appears without reloading the page.
        await page.get_by_role("button", name="Send now").click()
        await page.get_by_role("button", name="Pause").wait_for()
        await page.evaluate("window.neverReloaded = true")
        await page.locator("#n-sent").focus()
        await user.wait_sent(await user.wait_sent(5) + 1)
        assert await user.focused() == "n-sent", "the update took the focus away"

        # Paused: the counts on the page stop changing and equal those of the relay.
        await page.get_by_role("button", name="Pause").click()
        await page.get_by_role("button", name="Resume").wait_for()
        assert await user.text(".facts .badge") == "Paused"
        await given_back(system, campaign)
        at_rest = (await system.show(campaign))["counts"]["sent"]
        assert at_rest == taken(relay) < RECIPIENTS
        await user.wait_sent(at_rest, at_rest)
        assert await user.focused() == "go", "the button took the focus away"
        await user.assert_accessible()

        relay.behaviour.seconds_per_email = 0.0
        await page.get_by_role("button", name="Resume").click()
        await page.locator(".facts .badge", has_text="Finished").wait_for()
        assert await page.evaluate("window.neverReloaded") is True
        assert await user.count("Sent") == RECIPIENTS - BLOCKED - GONE
        assert await user.count("Failed") == BLOCKED + GONE
        assert await page.locator(".chart rect.f-sent").count() > 0
        assert await page.locator(".timeline li").count() >= 6
        await user.assert_accessible()

        # Failures: one group for each kind of reply, despite different texts.
        await page.get_by_role("navigation", name="Campaign").get_by_role("link", name="Failures").click()
        groups = page.locator("article.reply")
        assert await groups.count() == 2
        assert await groups.nth(0).locator(".share strong").inner_text() == str(BLOCKED)
        assert "rejected by policy" in await groups.nth(0).inner_text()
        assert "does not exist" in await groups.nth(1).inner_text()
        assert await groups.nth(1).locator(".examples li").count() == 3
        await user.assert_accessible()

        # Retried: the policy accepts now, and people without a mailbox get no further email.
        relay.behaviour.rcpt = lambda _rcpt, _tries: None
        await page.get_by_role("button", name="Retry failed").click()
        await page.get_by_text("The failed recipients get another try.").wait_for()
        await page.locator(".facts .badge", has_text="Finished").wait_for()
        assert await user.count("Sent") == RECIPIENTS - GONE
        assert await user.count("Suppressed") == GONE

        await page.get_by_role("navigation", name="Campaign").get_by_role("link", name="Recipients").click()
        await user.assert_accessible()
        await page.get_by_role("link", name=f"Suppressed {GONE}").click()
        assert await page.locator("tbody tr").count() == GONE


async def test_suppressions_services_and_the_message_are_shown(
    system: System, browser: Browser, relay: RecordingRelay
) -> None:
    await system.start(1)
    campaign = await system.create(["ann@example.test"], html="<p>Hello <b>{{ name }}</b></p>")
    async with person(browser, system.processes["api"].http_url, color_scheme="dark") as user:
        page = user.page
        await user.go(f"/campaigns/{campaign}/message")
        await user.assert_accessible()
        await page.get_by_label("API key").fill("vs_" + "x" * 43)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("alert").get_by_text("wrong or revoked").wait_for()
        await user.assert_accessible()
        await page.get_by_label("API key").fill(system.key)
        await page.get_by_role("button", name="Sign in").click()
        await page.get_by_role("link", name="Source").click()
        await page.get_by_text("<p>Hello <b>{{ name }}</b></p>").wait_for()
        await user.assert_accessible()

        await page.get_by_role("link", name="Suppressions").click()
        await page.get_by_label("Addresses").fill("ann@example.test, bob@example.test\nwrong")
        await page.get_by_role("button", name="Add").click()
        await page.get_by_role("alert").wait_for()
        await page.get_by_label("Addresses").fill("ann@example.test, bob@example.test")
        await page.get_by_role("button", name="Add").click()
        await page.get_by_text("2 addresses added.").wait_for()
        await user.assert_accessible()
        await page.get_by_role("button", name="Remove ann@example.test").click()
        await page.get_by_text("Emails to this address are allowed again.").wait_for()
        assert await page.locator("tbody tr").count() == 1

        await page.get_by_role("link", name="Services").click()
        await page.get_by_role("rowheader", name="sender-1").wait_for()
        await page.get_by_role("rowheader", name="heartbeats").wait_for()
        await user.assert_accessible()

        await page.get_by_role("link", name="Campaigns").first.click()
        await page.get_by_role("heading", name="Campaigns", exact=True).wait_for()
        await user.assert_accessible()
        await system.create(["bob@example.test"])
        await page.get_by_text("There are newer campaigns.").wait_for()
        await page.get_by_role("button", name="Sign out").click()
        await page.get_by_role("heading", name="Sign in").wait_for()


async def test_an_operator_changes_who_may_do_what(system: System, browser: Browser) -> None:
    system.launch("api")
    await system.processes["api"].wait_ready()
    async with person(browser, system.processes["api"].http_url) as user:
        page = user.page
        await user.go("/")
        await user.sign_in(system.key)
        await page.get_by_role("link", name="Access").click()
        tabs = page.get_by_role("navigation", name="Access")
        await tabs.get_by_role("link", name="Projects").click()
        await page.get_by_label("Name", exact=True).fill("shop")
        await page.get_by_role("button", name="Create the project").click()
        await page.get_by_text("The project was created.").wait_for()
        await user.assert_accessible()

        await tabs.get_by_role("link", name="Domains and sessions").click()
        await page.get_by_label("Domain", exact=True).fill("shop.example.com")
        await page.get_by_label("Project").select_option("shop")
        await page.get_by_role("button", name="Add the domain").click()
        await page.get_by_role("rowheader", name="shop.example.com").wait_for()
        await user.assert_accessible()

        await tabs.get_by_role("link", name="Keys").click()
        await page.get_by_label("Name", exact=True).fill("website")
        await page.get_by_label("Project").select_option("shop")
        await page.get_by_label("campaigns:read").check()
        await page.get_by_role("button", name="Create the key").click()
        made = await user.text("#made")
        await user.assert_accessible()
        async with person(browser, system.processes["api"].http_url) as reader:
            await reader.go("/")
            await reader.sign_in(made)
            await page.get_by_role("button", name="Revoke website").click()
            await page.get_by_text("The key was revoked.").wait_for()
            await reader.go("/")
            await reader.page.get_by_role("heading", name="Sign in").wait_for()

        await tabs.get_by_role("link", name="Audit").click()
        await page.get_by_text("POST /access/keys/revoke").wait_for()
        await page.get_by_label("Project").select_option("shop")
        await page.get_by_role("button", name="Show").click()
        await page.get_by_text("POST /sign-in").wait_for()
        await user.assert_accessible()


async def test_without_scripts_everything_can_be_read_and_every_button_works(
    system: System, relay: RecordingRelay, browser: Browser, tmp_path: Path
) -> None:
    refuse(relay)
    await system.start()
    address = system.processes["api"].http_url
    async with person(browser, address, java_script_enabled=False) as user:
        page = user.page
        await user.go("/")
        await user.sign_in(system.key)
        await fill_form(user, csv_file(tmp_path))
        await page.get_by_role("button", name="Save the draft").click()
        await page.get_by_role("button", name="Send now").click()
        campaign = page.url.split("?")[0].rpartition("/")[2]
        await system.wait_until(campaign, lambda seen: seen["counts"]["sent"] > 0)
        await page.get_by_role("button", name="Pause").click()
        assert await user.text(".facts .badge") == "Paused"
        await page.get_by_text("Cancel…").click()
        await page.get_by_role("button", name="Cancel the campaign").click()
        await system.wait_closed(campaign)
        await page.reload()
        assert await user.text(".facts .badge") == "Cancelled"


async def test_a_link_signs_in_once_and_a_revoked_key_ends_open_sessions(system: System, browser: Browser) -> None:
    system.launch("api")
    await system.processes["api"].wait_ready()
    address = system.processes["api"].http_url
    ledger = Ledger(system.database_url, pool_size=1)
    try:
        async with ledger.read() as connection:
            link = await make_link(connection, derived_key(SECRET.encode(), Use.SIGN_IN), system.key, address)
        async with person(browser, address) as user:
            await user.page.goto(link)
            await user.page.get_by_role("heading", name="Campaigns", exact=True).wait_for()
            async with person(browser, address) as other:
                await other.page.goto(link)
                await other.page.get_by_role("alert").get_by_text("has been used").wait_for()
            async with ledger.write() as connection:
                for key in await list_keys(connection):
                    assert await revoke_key(connection, key.id)
            await user.go("/suppressions")
            await user.page.get_by_role("heading", name="Sign in").wait_for()
    finally:
        await ledger.close()


async def given_back(system: System, campaign: str) -> None:
    """Waits until no sender holds a batch of a campaign."""
    held = {"campaign_id": campaign, "state": ["sending", "released"]}
    async with asyncio.timeout(30), system.client() as client:
        while True:
            if not (await client.get("/batches", params=held)).raise_for_status().json()["data"]:
                return
            await asyncio.sleep(POLL_SECONDS)


def taken(relay: RecordingRelay) -> int:
    """Emails of the campaign that the relay accepted, without the test email."""
    return sum(1 for email in list(relay.received) if email.rcpt != "me@example.test")


LETTER = """<!doctype html><html><head><meta name="viewport" content="width=device-width">
<style>.box { background: #eef3ff; padding: 16px; font-family: sans-serif; width: 100%; box-sizing: border-box }
@media (max-width: 400px) { .wide { display: none } }
@media (prefers-color-scheme: dark) { .box { background: #102040; color: #ffffff } }</style></head>
<body><div class="box"><h1>Hello {{ name }}</h1><p class="wide">Only where there is room.</p>
<p><a href="https://example.com/">Our news</a> and many more words about them, so that this is a letter like others.</p>
<p><img src="cid:logo" alt="Logo" width="40" height="40"> <a href="{{ unsubscribe_url }}">Unsubscribe</a></p></div>
</body></html>"""
BACKGROUND = "box => getComputedStyle(box).backgroundColor"
LOGO = "R0lGODlhAQABAPAAAP8AAP///yH5BAAAAAAALAAAAAABAAEAAAICRAEAOw=="


async def test_a_message_is_seen_narrow_and_wide_light_and_dark(
    system: System, browser: Browser, relay: RecordingRelay, tmp_path: Path
) -> None:
    await system.start(1)
    logo = {"filename": "logo.gif", "content_type": "image/gif", "content": LOGO, "content_id": "logo"}
    people = ["ann@example.test", "bob@example.test"]
    campaign = await system.create(people, html=LETTER, text=None, attachments=[logo])
    async with person(browser, system.processes["api"].http_url) as user:
        page = user.page
        await user.go(f"/campaigns/{campaign}/message")
        await user.page.get_by_label("API key").fill(system.key)
        await page.get_by_role("button", name="Sign in").click()
        letter = page.frame_locator("iframe")
        await letter.get_by_role("heading", name="Hello N0").wait_for()
        await letter.get_by_text("Only where there is room.").wait_for()
        assert await letter.locator(".box").evaluate(BACKGROUND) == "rgb(238, 243, 255)"
        assert await letter.get_by_alt_text("Logo").evaluate("image => image.naturalWidth") == 1
        await user.assert_accessible()
        await page.screenshot(path=tmp_path / "wide-light.png", full_page=True)

        await page.get_by_label("Show the email to").fill("bob@example.test")
        await page.get_by_role("button", name="Show").click()
        await letter.get_by_role("heading", name="Hello N1").wait_for()
        await page.get_by_role("link", name="Narrow").click()
        await letter.get_by_role("heading", name="Hello N1").wait_for()
        assert not await letter.get_by_text("Only where there is room.").is_visible()
        await page.screenshot(path=tmp_path / "narrow-light.png", full_page=True)
        await page.get_by_role("link", name="Dark").click()
        await letter.get_by_role("heading", name="Hello N1").wait_for()
        assert await letter.locator(".box").evaluate(BACKGROUND) == "rgb(16, 32, 64)"
        await page.screenshot(path=tmp_path / "narrow-dark.png", full_page=True)
        await page.get_by_role("link", name="Text", exact=True).click()
        await page.get_by_text("[Our news](https://example.com/)").wait_for()
        await page.get_by_role("link", name="Headers").click()
        await page.get_by_text("List-Unsubscribe=One-Click").wait_for()
        await user.assert_accessible()
