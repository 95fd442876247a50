"""The table of refusals, row by row: what each means for recipient, campaign and relay."""

from dataclasses import replace

import pytest

from services.sender.smtp.classify import CONFUSED, TABLE, classify, rule_for
from services.sender.smtp.contract import Verdict
from shared.relays.replies import Reply, Stage

TRANSIENT, PERMANENT = Verdict.TRANSIENT, Verdict.PERMANENT
SENDER, RELAY, SLOW = Verdict.SENDER_REFUSED, Verdict.RELAY_FAULT, Verdict.THROTTLED
KEEP, SUPPRESS = False, True

CASES = [
    # mailboxes that do not exist
    ("rcpt", "550 5.1.1 <x@y>: Recipient address rejected: User unknown", PERMANENT, SUPPRESS),
    ("rcpt", "550 5.1.2 bad destination system", PERMANENT, SUPPRESS),
    ("rcpt", "553 5.1.3 bad address syntax", PERMANENT, SUPPRESS),
    ("rcpt", "550 5.1.4 ambiguous", PERMANENT, SUPPRESS),
    ("rcpt", "551 5.1.6 mailbox has moved", PERMANENT, SUPPRESS),
    ("rcpt", "550 5.1.10 RESOLVER.ADR.RecipientNotFound", PERMANENT, SUPPRESS),
    ("rcpt", "550 5.2.1 mailbox disabled", PERMANENT, SUPPRESS),
    ("rcpt", "525 5.7.13 user account disabled", PERMANENT, SUPPRESS),
    ("dot", "550 5.1.1 no such user", PERMANENT, SUPPRESS),
    ("data", "550 5.1.1 no such user", PERMANENT, SUPPRESS),
    # the same in words, only where there is no enhanced code
    ("rcpt", "550 No such user here", PERMANENT, SUPPRESS),
    ("rcpt", "550 <x@y>: user unknown", PERMANENT, SUPPRESS),
    ("rcpt", "550 Unknown user", PERMANENT, SUPPRESS),
    ("rcpt", "553 sorry, no mailbox here by that name", PERMANENT, SUPPRESS),
    ("rcpt", "550 The email account that you tried to reach does not exist", PERMANENT, SUPPRESS),
    ("rcpt", "550 Mailbox not found", PERMANENT, SUPPRESS),
    ("rcpt", "550 5.7.1 user unknown to our policy server", PERMANENT, KEEP),
    ("dot", "554 user unknown", PERMANENT, KEEP),
    # policy, content, reputation: never the address's fault
    ("rcpt", "550 5.7.1 blocked", PERMANENT, KEEP),
    ("rcpt", "554 5.7.1 Relay access denied", PERMANENT, KEEP),
    ("rcpt", "550 5.1.7 bad sender's mailbox address syntax", PERMANENT, KEEP),
    ("rcpt", "550 5.1.8 bad sender's system address", PERMANENT, KEEP),
    ("rcpt", "550 rejected because of your IP's reputation", PERMANENT, KEEP),
    ("rcpt", "500 5.3.0 Error: command failed", PERMANENT, KEEP),
    ("data", "554 5.5.1 no valid recipients", PERMANENT, KEEP),
    ("dot", "554 5.7.1 spam message rejected", PERMANENT, KEEP),
    ("dot", "550 5.6.0 malformed content", PERMANENT, KEEP),
    ("dot", "552 5.3.4 message too big", PERMANENT, KEEP),
    ("dot", "552 message size exceeds the limit", PERMANENT, KEEP),
    ("dot", "550", PERMANENT, KEEP),
    # mailboxes that are full may be emptied
    ("rcpt", "452 4.2.2 mailbox full", TRANSIENT, KEEP),
    ("rcpt", "552 5.2.2 over quota", TRANSIENT, KEEP),
    ("dot", "552 5.2.2 over quota", TRANSIENT, KEEP),
    ("rcpt", "552 mailbox is full", TRANSIENT, KEEP),
    ("rcpt", "550 quota exceeded", TRANSIENT, KEEP),
    ("rcpt", "452 4.2.2 too many messages in this mailbox", TRANSIENT, KEEP),
    # not now
    ("mail", "451 4.1.8 sender's domain does not resolve at present", TRANSIENT, KEEP),
    ("mail", "451 local error", TRANSIENT, KEEP),
    ("rcpt", "450 4.3.0 Error: command failed", TRANSIENT, KEEP),
    ("rcpt", "450 4.2.1 mailbox busy", TRANSIENT, KEEP),
    ("rcpt", "451 greylisted, come back later", TRANSIENT, KEEP),
    ("dot", "451 4.3.0 queue file write error", TRANSIENT, KEEP),
    ("dot", "451 5.1.1 codes that disagree: the basic one counts", TRANSIENT, KEEP),
    # the relay asks to slow down, or is short of something
    ("banner", "421 4.7.0 too many connections from your IP", SLOW, KEEP),
    ("ehlo", "421 service not available", SLOW, KEEP),
    ("mail", "421 4.3.2 shutting down", SLOW, KEEP),
    ("rcpt", "421 4.7.28 rate", SLOW, KEEP),
    ("dot", "421 4.4.2 timeout", SLOW, KEEP),
    ("mail", "450 4.7.1 rate limited", SLOW, KEEP),
    ("rcpt", "450 4.7.1 greylisted", SLOW, KEEP),
    ("dot", "451 4.7.500 server busy", SLOW, KEEP),
    ("auth", "454 4.7.0 temporary authentication failure", SLOW, KEEP),
    ("mail", "452 4.3.1 insufficient system storage", SLOW, KEEP),
    ("mail", "452 insufficient system storage", SLOW, KEEP),
    ("dot", "452 4.3.1 insufficient system storage", SLOW, KEEP),
    ("rcpt", "451 4.3.2 not accepting messages", SLOW, KEEP),
    ("rcpt", "452 too many recipients this hour", SLOW, KEEP),
    ("mail", "450 slow down, please", SLOW, KEEP),
    ("dot", "550 5.4.5 daily sending quota exceeded", SLOW, KEEP),
    # the relay cannot be used
    ("banner", "554 5.7.1 you are listed", RELAY, KEEP),
    ("banner", "451 not now", RELAY, KEEP),
    ("ehlo", "550 we do not like your name", RELAY, KEEP),
    ("tls", "454 TLS not available due to temporary reason", RELAY, KEEP),
    ("auth", "535 5.7.8 authentication credentials invalid", RELAY, KEEP),
    ("auth", "534 5.7.9 mechanism too weak", RELAY, KEEP),
    ("mail", "530 5.7.0 must issue a STARTTLS command first", RELAY, KEEP),
    ("rcpt", "530 5.7.0 authentication required", RELAY, KEEP),
    ("mail", "503 5.5.1 nested MAIL command", RELAY, KEEP),
    ("data", "503 5.5.1 need RCPT command", RELAY, KEEP),
    # the sender's address is refused
    ("mail", "550 5.1.8 sender's domain not found", SENDER, KEEP),
    ("mail", "553 5.7.1 sender address rejected: not owned by user", SENDER, KEEP),
    ("mail", "550 5.1.1 no such user", SENDER, KEEP),
    ("mail", "552 5.3.4 message size exceeds fixed limit", SENDER, KEEP),
    ("mail", "501 5.5.4 bad parameter", SENDER, KEEP),
]


@pytest.mark.parametrize(("stage", "reply", "verdict", "suppress"), CASES)
def test_every_refusal_has_its_meaning(stage: str, reply: str, verdict: Verdict, suppress: bool) -> None:
    code, _, text = reply.partition(" ")
    assert classify(Stage(stage), Reply(int(code), text.encode())) == (verdict, suppress)


def test_every_row_decides_some_case() -> None:
    def decides(stage: str, text: str) -> object:
        code, _, words = text.partition(" ")
        reply = Reply(int(code), words.encode())
        return rule_for(Stage(stage), reply.code, reply.enhanced or "", reply.text)

    decided = [decides(stage, reply) for stage, reply, _, _ in CASES]
    assert [rule.why for rule in TABLE if rule not in decided] == []


def test_what_is_no_refusal_blames_the_relay() -> None:
    assert rule_for(Stage.MAIL, 0, "", "timed out") is CONFUSED
    assert CONFUSED.verdict is RELAY


def test_only_recipients_are_suppressed() -> None:
    assert all(rule.verdict is PERMANENT for rule in TABLE if rule.suppress)
    assert all(replace(rule, suppress=False) != rule for rule in TABLE if rule.suppress)
