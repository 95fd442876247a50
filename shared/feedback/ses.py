"""Events of Amazon SES: what they say, one report for each recipient."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from shared.feedback.meaning import Found, Kind
from shared.feedback.read import tokens_in
from shared.feedback.status import refusal_in
from shared.plain_text import one_line

MOST_RECIPIENTS = 50
LONGEST_TEXT = 500

_LISTS = {
    "bounce": ("bounce", "bouncedRecipients"),
    "complaint": ("complaint", "complainedRecipients"),
    "deliverydelay": ("deliveryDelay", "delayedRecipients"),
}
_FULL, _TOO_LARGE = "552 5.2.2 mailbox full", "552 5.3.4 message too large"
_SAID_BY_TYPE = {
    "NoEmail": "550 5.1.1 no such mailbox",
    "OnAccountSuppressionList": "550 5.1.1 user unknown: on the suppression list of the account",
    "Suppressed": "550 5.1.1 user unknown: on the suppression list of SES",
    "MailboxFull": _FULL,
    "MessageTooLarge": _TOO_LARGE,
    "ContentRejected": "554 5.6.0 content rejected",
    "AttachmentRejected": "554 5.6.0 attachment rejected",
}


@dataclass(frozen=True, slots=True)
class Event:
    """One report of an event."""

    found: Found
    #: SES's id of the email: the relay's queue id.
    queue_id: str


def read_event(event: Mapping[str, Any]) -> list[Event]:
    """The reports in an event of SES (`notificationType` or `eventType`); none if it says nothing of bounces,
    complaints or delays. Raises nothing, whatever the event holds."""
    kind = str(event.get("notificationType") or event.get("eventType") or "").replace(" ", "").lower()
    mail = _object(event.get("mail"))
    if kind not in _LISTS:
        return []
    part, people = _LISTS[kind]
    said = _object(event.get(part))
    queue_id = _line(mail.get("messageId"))[:200]
    tokens = tokens_in("\n".join(_texts(mail)))
    return [
        Event(replace(_found(kind, said, one), tokens=tokens), queue_id)
        for one in map(_object, _list(said.get(people))[:MOST_RECIPIENTS])
    ]


def _found(kind: str, said: Mapping[str, Any], person: Mapping[str, Any]) -> Found:
    address = _line(person.get("emailAddress"))[:320]
    addresses = (address,) if address else ()
    if kind == "complaint":
        feedback = _line(said.get("complaintFeedbackType")) or "abuse"
        meaning = Kind.AUTO_REPLY if feedback == "not-spam" else Kind.COMPLAINED
        return Found(meaning, (), text=feedback, addresses=addresses, reporter=_line(said.get("userAgent"))[:200])
    text = _line(person.get("diagnosticCode")).removeprefix("smtp;").strip()
    if not text:
        text = _SAID_BY_TYPE.get(str(said.get("bounceSubType")), "")
    refusal = refusal_in(text)
    status = refusal_in(_line(person.get("status"))).enhanced
    enhanced = refusal.enhanced or status
    code = refusal.code if enhanced is None or refusal.code // 100 == int(enhanced[0]) else 0
    meaning = Kind.BOUNCED if kind == "bounce" else Kind.DELAYED
    reporter = _line(said.get("reportingMTA")).removeprefix("dns;").strip()[:200]
    return Found(meaning, (), code, enhanced, text, addresses, reporter)


def _texts(mail: Mapping[str, Any]) -> Iterator[str]:
    yield _text(mail.get("source"))
    for header in map(_object, _list(mail.get("headers"))[:200]):
        yield f"{_text(header.get('name'))}: {_text(header.get('value'))}"[:4000]


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _line(value: Any) -> str:
    return one_line(_text(value), LONGEST_TEXT)
