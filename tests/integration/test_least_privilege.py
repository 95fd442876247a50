"""Every service has its own account with the least rights: everything works, and nothing else is allowed."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

import aio_pika
import aiormq.exceptions
import asyncpg
import httpx
import pytest
from aio_pika.abc import AbstractConnection, AbstractQueue
from sqlalchemy import insert, select
from sqlmodel import col

from cli.access_files import Servers, write
from cli.access_rights import CONSUMES, PUBLISHER, SERVICES
from cli.local.broker import PrivateBroker
from cli.local.ports import free_port
from cli.local.postgres import PrivatePostgres
from shared import topology
from shared.email_tokens import TokenMaker
from shared.feedback.meaning import Found, Kind
from shared.ledger import batches, migrate, report_people, reports, rollups
from shared.ledger.counts import counts
from shared.ledger.database import Ledger
from shared.ledger.models import DEFAULT_PROJECT, Batch, Recipient, Rollup
from shared.ledger.outbox_tables import EventStream
from shared.ledger.reports import Incoming
from shared.ledger.rights import HOUSEKEEPING
from shared.ledger.rollups import roll_up
from shared.reception import PUBLISHES
from shared.settings import CommonSettings
from shared.unsubscribe import make_token
from tests.support.access import Accounts, accounts, apply
from tests.support.ledger import add_campaign
from tests.support.relay import RecordingRelay
from tests.support.seeds import seed_campaign
from tests.support.system import System, installation

RECIPIENTS = 160
REFUSALS = ("permission denied", "ACCESS_REFUSED", "job.failed", "tick.failed", "InsufficientPrivilege")


@pytest.fixture
def made(tmp_path: Path, broker: PrivateBroker, own_postgres: PrivatePostgres) -> Iterator[Accounts]:
    with accounts(tmp_path / "access", broker, own_postgres) as made:
        yield made


@pytest.fixture
async def system(tmp_path: Path, made: Accounts, relay: RecordingRelay) -> AsyncIterator[System]:
    quick = {"lease_seconds": "3", "renew_seconds": "1", "look_seconds": "0.2", "heartbeat_seconds": "1"}
    async with installation(tmp_path, made.owner_url, made.admin_url, "", relay, sweep_seconds="2", **quick) as system:
        system.service_settings = made.service_settings()
        system.service_settings["api"]["secret_key"] = (made.folder / "secret_key").read_text()
        system.service_settings["sender"]["unsubscribe_key"] = (made.folder / "unsubscribe_key").read_text()
        system.service_settings["sender"]["smtp_connections"] = "2"
        system.service_settings["dispatcher"]["batch_size"] = "20"
        system.service_settings["webhooks"]["webhook_networks"] = "127.0.0.1/32"
        yield system


@pytest.mark.more
async def test_campaigns_run_on_least_rights_through_a_killed_sender_and_a_new_password(
    system: System, relay: RecordingRelay, made: Accounts, broker: PrivateBroker, own_postgres: PrivatePostgres
) -> None:
    relay.behaviour.rcpt = _rcpt
    relay.behaviour.seconds_per_email = 0.02
    await system.start()
    await system.launch("webhooks").wait_ready()
    webhook = await system.post("/webhooks", {"url": f"http://127.0.0.1:{free_port()}/"})
    campaign = await system.create(RECIPIENTS, retry_delay_seconds=1)
    await system.send(campaign)
    await system.wait_until(campaign, lambda answer: answer["counts"]["sent"] > 20)
    await system.post(f"/campaigns/{campaign}/pause")
    await system.wait_until(campaign, lambda answer: answer["status"] == "paused")
    relay.behaviour.seconds_per_email = 2.0  # the batch that `sender-1` holds must outlast the kill
    await system.post(f"/campaigns/{campaign}/resume")
    await _holds_pending(system, "sender-1")
    system.processes["sender-1"].kill()
    relay.behaviour.seconds_per_email = 0.02
    old = made.database_url("sender")
    write(made.folder, Servers(), ["sender"])
    apply(made, broker, own_postgres)
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(old)
    # Open connections stay. New ones use the new password.
    system.service_settings["sender"] |= made.service_settings()["sender"]
    await system.launch("sender", "sender-3").wait_ready()
    answer = await system.wait_closed(campaign, 90)
    assert (answer["status"], answer["counts"]["sent"], answer["counts"]["failed"]) == ("finished", RECIPIENTS - 1, 1)
    assert answer["rescued"] >= 1
    account = await system.reconcile(campaign)
    assert (account.lost, account.unrecorded) == (0, 0)
    assert account.duplicated <= 2 + 64

    # A sender suppressed the bounced address.
    await system.post(f"/campaigns/{campaign}/retry-failed")
    again = await system.wait_until(campaign, lambda answer: answer["counts"]["suppressed"] == 1)
    await system.wait_closed(campaign)
    assert again["counts"]["failed"] == 0

    relay.behaviour.seconds_per_email = 0.0
    await _unsubscribe(system, campaign, (made.folder / "unsubscribe_key").read_text().encode())
    limited = await system.create(5, emails_per_second=20, delivery="at_most_once")
    await system.send(limited)
    closed = await system.wait_closed(limited)
    assert (closed["counts"]["sent"], closed["counts"]["suppressed"]) == (3, 2)
    await _refuse_everyone(system, relay)
    await _erase(system, "person-1@example.test")
    await _look_around(system)
    await _cancel_and_delete(system, relay)
    await _has_tried(system, webhook["id"])
    looked = await asyncio.to_thread(_health_check, made)
    assert looked.returncode == 0, looked.stdout + looked.stderr
    await asyncio.gather(*(process.stop() for process in system.processes.values() if process.is_running))
    said = "\n".join(process.log_text() for process in system.processes.values())
    assert not [line for line in said.splitlines() if any(word in line for word in REFUSALS)]


async def _has_tried(system: System, webhook: str) -> None:
    """Events are written and placed, and the service webhooks has tried to deliver them."""
    async with asyncio.timeout(60), system.client() as client:
        while True:
            shown = (await client.get(f"/webhooks/{webhook}")).raise_for_status().json()
            if shown["last_error"] and shown["behind"] > RECIPIENTS:
                return
            await asyncio.sleep(0.05)


def _rcpt(rcpt: str, tries: int) -> bytes | None:
    if rcpt.startswith("person-0@"):
        return b"550 5.1.1 no such mailbox\r\n"
    if rcpt.startswith("person-1@") and tries == 0:
        return b"451 4.2.0 later\r\n"
    return None


async def _refuse_everyone(system: System, relay: RecordingRelay) -> None:
    """A breaker pauses a campaign, doubts its suppressions, and a person has them deleted."""
    relay.behaviour.rcpt = lambda _rcpt, _tries: b"550 5.1.1 User unknown\r\n"
    campaign = await system.create(f"other-{number}@domain-{number % 10}.test" for number in range(200))
    await system.send(campaign)
    await system.wait_until(campaign, lambda answer: answer["breaker"] == "relay")
    relay.behaviour.rcpt = lambda _rcpt, _tries: None
    await system.resume_refused(campaign, "retry")
    assert (await system.wait_closed(campaign))["counts"]["sent"] == 200


async def _holds_pending(system: System, slot: str) -> None:
    """Waits until a sender holds a batch that it cannot finish within some seconds."""
    async with asyncio.timeout(60), system.client() as client:
        while True:
            batches = (await client.get("/batches", params={"state": "sending"})).raise_for_status().json()["data"]
            if any(batch["owner"].startswith(f"{slot}@") and batch["counts"]["pending"] > 5 for batch in batches):
                return
            await asyncio.sleep(0.05)


async def _unsubscribe(system: System, campaign: str, key: bytes) -> None:
    async with system.client() as client:
        rows = (await client.get(f"/campaigns/{campaign}/recipients")).raise_for_status().json()["data"]
        person = next(row for row in rows if row["email"].startswith("person-2@"))
        token = make_token(key, UUID(campaign), person["id"])
        url = f"{system.processes['api'].http_url}/u/{token}"
        (await client.post(url, data={"List-Unsubscribe": "One-Click"})).raise_for_status()
        listed = (await client.get("/suppressions")).raise_for_status().json()["data"]
    assert {row["reason"] for row in listed} == {"bounced", "unsubscribed"}


async def _erase(system: System, email: str) -> None:
    """A person, who is not imported again."""
    await system.erase(email)
    again = await system.create([email, "other@example.test"])
    assert (await system.show(again))["counts"]["total"] == 1


async def _look_around(system: System) -> None:
    """The views of people, autoscalers and probes."""
    async with system.client() as client:
        services = (await client.get("/services")).raise_for_status().json()["data"]
        queues = (await client.get("/queues")).raise_for_status().json()["data"]
        (await client.get("/batches")).raise_for_status()
    assert {row["service"] for row in services} == set(SERVICES) - {"feedback"}  # it was not started
    assert all(queue["exists"] for queue in queues)
    assert {queue["name"] for queue in queues if queue["consumers"]} == {"campaigns", "default", "email", "heartbeats"}
    assert await system.processes["watchdog"].metric('vashsender_queue_consumers{queue="email"}') >= 1
    assert await system.processes["dispatcher"].metric("vashsender_database_writable") == 1
    for name in ("api", "dispatcher", "watchdog", "sender-2"):
        await system.processes[name].wait_ready()


async def _cancel_and_delete(system: System, relay: RecordingRelay) -> None:
    relay.behaviour.seconds_per_email = 0.2
    long = await system.create(f"someone-{number}@example.test" for number in range(200))
    await system.send(long)
    await system.wait_until(long, lambda answer: answer["counts"]["sent"] > 0)
    await system.post(f"/campaigns/{long}/cancel")
    closed = await system.wait_closed(long)
    assert closed["status"] == "cancelled"
    draft = await system.create(3)
    async with system.client() as client:
        (await client.delete(f"/campaigns/{draft}")).raise_for_status()
        (await client.delete("/suppressions", params={"email": "person-2@example.test"})).raise_for_status()


def _health_check(made: Accounts) -> "subprocess.CompletedProcess[str]":
    """health-check with the watchdog's rights in the database. --fix runs one sweep."""
    settings = {
        "VASHSENDER_DATABASE_URL": made.database_url("watchdog"),
        "VASHSENDER_AMQP_URL": made.amqp_url("watchdog"),
    }
    command = [str(Path(sys.executable).with_name("vashsender")), "health-check", "--fix"]
    return subprocess.run(command, env=settings, cwd=made.folder, capture_output=True, text=True, check=False)


INTO_CAMPAIGN = "INSERT INTO campaign (id, project_id, name) VALUES (gen_random_uuid(), gen_random_uuid(), 'mine')"

FORBIDDEN_SQL = (
    ("api", "UPDATE recipient SET sent_at = 1"),
    ("api", "UPDATE recipient SET attempts = 0"),
    ("api", "UPDATE batch SET generation = 1"),
    ("api", "UPDATE batch SET state = 'done'"),
    ("api", "DELETE FROM batch"),
    ("api", "UPDATE api_key SET scopes = 'operator'"),
    ("api", "UPDATE audit_entry SET result = 'done'"),
    ("api", "DELETE FROM timeline"),
    ("api", "DELETE FROM forgotten_people"),
    *((service, "SELECT * FROM forgotten_campaign") for service in SERVICES if service != "api"),
    *((service, "SELECT * FROM forgotten_people") for service in SERVICES if service not in ("api", "feedback")),
    ("dispatcher", "SELECT email FROM recipient"),
    ("dispatcher", "SELECT data FROM recipient"),
    ("dispatcher", "SELECT content FROM campaign"),
    ("dispatcher", "INSERT INTO recipient (campaign_id, email, email_key) VALUES (gen_random_uuid(), 'a', 'a')"),
    ("dispatcher", "DELETE FROM recipient"),
    ("dispatcher", "SELECT * FROM api_key"),
    ("dispatcher", "SELECT * FROM suppression"),
    ("sender", INTO_CAMPAIGN),
    ("sender", "UPDATE campaign SET content = '{}'"),
    ("sender", "UPDATE recipient SET email = 'elsewhere@example.test'"),
    ("sender", "INSERT INTO recipient (campaign_id, email, email_key) VALUES (gen_random_uuid(), 'a', 'a')"),
    ("sender", "DELETE FROM suppression"),
    ("sender", "DELETE FROM batch"),
    ("sender", "SELECT * FROM api_key"),
    ("sender", "DELETE FROM rate_limit"),
    ("dispatcher", "UPDATE rate_limit SET emails_per_second = 1e9"),
    ("api", "SELECT secret FROM webhook_secret"),
    ("api", "UPDATE webhook_secret SET secret = 'mine'"),
    ("api", "DELETE FROM outbox"),
    *((service, "SELECT secret FROM webhook_secret") for service in ("dispatcher", "sender", "watchdog")),
    ("sender", "SELECT facts FROM outbox"),
    ("dispatcher", "SELECT facts FROM outbox"),
    ("webhooks", "SELECT data FROM recipient"),
    ("webhooks", "SELECT * FROM campaign"),
    ("webhooks", "SELECT * FROM api_key"),
    ("webhooks", "UPDATE webhook_endpoint SET url = 'https://elsewhere.test'"),
    ("webhooks", "DELETE FROM outbox"),
    ("watchdog", "SELECT email FROM recipient"),
    ("watchdog", "SELECT data FROM recipient"),
    ("watchdog", "UPDATE recipient SET status = 'sent'"),
    ("watchdog", "UPDATE campaign SET status = 'finished'"),
    ("watchdog", "SELECT content FROM campaign"),
    ("watchdog", "SELECT * FROM api_key"),
    *((service, "SELECT * FROM audit_entry") for service in SERVICES if service != "api"),
    *((service, "DELETE FROM audit_entry") for service in SERVICES),
    *((service, "SELECT * FROM page_session") for service in SERVICES if service != "api"),
    *(("housekeeping", f"SELECT * FROM {table}") for table in ("api_key", "campaign", "recipient", "audit_entry")),
    ("housekeeping", "UPDATE audit_entry SET result = 'done'"),
    ("housekeeping", "INSERT INTO audit_entry (at) VALUES (0)"),
    *((service, "DROP TABLE recipient") for service in SERVICES),
    *((service, "TRUNCATE recipient CASCADE") for service in SERVICES),
    *((service, "CREATE TABLE public.mine (id int)") for service in SERVICES),
    *((service, "CREATE TEMPORARY TABLE mine (id int)") for service in SERVICES),
    *((service, "UPDATE alembic_version SET version_num = 'x'") for service in SERVICES),
    *((service, "CREATE ROLE mine") for service in SERVICES),
)


async def test_each_role_is_refused_everything_else_in_the_database(made: Accounts) -> None:
    for service in (*SERVICES, HOUSEKEEPING):
        connection = await asyncpg.connect(made.database_url(service))
        try:
            assert await connection.fetchval("SELECT version_num FROM alembic_version") == migrate.head()
            for statement in (statement for role, statement in FORBIDDEN_SQL if role == service):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.close()


async def test_rights_are_the_same_after_every_migration(made: Accounts) -> None:
    """A migration reverts rights granted or revoked by hand, in its own transaction."""
    ledger = Ledger(made.owner_url, pool_size=1)
    try:
        before = await _acl(ledger)
        async with ledger.write() as connection:
            await connection.exec_driver_sql("GRANT DELETE ON recipient TO vashsender_sender")
            await connection.exec_driver_sql("REVOKE SELECT ON batch FROM vashsender_sender")
        assert await _acl(ledger) != before
        await asyncio.to_thread(migrate.upgrade, made.owner_url)
        assert await _acl(ledger) == before
    finally:
        await ledger.close()


async def _acl(ledger: Ledger) -> list[str]:
    async with ledger.read() as connection:
        rows = await connection.exec_driver_sql(
            "SELECT table_name, column_name, grantee, privilege_type FROM information_schema.column_privileges "
            "UNION SELECT table_name, '', grantee, privilege_type FROM information_schema.table_privileges"
        )
        return sorted(str(tuple(row)) for row in rows if row.grantee.startswith("vashsender_"))


KEYS = {key for queue in topology.QUEUES for key in queue.routing_keys} | {topology.REFUSED_KEY}


async def test_each_account_is_refused_everything_else_on_the_broker(made: Accounts) -> None:
    await topology.declare(made.admin_url)
    queues = [queue.name for queue in topology.QUEUES] + [topology.DEAD]
    for service in SERVICES:
        async with await aio_pika.connect(made.amqp_url(service)) as connection:
            own = {event.ROUTING_KEY for event in PUBLISHES[service]}
            own |= {topology.REFUSED_KEY} if service == "watchdog" else set()
            for key in own:
                await _publish(connection, topology.EXCHANGE, key)
            for key in KEYS - own:
                with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                    await _publish(connection, topology.EXCHANGE, key)
            if service == PUBLISHER:
                await _publish(connection, topology.EVENTS_EXCHANGE, f"{DEFAULT_PROJECT}.recipient.sent")
            else:
                with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                    await _publish(connection, topology.EVENTS_EXCHANGE, f"{DEFAULT_PROJECT}.recipient.sent")
            for exchange, key in (("", "email"), (topology.DEAD_EXCHANGE, "x"), ("amq.topic", "batch.released")):
                with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                    await _publish(connection, exchange, key)
            for name in queues:
                if name in CONSUMES[service]:
                    await _consume(await _queue(connection, name))
                    continue
                for act in (_get, _consume):
                    with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                        await act(await _queue(connection, name))
            for name in queues:
                for act in (_delete, _bind):
                    with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                        await act(await _queue(connection, name))
            for name in (topology.EMAIL, "mine"):
                with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                    await (await connection.channel()).declare_queue(name, durable=True)
            with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                await (await connection.channel()).declare_exchange("mine")
    async with await aio_pika.connect(made.admin_url) as connection:
        with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
            await (await connection.channel()).declare_queue("mine", durable=True)


async def _publish(connection: AbstractConnection, exchange: str, key: str) -> None:
    channel = await connection.channel()
    target = await channel.get_exchange(exchange, ensure=False) if exchange else channel.default_exchange
    await target.publish(aio_pika.Message(b"{}"), key, mandatory=False)


async def _queue(connection: AbstractConnection, name: str) -> AbstractQueue:
    return await (await connection.channel()).get_queue(name, ensure=False)


async def _get(queue: AbstractQueue) -> None:
    await queue.get(fail=False)


async def _consume(queue: AbstractQueue) -> None:
    async def take(_message: object) -> None:
        pass

    await queue.consume(take)


async def _delete(queue: AbstractQueue) -> None:
    await queue.delete(if_unused=False, if_empty=False)


async def _bind(queue: AbstractQueue) -> None:
    await queue.bind(topology.EXCHANGE, "batch.released")


async def test_the_monitor_sees_only_depths(made: Accounts, broker: PrivateBroker) -> None:
    await topology.declare(made.admin_url)
    address = urlsplit((made.folder / "monitor_management_url").read_text())
    user, vhost = f"{made.prefix}_monitor", made.prefix
    async with httpx.AsyncClient(
        base_url=f"{broker.management_url}/api", auth=(user, address.password or ""), trust_env=False
    ) as client:
        assert (await client.get(f"/queues/{vhost}/email")).raise_for_status().json()["name"] == "email"
        get = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}
        answers = [
            await client.post(f"/queues/{vhost}/email/get", json=get),
            await client.delete(f"/queues/{vhost}/email/contents"),
            await client.delete(f"/queues/{vhost}/email"),
            await client.put(f"/vhosts/{vhost}-2"),
            await client.get("/users"),
        ]
    assert all(answer.status_code in (400, 401, 403) for answer in answers), [str(answer) for answer in answers]


@pytest.mark.parametrize("role", ["feedback", "api"])
async def test_reports_are_recorded_on_least_rights(made: Accounts, role: str) -> None:
    await asyncio.to_thread(migrate.upgrade, made.owner_url)
    owner, service = (
        Ledger(made.owner_url, pool_size=1),
        Ledger(CommonSettings(database_url=made.database_url(role)).ledger_url, pool_size=1),
    )
    try:
        campaign = await add_campaign(owner, 3)
        async with owner.write() as connection:
            found = await connection.execute(select(col(Recipient.id)).where(col(Recipient.campaign_id) == campaign))
            ids = sorted(found.scalars())
            batch = {"first_id": ids[0], "last_id": ids[-1], "size": 3, "sent": 3, "state": "done", "due_at": 0.0}
            await connection.execute(insert(Batch).values(campaign_id=campaign, **batch))
            await connection.execute(insert(EventStream).values(project_id=DEFAULT_PROJECT, enabled=True, wanted=True))
        assert await roll_up(owner, campaign) == 1
        make = TokenMaker(b"k" * 43, campaign).make
        async with service.write() as connection:
            incoming = []
            for number, kind in zip(ids, (Kind.BOUNCED, Kind.COMPLAINED, Kind.UNSUBSCRIBED), strict=True):
                person = await report_people.identify(connection, [b"k" * 43], [make(number).mail])
                assert person is not None
                incoming.append(Incoming(Found(kind, (), 550, "5.1.1"), f"{number:064}", "mail", person))
            incoming.append(Incoming(Found(Kind.UNKNOWN), "u" * 64, "mail", None))
            outcomes = await reports.record(connection, incoming)
            if role == "feedback":
                assert await reports.trim_unverified(connection) == 0
        assert [one.result for one in outcomes] == ["recorded", "recorded", "recorded", "unverified"]
        async with owner.read() as connection:
            counted = await counts(connection, campaign)
        assert [counted[name] for name in ("sent", "bounced", "complained", "unsubscribed")] == [3, 1, 1, 1]
    finally:
        await service.close()
        await owner.close()


@pytest.mark.parametrize("role", ["sender", "dispatcher", "watchdog"])
async def test_a_batch_is_taken_out_of_a_rollup_on_least_rights(made: Accounts, role: str) -> None:
    await asyncio.to_thread(migrate.upgrade, made.owner_url)
    owner, service, dispatcher = (
        Ledger(url, pool_size=1)
        for url in (
            made.owner_url,
            CommonSettings(database_url=made.database_url(role)).ledger_url,
            CommonSettings(database_url=made.database_url("dispatcher")).ledger_url,
        )
    )
    try:
        campaign = await seed_campaign(owner, 3)
        async with owner.write() as connection:
            await batches.requeue(connection, col(Batch.campaign_id) == campaign.id, due_in_seconds=1000.0)
        assert await roll_up(dispatcher, campaign.id) == 1
        async with service.write() as connection:
            assert await batches.lock(connection, campaign.batch_ids[0]) is not None
            if role != "sender":  # which closes no campaign and repairs none
                assert not await rollups.renew(connection, campaign.id)
        async with owner.read() as connection:
            assert not await connection.scalar(select(col(Batch.rolled_up)))
            assert await connection.scalar(select(col(Rollup.pending))) == 0
    finally:
        for ledger in (owner, service, dispatcher):
            await ledger.close()
