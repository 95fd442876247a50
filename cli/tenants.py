"""Projects, domains and keys, changed directly in the ledger. Each change is noted in the audit by its transaction."""

import getpass
import socket
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from cli.access import ledger_of
from shared.addresses import AddressError, parse_domain
from shared.errors import DataError
from shared.ledger import audit, domains, keys, projects, rate_limits
from shared.ledger.audit import Actor, Entry, Wanted
from shared.ledger.domains import DomainRow
from shared.ledger.keys import Key, NewKey
from shared.ledger.models import DEFAULT_PROJECT
from shared.ledger.projects import ProjectRow
from shared.ledger.rate_limits import project_scope
from shared.scopes import parse_scopes
from shared.settings import CommonSettings

DEFAULT = "default"
DAY_SECONDS = 86_400.0
HOUR_SECONDS = 3600.0
LONGEST_NAME = 200
OWN_LIMITS = ("tests_per_hour", "open_imports", "open_streams")
RATES = ("emails_per_second", "emails_per_hour", "emails_per_day")


@dataclass(frozen=True, slots=True)
class KeyWish:
    """A key as the command is asked for it."""

    name: str
    project: str = DEFAULT
    #: Empty: the default of its project.
    scopes: Sequence[str] = ()
    expires_days: float | None = None
    #: Empty: every domain of its project.
    domains: Sequence[str] = ()


def actor() -> Actor:
    """Who runs this command: the user of the operating system, on this machine."""
    return Actor("command", getpass.getuser(), socket.gethostname())


async def create_key(config: CommonSettings, wish: KeyWish) -> str:
    """The secret of a new key."""
    scopes = parse_scopes(wish.scopes) if wish.scopes else None
    sender_domains = tuple(sorted({_domain(one) for one in wish.domains})) or None
    lives_seconds = None if wish.expires_days is None else wish.expires_days * DAY_SECONDS
    async with ledger_of(config) as ledger, ledger.write() as connection:
        project = await project_of(connection, wish.project)
        _require_open(project)
        wanted = NewKey(_name(wish.name), project.id, scopes, lives_seconds, sender_domains)
        key_id, secret = await keys.create(connection, wanted)
        await audit.record(connection, actor(), "key create", target=f"key={key_id}", project_id=project.id)
    return secret


async def list_keys(config: CommonSettings, project: str | None = None) -> Sequence[Key]:
    """Keys, oldest first, revoked ones included: of a project, or of all."""
    async with ledger_of(config) as ledger, ledger.read() as connection:
        found = await keys.list_keys(connection)
    return [key for key in found if project in (None, key.project)]


async def rotate_key(config: CommonSettings, key_id: UUID, overlap_hours: float) -> str:
    """The secret of the new key. The old one works for `overlap_hours` more."""
    async with ledger_of(config) as ledger, ledger.write() as connection:
        key = await keys.find(connection, key_id=key_id)
        made = None if key is None else await keys.rotate(connection, key, overlap_hours * HOUR_SECONDS)
        if key is None or made is None:
            raise _no_key(key_id)
        new_id, secret = made
        target = f"key={key_id} new={new_id}"
        await audit.record(connection, actor(), "key rotate", target=target, project_id=key.project_id)
    return secret


async def revoke_key(config: CommonSettings, key_id: UUID) -> None:
    """Raises DataError if there is no such key, or it was revoked before."""
    async with ledger_of(config) as ledger, ledger.write() as connection:
        key = await keys.find(connection, key_id=key_id)
        if not await keys.revoke_key(connection, key_id):
            raise _no_key(key_id)
        project_id = key.project_id if key else None
        await audit.record(connection, actor(), "key revoke", target=f"key={key_id}", project_id=project_id)


async def create_project(config: CommonSettings, name: str) -> ProjectRow:
    async with ledger_of(config) as ledger, ledger.write() as connection:
        project = await projects.create(connection, _name(name))
        await audit.record(connection, actor(), "project create", target=f"name={name}", project_id=project.id)
    return project


async def list_projects(config: CommonSettings) -> Sequence[ProjectRow]:
    async with ledger_of(config) as ledger, ledger.read() as connection:
        return await projects.list_projects(connection)


async def rename_project(config: CommonSettings, name: str, new_name: str) -> None:
    async with ledger_of(config) as ledger, ledger.write() as connection:
        project = await project_of(connection, name)
        await projects.rename(connection, project, _name(new_name))
        target = f"name={name} new={new_name}"
        await audit.record(connection, actor(), "project rename", target=target, project_id=project.id)


async def close_project(config: CommonSettings, name: str) -> None:
    async with ledger_of(config) as ledger, ledger.write() as connection:
        project = await project_of(connection, name)
        await projects.close(connection, project)
        await audit.record(connection, actor(), "project close", target=f"name={name}", project_id=project.id)


async def project_limits(
    config: CommonSettings, name: str, own: Mapping[str, Any], rates: Mapping[str, Any]
) -> dict[str, Any]:
    """The limits of a project, after those given were changed: its own of the API, and its rates of emails."""
    async with ledger_of(config) as ledger, ledger.write() as connection:
        project = await project_of(connection, name)
        scope = project_scope(project.id)
        if own:
            project = await projects.change(connection, project, own)
        limit = (await rate_limits.read(connection, [scope])).get(scope)
        now: dict[str, Any] = {rate: getattr(limit, rate, None) for rate in RATES} | dict(rates)
        if rates and not any(now.values()):
            await rate_limits.remove(connection, scope)
        elif rates:
            await rate_limits.put_all(connection, scope, **now, warmup=limit.warmup() if limit else None)
        if own or rates:
            target = f"name={name} " + " ".join(f"{key}={value}" for key, value in {**own, **rates}.items())
            await audit.record(connection, actor(), "project limits", target=target, project_id=project.id)
    return {key: getattr(project, key) for key in OWN_LIMITS} | now


async def add_domain(config: CommonSettings, name: str, project: str) -> DomainRow:
    domain = _domain(name)
    async with ledger_of(config) as ledger, ledger.write() as connection:
        owner = await project_of(connection, project)
        _require_open(owner)
        added = await domains.add(connection, domain, owner.id, "operator")
        await audit.record(connection, actor(), "domain add", target=f"domain={domain}", project_id=owner.id)
    return added


async def set_bounce_domain(config: CommonSettings, name: str, bounce_domain: str | None) -> DomainRow:
    """Raises DataError if the domain belongs to no project, or the bounce domain cannot be used."""
    domain = _domain(name)
    bounces = None if bounce_domain is None else _domain(bounce_domain)
    async with ledger_of(config) as ledger, ledger.write() as connection:
        found = await _belonging(connection, domain)
        changed = await domains.set_bounce_domain(connection, found, bounces)
        target = f"domain={domain} bounce_domain={bounces}"
        await audit.record(connection, actor(), "domain bounces", target=target, project_id=found.project_id)
    return changed


async def bounce_domain_of(config: CommonSettings, name: str) -> str | None:
    """Where bounces of a domain's mail go, as the ledger says; None if it says nothing."""
    async with ledger_of(config) as ledger, ledger.read() as connection:
        found = await domains.owner(connection, _domain(name))
    return found.bounce_domain if found else None


async def list_domains(config: CommonSettings, project: str | None = None) -> Sequence[DomainRow]:
    """Domains by name: of a project, or of all."""
    async with ledger_of(config) as ledger, ledger.read() as connection:
        owner_id = None if project is None else (await project_of(connection, project)).id
        return await domains.list_domains(connection, owner_id)


async def remove_domain(config: CommonSettings, name: str) -> None:
    """Raises DataError if the domain belongs to no project."""
    domain = _domain(name)
    async with ledger_of(config) as ledger, ledger.write() as connection:
        found = await _belonging(connection, domain)
        await domains.remove(connection, domain)
        await audit.record(connection, actor(), "domain remove", target=f"domain={domain}", project_id=found.project_id)


async def list_audit(
    config: CommonSettings, project: str | None, actor_id: str | None, since: datetime | None, limit: int
) -> Sequence[Entry]:
    """What was done, newest first. `since` is in UTC."""
    moment = None if since is None else since.replace(tzinfo=UTC).timestamp()
    async with ledger_of(config) as ledger, ledger.read() as connection:
        project_id = None if project is None else (await project_of(connection, project)).id
        return await audit.list_entries(connection, Wanted(project_id, actor_id, moment, limit=limit))


async def forget_audit(config: CommonSettings, older_than_days: float) -> int:
    """Deletes old entries, in several transactions; returns how many."""
    deleted = 0
    async with ledger_of(config) as ledger:
        while True:
            async with ledger.write() as connection:
                gone = await audit.forget(connection, older_than_days * DAY_SECONDS)
            deleted += gone
            if gone < audit.FORGET_ROWS:
                return deleted


async def project_of(connection: AsyncConnection, name: str) -> ProjectRow:
    """Raises DataError if there is none of this name."""
    # `default` is known by its id, whatever it is called now.
    found = await projects.find(connection, name=name)
    if found is None and name == DEFAULT:
        found = await projects.find(connection, project_id=DEFAULT_PROJECT)
    if found is None:
        raise DataError(f"there is no project {name}: see `vashsender project list`")
    return found


async def _belonging(connection: AsyncConnection, domain: str) -> DomainRow:
    found = await domains.find(connection, domain)
    if found is None:
        raise DataError(f"{domain} belongs to no project: see `vashsender domain list`")
    return found


def _require_open(project: ProjectRow) -> None:
    if project.closed_at is not None:
        raise DataError(f"the project {project.name} is closed")


def _no_key(key_id: UUID) -> DataError:
    return DataError(f"there is no valid key {key_id}: see `vashsender key list`")


def _name(name: str) -> str:
    """One line of 1 to 200 characters."""
    text = unicodedata.normalize("NFC", name).strip()
    if not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
        raise DataError(f"a name is one line of 1 to {LONGEST_NAME} characters")
    return text


def _domain(name: str) -> str:
    try:
        return parse_domain(name)
    except AddressError as error:
        raise DataError(f"{name}: {error.reason}") from None
