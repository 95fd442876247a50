"""Checks of domains by DNS: a few at once, and results that are kept for some minutes."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from fastapi import Request

from services.api.context import Api
from services.api.shapes.campaigns import SendWarningOut
from services.api.usecases.actions import CheckDomains
from services.api.web.problems import HttpError
from shared import logs
from shared.deliverability.check import Egress, Finding, Setup, Signature, Verdict, examine_domain
from shared.deliverability.dns import Dns, DnsError
from shared.errors import VashSenderError
from shared.ledger import domains, sending_facts
from shared.ledger.database import is_unavailable

AT_ONCE = 4
"""Checks that one process makes at a time: each may take 20 seconds and 100 questions to DNS."""
KEPT_SECONDS = 600.0
UNSURE_SECONDS = 60.0
"""For how long a result is kept that DNS or the time left open."""
KEPT = 1000
SEND_SECONDS = 3.0
"""How long `send` waits for the checks at most. It says nothing about what is not known by then."""

log = logs.get()


def checks_of(request: Request) -> "DomainChecks":
    checks: DomainChecks = request.app.state.domain_checks
    return checks


class ChecksBusyError(HttpError):
    status = 503
    kind = "checks-busy"
    title = "Other domains are being checked"


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found about a domain."""

    findings: Sequence[Finding]
    #: By the monotonic clock.
    at: float
    until: float

    @property
    def wrong(self) -> Sequence[Finding]:
        return [finding for finding in self.findings if finding.verdict is Verdict.WRONG]


class DomainChecks:
    """The checks of one process."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(AT_ONCE)
        #: By domain and envelope domain, the newest last.
        self._kept: OrderedDict[tuple[str, str], Checked] = OrderedDict()

    def last(self, domain: str, envelope_domain: str) -> Checked | None:
        """The last result that is still good."""
        found = self._kept.get((domain, envelope_domain))
        return found if found is not None and found.until > time.monotonic() else None

    async def check(
        self, api: Api, domain: str, envelope_domain: str, egress: Sequence[Egress] | None = None
    ) -> Sequence[Finding]:
        """Checks now. `egress`: instead of what the senders say. Raises ChecksBusyError."""
        if self._slots.locked():
            raise ChecksBusyError("Try again in some seconds.", headers={"Retry-After": "5"})
        async with self._slots:
            setup = await _setup(api, domain, envelope_domain, egress)
            findings = await examine_domain(Dns(api.settings.dns_servers), setup)
        if egress is None:
            self._keep((domain, envelope_domain), findings)
        return findings

    async def unpublished(self, api: Api, name: str, texts: Sequence[str]) -> str:
        """Why none of these texts is found as TXT record at `name`; empty if one is. Raises ChecksBusyError."""
        if self._slots.locked():
            raise ChecksBusyError("Try again in some seconds.", headers={"Retry-After": "5"})
        async with self._slots:
            try:
                found = await Dns(api.settings.dns_servers).txt(name)
            except DnsError as error:
                return f"{error}"
        if {text.strip() for text in found}.isdisjoint(texts):
            return (
                f"there are {len(found)} other TXT records at {name}" if found else f"there is no TXT record at {name}"
            )
        return ""

    def for_sending(self, api: Api) -> CheckDomains:
        """`warnings`, as `actions.send` needs it."""
        return partial(self.warnings, api)

    async def warnings(self, api: Api, from_domain: str, envelope_domain: str) -> list[SendWarningOut]:
        """What is wrong with the domains of a campaign, for its sender to read. Only about domains that belong to a
        project; takes SEND_SECONDS at most, and raises nothing."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                if await domains.owner_alone(api.ledger, from_domain) is None:
                    return []
                kept = self.last(from_domain, envelope_domain)
                found = kept.findings if kept else await self.check(api, from_domain, envelope_domain)
        except TimeoutError:
            self._keep((from_domain, envelope_domain), [])
            return []
        except (ChecksBusyError, VashSenderError) as error:
            log.warning("domain.unchecked", domain=from_domain, error=str(error))
            return []
        except Exception as error:
            if not is_unavailable(error):
                raise
            return []
        return [_warning(finding) for finding in found if _is_worth_a_warning(finding)]

    def _keep(self, key: tuple[str, str], findings: Sequence[Finding]) -> None:
        now = time.monotonic()
        unsure = not findings or any(one.may_change for one in findings)
        self._kept[key] = Checked(findings, now, now + (UNSURE_SECONDS if unsure else KEPT_SECONDS))
        self._kept.move_to_end(key)
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)


async def _setup(api: Api, domain: str, envelope_domain: str, egress: Sequence[Egress] | None) -> Setup:
    """How the domain's mail leaves, as the senders say."""
    async with api.ledger.read() as connection:
        key = await sending_facts.dkim(connection, domain)
        relays = await sending_facts.egress(connection)
    if egress is None and relays is not None:
        egress = [Egress.of(one.relay, one.addresses) for one in relays]
    signatures = None if relays is None else [Signature(key.selector, key.key)] if key else []
    return Setup(domain, envelope_domain, signatures, egress, api.settings.public_url)


def _is_worth_a_warning(finding: Finding) -> bool:
    return finding.verdict is Verdict.WRONG or finding.is_unsigned


def _warning(finding: Finding) -> SendWarningOut:
    if finding.name.startswith(("SPF", "bounces", "alignment")):
        pointer = "#/envelope_from"
    else:
        pointer = "#" if finding.name == "unsubscribe link" else "#/from"
    advice = f" {finding.advice[:1].upper()}{finding.advice[1:]}." if finding.advice else ""
    return SendWarningOut(pointer=pointer, detail=f"{finding.name}: {finding.found}.{advice}")
