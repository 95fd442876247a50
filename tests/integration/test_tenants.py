"""Projects, keys and domains in the ledger, and what a key may do over HTTP."""

from collections.abc import AsyncIterator
from hashlib import sha256
from uuid import UUID, uuid4

import pytest
from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from services.api.shapes.campaigns import SendIn
from services.api.usecases import actions
from services.api.usecases.campaign_row import CampaignRef
from services.api.usecases.errors import ClosedProjectError
from services.api.usecases.quotas import Limits
from services.api.usecases.tenant import Tenant
from services.sender.db import campaigns as sender_campaigns
from services.sender.db.campaigns import ForeignDomainError
from shared.ledger import campaigns, domains, keys, projects
from shared.ledger.database import Ledger, db_now
from shared.ledger.domains import DomainTakenError
from shared.ledger.keys import NewKey
from shared.ledger.models import DEFAULT_PROJECT, ApiKey, IdempotencyKey
from shared.ledger.projects import ProjectError
from shared.ledger.states import CampaignStatus
from shared.scopes import EVERY_SCOPE, Scope
from tests.support.api import SECRET_KEY, SEND_SETTINGS, ApiRig, api_on, campaign_body
from tests.support.dns import dns_server
from tests.support.visitor import Visitor


@pytest.fixture
async def api(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url) as rig:
        yield rig


async def key_with(
    api: ApiRig, *scopes: Scope, project: UUID = DEFAULT_PROJECT, lives_seconds: float | None = None
) -> str:
    async with api.ledger.write() as connection:
        return (await keys.create(connection, NewKey("test", project, frozenset(scopes), lives_seconds)))[1]


def use(api: ApiRig, secret: str) -> None:
    api.client.headers["Authorization"] = f"Bearer {secret}"


async def new_project(ledger: Ledger, name: str = "other") -> UUID:
    async with ledger.write() as connection:
        return (await projects.create(connection, name)).id


async def test_a_key_does_what_its_scopes_allow_and_is_told_what_it_lacks(api: ApiRig) -> None:
    campaign = await api.create(1)
    use(api, await key_with(api, Scope.CAMPAIGNS_READ))
    await api.get(f"/v1/campaigns/{campaign}")
    for method, path, scope in (
        ("POST", f"/v1/campaigns/{campaign}/send", "campaigns:write"),
        ("DELETE", f"/v1/campaigns/{campaign}", "campaigns:write"),
        ("POST", "/v1/suppressions", "audience:write"),
        ("GET", "/v1/services", "operator"),
        ("GET", "/v1/queues", "operator"),
        ("GET", "/v1/batches", "operator"),
    ):
        problem = await api.request(method, path, 403)
        assert (problem["type"], problem["scope"]) == ("urn:vashsender:problem:missing-scope", scope)
    use(api, await key_with(api, Scope.CAMPAIGNS_WRITE))
    await api.post(f"/v1/campaigns/{campaign}/send", {})
    await api.get(f"/v1/campaigns/{campaign}", 403)


async def test_a_scope_is_asked_for_before_the_body_is_read(api: ApiRig) -> None:
    use(api, await key_with(api, Scope.CAMPAIGNS_READ))
    await api.request("POST", "/v1/campaigns", 403, content=b"{ not even JSON")


async def test_an_expired_key_is_refused(api: ApiRig) -> None:
    secret = await key_with(api, *Scope, lives_seconds=60.0)
    use(api, secret)
    await api.get("/v1/campaigns")
    async with api.ledger.write() as connection:
        await connection.execute(update(ApiKey).values(expires_at=db_now() - 1))
    problem = await api.get("/v1/campaigns", 401)
    assert "expired" in problem["detail"]


async def test_a_rotated_key_works_beside_the_new_one_until_the_overlap_is_over(api: ApiRig) -> None:
    old = await key_with(api, Scope.CAMPAIGNS_READ)
    async with api.ledger.write() as connection:
        found = await keys.find(connection, secret=old)
        assert found is not None
        made = await keys.rotate(connection, found, 60.0)
        assert made is not None
        new_id, new = made
    for secret in (old, new):
        use(api, secret)
        await api.get("/v1/campaigns")
        await api.get("/v1/services", 403)
    async with api.ledger.write() as connection:
        by_id = {key.id: key for key in await keys.list_keys(connection)}
        assert by_id[new_id].expires_at is None
        assert by_id[found.id].expires_at is not None
        await connection.execute(update(ApiKey).where(col(ApiKey.id) == found.id).values(expires_at=db_now()))
        assert await keys.find(connection, secret=old) is None
        assert await keys.find(connection, secret=new) is not None


async def test_a_key_shows_when_it_was_used(api: ApiRig) -> None:
    async with api.ledger.read() as connection:
        assert [key.last_used_at for key in await keys.list_keys(connection)] == [None]
    await api.get("/v1/campaigns")
    async with api.ledger.read() as connection:
        [first] = await keys.list_keys(connection)
    assert first.last_used_at is not None
    await api.get("/v1/campaigns")
    async with api.ledger.read() as connection:
        [again] = await keys.list_keys(connection)
    assert again.last_used_at == first.last_used_at, "it is written once in a quarter of an hour"


async def test_a_key_of_the_first_release_keeps_every_scope(api: ApiRig) -> None:
    async with api.ledger.write() as connection:
        await connection.execute(update(ApiKey).values(scopes=None))
        [key] = await keys.list_keys(connection)
    assert key.scopes == EVERY_SCOPE
    await api.get("/v1/services")


async def test_the_first_release_does_not_know_a_key_that_may_do_less(ledger: Ledger) -> None:
    """It would let it do everything: it looks a key up by the plain digest of its secret."""
    async with ledger.write() as connection:
        _, narrow = await keys.create(connection, NewKey("narrow", scopes=frozenset({Scope.CAMPAIGNS_READ})))
        _, short = await keys.create(connection, NewKey("short", lives_seconds=60))
        _, full = await keys.create(connection, NewKey("full"))
        digests = {key: await _plain_digest_is_known(connection, key) for key in (narrow, short, full)}
    assert digests == {narrow: False, short: False, full: True}


async def _plain_digest_is_known(connection: AsyncConnection, secret: str) -> bool:
    digest = sha256(secret.encode()).hexdigest()
    return (await connection.execute(select(col(ApiKey.id)).where(col(ApiKey.digest) == digest))).first() is not None


async def test_a_key_of_another_project_is_no_operator_unless_it_is_said(ledger: Ledger) -> None:
    project = await new_project(ledger)
    async with ledger.write() as connection:
        secrets = [
            (await keys.create(connection, NewKey("one", project)))[1],
            (await keys.create(connection, NewKey("two", project, EVERY_SCOPE)))[1],
            (await keys.create(connection, NewKey("three")))[1],
        ]
        found = [await keys.find(connection, secret=secret) for secret in secrets]
    assert [key is not None and Scope.OPERATOR in key.scopes for key in found] == [False, True, True]


async def test_a_closed_project_keeps_its_data_and_refuses_its_keys(api: ApiRig) -> None:
    project = await new_project(api.ledger)
    secret = await key_with(api, *Scope, project=project)
    use(api, secret)
    campaign = await api.create(1)
    async with api.ledger.write() as connection:
        await campaigns.move(connection, UUID(campaign), CampaignStatus.QUEUED)
    async with api.ledger.write() as connection:
        found = await projects.find(connection, project_id=project)
        assert found is not None
        with pytest.raises(ProjectError, match="under way"):
            await projects.close(connection, found)
    async with api.ledger.write() as connection:
        await campaigns.move(connection, UUID(campaign), CampaignStatus.STOPPING)
        await campaigns.move(connection, UUID(campaign), CampaignStatus.CANCELLED)
        closed = await projects.close(connection, found)
        assert closed.closed_at is not None
        assert (await projects.close(connection, closed)).closed_at == closed.closed_at
    await api.get("/v1/campaigns", 401)


async def test_names_of_projects_are_unique_and_the_default_stays(ledger: Ledger) -> None:
    project = await new_project(ledger, "one")
    await new_project(ledger, "two")
    async with ledger.read() as connection:
        one = await projects.find(connection, project_id=project)
        default = await projects.find(connection, project_id=DEFAULT_PROJECT)
    assert one is not None
    assert default is not None
    with pytest.raises(ProjectError, match="already"):
        await new_project(ledger, "one")
    with pytest.raises(ProjectError, match="already"):
        async with ledger.write() as connection:
            await projects.rename(connection, one, "two")
    with pytest.raises(ProjectError, match="cannot be closed"):
        async with ledger.write() as connection:
            await projects.close(connection, default)
    async with ledger.write() as connection:
        assert (await projects.rename(connection, one, "three")).name == "three"
        assert [row.name for row in await projects.list_projects(connection)] == ["default", "three", "two"]


async def test_a_domain_belongs_to_one_project_with_those_below_it(ledger: Ledger) -> None:
    other = await new_project(ledger)
    async with ledger.write() as connection:
        await domains.add(connection, "example.com", DEFAULT_PROJECT, "operator")
        await domains.add(connection, "example.com", DEFAULT_PROJECT, "dns")
        await domains.add(connection, "shop.example.com", other, "operator")
    with pytest.raises(DomainTakenError):
        async with ledger.write() as connection:
            await domains.add(connection, "example.com", other, "operator")
    async with ledger.read() as connection:
        owners = {}
        for name in ("example.com", "news.example.com", "shop.example.com", "a.shop.example.com", "badexample.com"):
            found = await domains.owner(connection, name)
            owners[name] = found and found.project
        listed = [row.name for row in await domains.list_domains(connection, other)]
    assert owners == {
        "example.com": "default",
        "news.example.com": "default",
        "shop.example.com": "other",
        "a.shop.example.com": "other",
        "badexample.com": None,
    }
    assert listed == ["shop.example.com"]
    async with ledger.write() as connection:
        assert not await domains.remove(connection, "shop.example.com", DEFAULT_PROJECT)
        assert await domains.remove(connection, "shop.example.com", other)
        assert not await domains.remove(connection, "shop.example.com")


async def test_a_key_may_be_kept_to_some_domains(ledger: Ledger) -> None:
    async with ledger.write() as connection:
        _, secret = await keys.create(connection, NewKey("shop", sender_domains=("shop.example.com",)))
        key = await keys.find(connection, secret=secret)
    assert key is not None
    assert [key.may_send_from(one) for one in ("shop.example.com", "a.shop.example.com", "example.com")] == [
        True,
        True,
        False,
    ]


async def test_an_unknown_key_is_not_revoked(ledger: Ledger) -> None:
    async with ledger.write() as connection:
        assert not await keys.revoke_key(connection, uuid4())


async def test_the_campaigns_of_another_project_are_not_found(api: ApiRig) -> None:
    campaign = await api.create(1)
    use(api, await key_with(api, *Scope, project=await new_project(api.ledger)))
    await api.get(f"/v1/campaigns/{campaign}", 404)
    await api.post("/v1/campaigns", campaign_body(), 201)
    assert len((await api.get("/v1/campaigns"))["data"]) == 1


@pytest.fixture
async def production(database_url: str) -> AsyncIterator[ApiRig]:
    async with api_on(database_url, environment="production", public_url="https://mail.example.test") as rig:
        yield rig


def sent_by(address: str, **fields: object) -> dict[str, object]:
    return campaign_body(**{"from": {"email": address}, **fields})


async def own(api: ApiRig, domain: str, project: UUID = DEFAULT_PROJECT) -> None:
    async with api.ledger.write() as connection:
        await domains.add(connection, domain, project, "operator")


async def test_outside_development_a_project_sends_only_from_its_domains(production: ApiRig) -> None:
    api = production
    other = await new_project(api.ledger)
    await own(api, "example.test")
    await own(api, "other.test", other)
    for body, pointer in (
        (sent_by("news@unowned.test"), "#/from/email"),
        (sent_by("news@other.test"), "#/from/email"),
        (sent_by("news@example.test", envelope_from="bounce@other.test"), "#/envelope_from"),
    ):
        problem = await api.post("/v1/campaigns", body, 403)
        assert (problem["type"], problem["errors"][0]["pointer"]) == ("urn:vashsender:problem:foreign-domain", pointer)
    campaign = (await api.post("/v1/campaigns", sent_by("news@shop.example.test"), 201))["id"]
    path = f"/v1/campaigns/{campaign}"
    for patch in ({"from": {"email": "news@other.test"}}, {"envelope_from": "news@unowned.test"}):
        await api.request("PATCH", path, 403, json=patch)
    assert (await api.show(campaign))["from"]["email"] == "news@shop.example.test"


async def test_the_domain_is_checked_again_when_the_campaign_is_sent_or_tested(production: ApiRig) -> None:
    api = production
    await own(api, "example.test")
    campaign = await api.create(1)
    async with api.ledger.write() as connection:
        await domains.remove(connection, "example.test")
    await api.post(f"/v1/campaigns/{campaign}/send", {}, 403)
    await api.post(f"/v1/campaigns/{campaign}/test", {"recipients": [{"email": "ann@example.test"}]}, 403)
    assert (await api.show(campaign))["status"] == "draft"
    await own(api, "example.test")
    await api.post(f"/v1/campaigns/{campaign}/send", {})


async def test_in_development_a_domain_needs_no_owner_but_is_never_anothers(api: ApiRig) -> None:
    await api.create(1)
    await own(api, "other.test", await new_project(api.ledger))
    await api.post("/v1/campaigns", sent_by("news@other.test"), 403)


async def test_a_key_with_domains_sends_from_no_other(api: ApiRig) -> None:
    async with api.ledger.write() as connection:
        _, secret = await keys.create(connection, NewKey("shop", sender_domains=("shop.test",)))
    use(api, secret)
    problem = await api.post("/v1/campaigns", sent_by("news@example.test"), 403)
    assert "only from shop.test" in problem["detail"]
    await api.post("/v1/campaigns", sent_by("news@shop.test"), 201)


async def test_a_sender_refuses_a_campaign_of_anothers_domain(api: ApiRig) -> None:
    """The domain changed hands after the campaign was stored."""
    campaign = UUID(await api.create(1))
    assert (await sender_campaigns.read(api.ledger, campaign))[0].from_email == "news@example.test"
    await own(api, "example.test", await new_project(api.ledger))
    with pytest.raises(ForeignDomainError, match=r"example.test belongs to another project"):
        await sender_campaigns.read(api.ledger, campaign)


async def test_operators_manage_projects_keys_and_domains(api: ApiRig) -> None:
    project = await api.post("/v1/projects", {"name": "shop"}, 201)
    await api.post("/v1/projects", {"name": "shop"}, 409)
    path = f"/v1/projects/{project['id']}"
    assert (await api.request("PATCH", path, json={"name": "store", "sender_id": "store-1"}))["sender_id"] == "store-1"
    assert [one["name"] for one in (await api.get("/v1/projects"))["data"]] == ["default", "store"]
    body = {"name": "web", "project_id": project["id"], "scopes": ["campaigns:read"], "expires_days": 30}
    made = await api.post("/v1/keys", body, 201)
    assert (made["project"], made["scopes"], made["sender_domains"]) == ("store", ["campaigns:read"], None)
    rotated = await api.post(f"/v1/keys/{made['id']}/rotate", {"overlap_hours": 1}, 201)
    listed = (await api.get("/v1/keys"))["data"]
    assert made["key"] not in str(listed)
    assert rotated["key"] not in str(listed)
    await api.post("/v1/domains", {"name": "Store.TEST", "project_id": project["id"]}, 201)
    await api.post("/v1/domains", {"name": "store.test"}, 409)
    await api.post("/v1/keys", {"name": "x", "project_id": str(uuid4())}, 422)
    operator = api.client.headers["Authorization"]
    use(api, rotated["key"])
    assert [one["name"] for one in (await api.get("/v1/domains"))["data"]] == ["store.test"]
    await api.get("/v1/keys", 403)
    api.client.headers["Authorization"] = operator
    await api.request("DELETE", f"/v1/keys/{rotated['id']}", 204)
    await api.request("DELETE", f"/v1/keys/{rotated['id']}", 404)
    await api.request("DELETE", "/v1/domains/store.test", 204)
    await api.request("DELETE", "/v1/domains/store.test", 404)
    assert (await api.post(f"{path}/close", {}, 200))["closed_at"]
    await api.post("/v1/keys", {"name": "late", "project_id": project["id"]}, 409)


async def test_the_project_that_publishes_its_record_gets_the_domain(database_url: str) -> None:
    zone: dict[str, dict[str, list[str]]] = {}
    async with dns_server(zone) as dns, api_on(database_url, dns_servers=dns.address) as api:
        other = await new_project(api.ledger)
        ours, theirs = (
            await key_with(api, Scope.CAMPAIGNS_WRITE),
            await key_with(api, Scope.CAMPAIGNS_WRITE, project=other),
        )
        path = "/v1/domains/Shop.Example.com/prove"
        wanted = {}
        for secret in (ours, theirs):
            use(api, secret)
            problem = await api.post(path, expect=409)
            assert problem["type"] == "urn:vashsender:problem:unproven-domain"
            assert problem["record_name"] == "_vashsender.shop.example.com"
            wanted[secret] = problem["record_text"]
        assert wanted[ours] != wanted[theirs]
        zone["_vashsender.shop.example.com"] = {"TXT": ['"something else"', f'"{wanted[theirs]}"']}
        use(api, ours)
        await api.post(path, expect=409)
        await api.post("/v1/domains/example.com/prove", expect=409)
        use(api, theirs)
        proven = await api.post(path, expect=201, headers={"Idempotency-Key": "once"})
        assert (proven["name"], proven["made_by"], proven["project_id"]) == ("shop.example.com", "dns", str(other))
        assert await api.post(path, expect=201) == proven
        assert await api.post(path, expect=201, headers={"Idempotency-Key": "once"}) == proven

        # It stays theirs, with what is below it, although we can publish records.
        asked = len(dns.asked)
        zone["_vashsender.shop.example.com"] = {"TXT": [f'"{wanted[ours]}"']}
        use(api, ours)
        for name in ("shop.example.com", "news.shop.example.com"):
            problem = await api.post(f"/v1/domains/{name}/prove", expect=409)
            assert problem["type"] == "urn:vashsender:problem:domain-taken"
        assert len(dns.asked) == asked, "DNS is not asked about a domain that belongs to another project"


async def test_an_installation_that_changed_its_secret_takes_the_records_of_the_old_one(database_url: str) -> None:
    zone: dict[str, dict[str, list[str]]] = {}
    async with dns_server(zone) as dns:
        async with api_on(database_url, dns_servers=dns.address) as api:
            problem = await api.post("/v1/domains/example.com/prove", expect=409)
        zone["_vashsender.example.com"] = {"TXT": [f'"{problem["record_text"]}"']}
        renewed = f"a new secret that is long enough to be one,{SECRET_KEY}"
        async with api_on(database_url, dns_servers=dns.address, secret_key=renewed) as api:
            fresh = await api.post("/v1/domains/example.org/prove", expect=409)
            assert fresh["record_text"] != problem["record_text"]
            await api.post("/v1/domains/example.com/prove", expect=201)


async def test_a_domain_is_not_proven_while_dns_fails_nor_by_a_key_of_other_domains(database_url: str) -> None:
    async with dns_server({}) as dns, api_on(database_url, dns_servers=dns.address) as api:
        dns.failing.add("_vashsender.example.com")
        problem = await api.post("/v1/domains/example.com/prove", expect=409)
        assert "no answer" in problem["detail"]
        await api.post("/v1/domains/not a domain/prove", expect=422)
        async with api.ledger.write() as connection:
            kept = NewKey("kept", DEFAULT_PROJECT, frozenset({Scope.CAMPAIGNS_WRITE}), sender_domains=("example.net",))
            _, secret = await keys.create(connection, kept)
        use(api, secret)
        await api.post("/v1/domains/example.com/prove", expect=403)
        use(api, await key_with(api, Scope.CAMPAIGNS_READ))
        await api.post("/v1/domains/example.com/prove", expect=403)


async def test_the_project_names_the_sender_in_feedback_id(api: ApiRig) -> None:
    campaign = await api.create(1)

    async def feedback_id() -> str:
        shown = await api.post(f"/v1/campaigns/{campaign}/preview", {}, 200)
        return str(next(header["value"] for header in shown["headers"] if header["name"] == "Feedback-ID"))

    assert (await feedback_id()).endswith(":campaign:vashsender")
    await api.request("PATCH", f"/v1/projects/{DEFAULT_PROJECT}", json={"sender_id": "example"})
    assert (await feedback_id()).endswith(":campaign:example")
    assert (await sender_campaigns.read(api.ledger, UUID(campaign)))[0].sender_id == "example"


async def test_a_secret_is_not_stored_even_under_an_idempotency_key(api: ApiRig) -> None:
    made = await api.post("/v1/keys", {"name": "one"}, 201, headers={"Idempotency-Key": "k"})
    async with api.ledger.read() as connection:
        kept = (await connection.execute(select(IdempotencyKey.__table__))).all()  # type: ignore[attr-defined]
    assert made["key"] not in str(kept)


async def test_sessions_are_listed_and_ended(api: ApiRig) -> None:
    first, second = await Visitor.signed_in(api), Visitor.of(api)
    other = await key_with(api, Scope.CAMPAIGNS_READ, project=await new_project(api.ledger))
    await second.sign_in(other)
    [newest, oldest] = (await api.get("/v1/sessions"))["data"]
    assert (newest["project"], oldest["project"]) == ("other", "default")
    use(api, other)
    assert [one["id"] for one in (await api.get("/v1/sessions"))["data"]] == [newest["id"]]
    await api.request("DELETE", f"/v1/sessions/{oldest['id']}", 404)
    await first.get("/")
    await api.request("DELETE", f"/v1/sessions/{newest['id']}", 204)
    await api.request("DELETE", f"/v1/sessions/{newest['id']}", 404)
    assert (await second.client.get("/")).status_code == 303


async def test_a_closed_project_sends_nothing_that_was_under_way_to_be_sent(api: ApiRig) -> None:
    """The request passed its key before the project was closed."""
    project = await new_project(api.ledger)
    use(api, await key_with(api, *Scope, project=project))
    campaign = UUID(await api.create(1))
    async with api.ledger.write() as connection:
        key = (await keys.list_keys(connection))[-1]
        found = await projects.find(connection, project_id=project)
        assert found is not None
        await projects.close(connection, found)
    tenant = Tenant(key, needs_own_domain=False, limits=Limits(1, 1, 1), hash_roots=())
    with pytest.raises(ClosedProjectError):
        await actions.send(api.ledger, CampaignRef(tenant, campaign), SendIn(), SEND_SETTINGS)


async def test_the_page_shows_who_is_signed_in_and_ends_sessions(api: ApiRig) -> None:
    await own(api, "example.test")
    first, second = await Visitor.signed_in(api), Visitor.of(api)
    await second.sign_in(await key_with(api, Scope.CAMPAIGNS_READ, project=await new_project(api.ledger)))
    page = await first.get("/access")
    assert "<code>example.test</code>" in page
    assert page.count('name="session_id"') == 2
    theirs = await second.get("/access")
    assert theirs.count('name="session_id"') == 1
    assert "example.test" not in theirs
    [mine] = [one["id"] for one in (await api.get("/v1/sessions"))["data"] if one["project"] == "default"]
    await second.post(theirs, "/access/end-session", expect=404, session_id=mine)
    [other] = [one["id"] for one in (await api.get("/v1/sessions"))["data"] if one["project"] == "other"]
    await first.post(page, "/access/end-session", session_id=other)
    assert (await second.client.get("/access")).status_code == 303
