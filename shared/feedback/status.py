"""Delivery status notifications (RFC 3464, and RFC 6533 for addresses that are not ASCII)."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from shared.faults.judge import enhanced_code
from shared.feedback.meaning import Found, Kind
from shared.feedback.mime import Part, decoded_words, fields

TYPES = ("message/delivery-status", "message/global-delivery-status", "text/delivery-status")

MOST_GROUPS = 50

_STATUS = re.compile(r"(?<![\d.])([245])\.(\d{1,3})\.(\d{1,3})(?![\d.]*\d)")
_CODE = re.compile(r"(?<![\d.])([245]\d\d)(?=[\s\-#:;,.]|$)")
_ACTIONS = {
    "failed": Kind.BOUNCED,
    "failure": Kind.BOUNCED,
    "delayed": Kind.DELAYED,
    "delivered": Kind.DELIVERED,
    "relayed": Kind.DELIVERED,
    "expanded": Kind.DELIVERED,
}
_BY_CLASS = {"2": Kind.DELIVERED, "4": Kind.DELAYED, "5": Kind.BOUNCED}
_GENERIC = re.compile(r"[245]\.(?:0\.0|1\.0|5\.0|7\.0)")
_NEW_GROUP = ("final-recipient", "original-recipient", "action", "status")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Codes and words of a refusal."""

    code: int
    enhanced: str | None
    text: str


def read_status(part: Part) -> Found | None:
    """What a delivery status says. None if it names no recipient. Our emails have one each: if it names several, a list
    or an alias has sent the email on (see `about.py`)."""
    return read_fields(part_fields(part))


def part_fields(part: Part) -> list[tuple[str, str]]:
    """The fields of a delivery status, of all its groups in order."""
    text = "\n".join(f"{name}: {value}" for name, value in part.headers if name not in _OF_THE_PART)
    # Some servers leave the empty line out that ends a part's headers.
    inner = "\n".join(piece.text() for piece in part.walk() if piece.body)
    return fields(f"{text}\n{inner}")


_OF_THE_PART = ("content-type", "content-transfer-encoding", "content-description", "content-disposition", "content-id")


def read_fields(found: Sequence[tuple[str, str]]) -> Found | None:
    """The same, of fields."""
    message, groups = _grouped(found)
    reports = [report for group in groups if (report := _report(group)) is not None]
    if not reports:
        return None
    reporter = _value(message.get("reporting-mta", ""))[:200]
    reports.sort(key=lambda report: _ORDER.index(report.kind))
    return replace(reports[0], reporter=reporter, of_each=tuple(reports) if len(reports) > 1 else ())


_ORDER = (Kind.BOUNCED, Kind.DELAYED, Kind.DELIVERED)


def refusal_in(text: str) -> Refusal:
    """Codes and words of a reply such as `550 5.1.1 <x>: User unknown`."""
    found = _CODE.search(text[:200])
    code = int(found[1]) if found else 0
    enhanced = enhanced_code(code, text)
    if enhanced is None and (status := _STATUS.search(text[:400])) is not None:
        enhanced = status[0] if not code or status[1] == str(code)[0] else None
    return Refusal(code, enhanced, text)


def _grouped(found: Sequence[tuple[str, str]]) -> tuple[dict[str, str], list[dict[str, str]]]:
    """The fields of the message, and of each recipient. A field that comes again begins the next recipient, so empty
    lines do not matter."""
    message: dict[str, str] = {}
    groups: list[dict[str, str]] = []
    for name, value in found:
        if name in _NEW_GROUP and (not groups or name in groups[-1]):
            if len(groups) == MOST_GROUPS:
                break
            groups.append({})
        (groups[-1] if groups else message).setdefault(name, value)
    return message, groups


def _report(group: dict[str, str]) -> Found | None:
    status = _STATUS.search(group.get("status", ""))
    said = refusal_in(decoded_words(_value(group.get("diagnostic-code", ""))))
    action = group.get("action", "").strip().lower().split(" ")[0].rstrip(".;")
    kind = _ACTIONS.get(action)
    if kind is None:
        level = status[1] if status else str(said.code)[0]
        kind = _BY_CLASS.get(level)
    if kind is None:
        return None
    enhanced = status[0] if status else None
    if said.enhanced is not None and (enhanced is None or _GENERIC.fullmatch(enhanced)):
        enhanced = said.enhanced
    code = said.code
    if enhanced is not None and code // 100 != int(enhanced[0]):
        code = 0
    addresses = [
        _value(group[name]).strip("<> ") for name in ("original-recipient", "final-recipient") if name in group
    ]
    return Found(kind, (), code, enhanced, said.text, tuple(one[:320] for one in addresses if one))


def _value(text: str) -> str:
    """Without its type: `rfc822; ann@example.com`, `smtp; 550 No`."""
    kind, semicolon, rest = text.partition(";")
    return rest.strip() if semicolon and re.fullmatch(r"\s*[A-Za-z0-9-]{1,40}\s*", kind) else text.strip()
