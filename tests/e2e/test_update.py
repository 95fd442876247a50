"""An update while a campaign runs. The previous release keeps sending while this one migrates, then its processes are
replaced one by one. Nothing is lost or sent twice."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from shared.ledger import migrate
from shared.ledger.database import Ledger
from shared.scopes import Scope
from tests.support import releases
from tests.support.broker import BrokerVhost
from tests.support.relay import RecordingRelay
from tests.support.system import System
from tests.support.visitor import forms

pytestmark = [pytest.mark.more, pytest.mark.timeout(300)]

RECIPIENTS = 8_000
FEW = 20
SECONDS_PER_EMAIL = 0.1  # 160 emails/s with two senders, so that mail is left when all are replaced
OLD_SECRET, NEW_SECRET = "the secret that 0.1.0 signed its links with", "the secret that follows it in the update"
SETTINGS = {
    "batch_size": "50",
    "secret_key": OLD_SECRET,
}  # so that small campaigns soon get their share beside the large one
PATIENCE_SECONDS = 90.0
# Release 0.1.0 accepted this; today new content like it is refused, because a browser drops the cell's tag.
OLD_HTML = (
    "<td class=\"{{ name|default('you') }}\"><p>Dear {{ name|default('you') }},</p></td>"
    "<p><![CDATA[{{ name|default('you') }}]]></p>{% if name %}<b><a href='https://x.example/'>{% endif %}hello</b>"
)
VASHSENDER = ("-c", "from cli.main import main; main()")
IN_TURN = ("api", "sender-1", "dispatcher", "watchdog", "sender-2")


async def test_the_previous_release_sends_while_this_one_migrates_and_takes_over(
    empty_database_url: str, broker_vhost: BrokerVhost, relay: RecordingRelay, tmp_path: Path
) -> None:
    _, commit = releases.latest_release()
    old = await asyncio.to_thread(releases.install, commit, tmp_path / "before")
    environment = {
        "VASHSENDER_DATABASE_URL": empty_database_url,
        "VASHSENDER_AMQP_URL": broker_vhost.services_url,
        "VASHSENDER_AMQP_ADMIN_URL": broker_vhost.admin_url,
        "VASHSENDER_VAR_DIR": str(tmp_path),
    }

    async def vashsender(python: str, *arguments: str) -> str:
        return await asyncio.to_thread(_run, python, arguments, environment, tmp_path)

    await vashsender(old, "db", "upgrade")
    await vashsender(old, "topology", "declare")
    key = (await vashsender(old, "key", "create", "test")).strip()
    before = await _revision(empty_database_url)
    relay.behaviour.seconds_per_email = SECONDS_PER_EMAIL
    system = System(tmp_path, empty_database_url, broker_vhost.services_url, relay, dict(SETTINGS), key=key, python=old)
    try:
        await system.start()
        campaign = await system.create(RECIPIENTS, text=None, html=OLD_HTML)
        await system.send(campaign)
        draft = await system.create([f"draft-{number}@example.test" for number in range(FEW)], text=None, html=OLD_HTML)
        await _goes_on(system, campaign)

        await vashsender(sys.executable, "db", "upgrade")
        await vashsender(sys.executable, "topology", "declare")
        assert await _revision(empty_database_url) == migrate.head() != before, "nothing was migrated"
        await _goes_on(system, campaign)
        few = await _from_first_to_last(system, "old")
        # What people and programs of the previous release hold.
        second_key = (await vashsender(old, "key", "create", "second")).strip()
        cookie = await _signed_in(system)
        link = await _old_link(old, system, few)

        system.python = sys.executable
        system.settings["secret_key"] = f"{NEW_SECRET},{OLD_SECRET}"
        for name in IN_TURN:
            await system.processes[name].stop_cleanly()
            await system.launch(name.partition("-")[0], name).wait_ready()
            if name == "sender-1":
                await _from_first_to_last(system, "mixed")
        await _goes_on(system, campaign)
        assert (await system.show(campaign))["counts"]["pending"] > 0, "it was over before everything was replaced"

        await _no_one_is_locked_out(system, [key, second_key], cookie, link)
        owned = json.loads(await vashsender(sys.executable, "domain", "list", "--json"))
        assert [(one["name"], one["project"]) for one in owned] == [("example.test", "default")]

        await _import_more(system, draft)
        await system.send(draft)
        assert (await system.wait_closed(draft, PATIENCE_SECONDS))["counts"]["sent"] == FEW + 1

        relay.behaviour.seconds_per_email = 0.0
        assert (await system.wait_closed(campaign, PATIENCE_SECONDS))["status"] == "finished"
        account = await system.reconcile(campaign)
    finally:
        await asyncio.to_thread(system.kill_all)
    assert account.counts["sent"] == account.counts["total"] == RECIPIENTS
    assert (account.lost, account.duplicated) == (0, 0)
    assert account.unrecorded == 3 * FEW + 1, "what the relay has besides is the small campaigns' mail"


async def _signed_in(system: System) -> dict[str, str]:
    """The cookies of a person who has signed in to the page."""
    async with httpx.AsyncClient(base_url=system.processes["api"].http_url, trust_env=False) as client:
        form = forms((await client.get("/sign-in")).text)["/sign-in"]
        answer = await client.post("/sign-in", data={**form, "key": system.key})
        assert answer.status_code == 303, answer.text
        return dict(client.cookies)


async def _old_link(python: str, system: System, campaign: str) -> str:
    """The path of the unsubscribe link of a campaign's first recipient, as the previous release signs it."""
    async with system.client() as client:
        found = (await client.get(f"/campaigns/{campaign}/recipients", params={"limit": 1})).raise_for_status().json()
    code = (
        "import sys, uuid; from shared.unsubscribe import make_token;"
        " print(make_token(sys.argv[1].encode(), uuid.UUID(sys.argv[2]), int(sys.argv[3])))"
    )
    command = [python, "-c", code, OLD_SECRET, campaign, str(found["data"][0]["id"])]
    made = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    return f"/u/{made.stdout.strip()}"


async def _no_one_is_locked_out(system: System, api_keys: list[str], cookie: dict[str, str], link: str) -> None:
    """Keys of the previous release have every scope, its links work, and its cookies lead to the sign-in."""
    async with httpx.AsyncClient(base_url=system.processes["api"].http_url, trust_env=False) as client:
        for key in api_keys:
            headers = {"Authorization": f"Bearer {key}"}
            for path in ("/v1/campaigns", "/v1/suppressions", "/v1/services", "/v1/keys", "/v1/projects"):
                answer = await client.get(path, headers=headers)
                assert answer.status_code == 200, f"{path}: {answer.text}"
            shown = (await client.get("/v1/keys", headers=headers)).json()["data"]
            assert {tuple(one["scopes"]) for one in shown} == {tuple(sorted(Scope))}
        assert (await client.get(link)).status_code == 200
        assert (await client.post(link, data={"List-Unsubscribe": "One-Click"})).status_code == 200
        found = await client.get("/v1/suppressions", params={"email": "old-0@example.test"}, headers=headers)
        assert [one["reason"] for one in found.json()["data"]] == ["unsubscribed"]
        client.cookies.update(cookie)
        page = await client.get("/")
        assert (page.status_code, page.headers["location"]) == (303, "/sign-in")
    assert await _signed_in(system)


async def _goes_on(system: System, campaign: str, emails: int = 50) -> None:
    """Waits until mail flows and is recorded."""
    sent = (await system.show(campaign))["counts"]["sent"]
    await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] >= sent + emails, PATIENCE_SECONDS)


async def _from_first_to_last(system: System, name: str) -> str:
    """Runs a small campaign to its end on the current processes; returns its id."""
    campaign = await system.create([f"{name}-{number}@example.test" for number in range(FEW)])
    await system.send(campaign)
    answer = await system.wait_closed(campaign, PATIENCE_SECONDS)
    assert (answer["status"], answer["counts"]["sent"]) == ("finished", FEW)
    return campaign


async def _import_more(system: System, campaign: str) -> None:
    """Imports one more recipient into a draft of the previous release."""
    async with system.client() as client:
        path, headers = f"/campaigns/{campaign}/recipients", {"Content-Type": "text/csv"}
        response = await client.post(path, content="email,name\nlate@example.test,Ann\n", headers=headers)
    assert response.is_success, response.text


async def _revision(url: str) -> str | None:
    ledger = Ledger(url, pool_size=1)
    try:
        async with ledger.read() as connection:
            return await migrate.current(connection)
    finally:
        await ledger.close()


def _run(python: str, arguments: tuple[str, ...], environment: Mapping[str, str], folder: Path) -> str:
    done = subprocess.run(
        [python, *VASHSENDER, *arguments],
        env=dict(environment),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"vashsender {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout
