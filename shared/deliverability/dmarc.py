"""DMARC: the record that applies to a domain, its organizational domain, and alignment (RFC 9989)."""

from dataclasses import dataclass

from shared.deliverability.dns import Dns

VERSION = "DMARC1"
POLICIES = ("none", "quarantine", "reject")
MOST_LABELS = 8  # RFC 9989, 4.10: longer names continue with their last 7 labels


@dataclass(frozen=True, slots=True)
class DmarcRecord:
    """One record. Tags that are missing or wrong have their defaults (RFC 9989, 4.7)."""

    domain: str  # where it was found
    policy: str  # `none`, `quarantine`, `reject`
    subdomain_policy: str
    strict_dkim: bool
    strict_spf: bool
    #: `y` (a public suffix), `n` (the organizational domain) or `u`.
    psd: str
    testing: bool
    reports: bool  # whether someone gets aggregate reports


@dataclass(frozen=True, slots=True)
class Dmarc:
    """What receivers find for one domain."""

    domain: str
    record: DmarcRecord | None
    organizational: str

    @property
    def policy(self) -> str:
        """The policy that applies to the domain; empty without a record."""
        if self.record is None:
            return ""
        own = self.record.domain == self.domain
        return self.record.policy if own else self.record.subdomain_policy


async def discover(dns: Dns, domain: str) -> Dmarc:
    """Walks the tree from the domain to its top (RFC 9989, 4.10). Raises DnsError."""
    domain = domain.lower().rstrip(".")
    found = [record for name in walked(domain) if (record := await _record_at(dns, name)) is not None]
    ends = next((number for number, record in enumerate(found) if record.psd != "u"), None)
    if ends is not None:
        found = found[: ends + 1]
    organizational = _organizational(domain, found)
    own = next((record for record in found if record.domain == domain), None)
    of_organization = next((record for record in found if record.domain == organizational), None)
    of_suffix = next((record for record in found if record.psd == "y"), None)
    return Dmarc(domain, own or of_organization or of_suffix, organizational)


def walked(domain: str) -> list[str]:
    """The names whose records count, from the domain up: at most eight (RFC 9989, 4.10)."""
    labels = domain.split(".")
    rest = labels[1:] if len(labels) < MOST_LABELS else labels[-(MOST_LABELS - 1) :]
    return [domain, *(".".join(rest[start:]) for start in range(len(rest)))]


async def is_aligned(dns: Dns, author: Dmarc, other: str, *, strict: bool) -> bool:
    """Whether a domain that SPF or DKIM authenticated speaks for the author's (RFC 9989, 4.4). Raises DnsError."""
    other = other.lower().rstrip(".")
    if other == author.domain:
        return True
    return not strict and (await discover(dns, other)).organizational == author.organizational


def _organizational(domain: str, found: list[DmarcRecord]) -> str:
    """RFC 9989, 4.10.2. `found` is in the order of the walk and ends with the first record that has psd=y or n."""
    if not found:
        return domain
    last = found[-1]
    if last.psd == "y" and last.domain != domain:
        above = last.domain.count(".") + 1
        return ".".join(domain.split(".")[-(above + 1) :])
    return last.domain


async def _record_at(dns: Dns, name: str) -> DmarcRecord | None:
    """The record of a name. None if there is none, or more than one: then none of them counts."""
    records = [tags for text in await dns.txt(f"_dmarc.{name}") if (tags := _tags(text)) is not None]
    if len(records) != 1:
        return None
    [tags] = records
    policy = tags.get("p", "").lower()
    has_reports = "mailto:" in tags.get("rua", "").lower()
    if policy not in POLICIES:
        policy = "none"
    subdomains = tags.get("sp", policy).lower()
    psd = tags.get("psd", "u").lower()
    return DmarcRecord(
        name,
        policy,
        subdomains if subdomains in POLICIES else policy,
        tags.get("adkim", "r").lower() == "s",
        tags.get("aspf", "r").lower() == "s",
        psd if psd in ("y", "n") else "u",
        tags.get("t", "n").lower() == "y",
        has_reports,
    )


def _tags(text: str) -> dict[str, str] | None:
    """The tags of a record that begins with v=DMARC1; of a tag that stands there twice, the first."""
    pairs = [part.partition("=") for part in text.split(";") if part.strip()]
    if not pairs or (pairs[0][0].strip().lower(), pairs[0][2].strip()) != ("v", VERSION):
        return None
    tags: dict[str, str] = {}
    for name, _, value in pairs:
        tags.setdefault(name.strip().lower(), value.strip())
    return tags
