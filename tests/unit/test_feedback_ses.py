"""Events of Amazon SES mean what they say; anything else means nothing, and raises nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.feedback.meaning import Kind
from shared.feedback.ses import read_event
from tests.support.feedback_corpus import ANN, LINK, RCPT, TOKEN

MAIL: dict[str, Any] = {
    "messageId": "0102018b-queue",
    "source": RCPT,
    "headers": [{"name": "List-Unsubscribe", "value": f"<https://mail.example.com/u/{LINK}>"}],
}


def bounce(**said: Any) -> dict[str, Any]:
    person: dict[str, Any] = {"emailAddress": ANN}
    person |= {key: said.pop(key) for key in ("status", "diagnosticCode") if key in said}
    return {"notificationType": "Bounce", "mail": MAIL, "bounce": {"bouncedRecipients": [person], **said}}


@pytest.mark.parametrize(
    ("said", "consequence"),
    [
        ({"status": "5.1.1", "diagnosticCode": "smtp; 550 5.1.1 user unknown", "bounceSubType": "NoEmail"}, "suppress"),
        ({"bounceType": "Permanent", "bounceSubType": "NoEmail"}, "suppress"),
        ({"bounceType": "Transient", "bounceSubType": "MailboxFull"}, "retry"),
        ({"status": "5.3.0", "diagnosticCode": "smtp; 554 5.7.1 rejected as spam by content filter"}, "spread"),
        ({"bounceType": "Permanent", "bounceSubType": "OnAccountSuppressionList"}, "fail"),
    ],
)
def test_a_bounce(said: dict[str, Any], consequence: str) -> None:
    [event] = read_event(bounce(**said))
    judgement = event.found.judgement()
    assert judgement is not None
    assert (event.found.kind, judgement.consequence.value) == (Kind.BOUNCED, consequence)
    assert (event.queue_id, event.found.addresses) == ("0102018b-queue", (ANN,))
    assert event.found.tokens == (TOKEN, LINK)


def test_complaints_and_delays() -> None:
    complaint = {"eventType": "Complaint", "mail": MAIL, "complaint": {"complainedRecipients": [{"emailAddress": ANN}]}}
    [event] = read_event(complaint)
    assert (event.found.kind, event.found.text) == (Kind.COMPLAINED, "abuse")
    delay = {
        "eventType": "DeliveryDelay",
        "mail": MAIL,
        "deliveryDelay": {"delayedRecipients": [{"emailAddress": ANN, "status": "4.4.1"}]},
    }
    [event] = read_event(delay)
    assert (event.found.kind, event.found.enhanced) == (Kind.DELAYED, "4.4.1")


@pytest.mark.parametrize("kind", ["Delivery", "Send", "Open", "Click", "Rendering Failure", "Subscription", ""])
def test_other_events_say_nothing(kind: str) -> None:
    assert read_event({"eventType": kind, "mail": MAIL}) == []


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=20), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(["Bounce", "Complaint", "DeliveryDelay", "x"]), values, values, values)
def test_anything_is_read(kind: str, mail: Any, said: Any, people: Any) -> None:
    inner = {"bouncedRecipients": people, "complainedRecipients": people, "delayedRecipients": people}
    for part in (said, inner):
        event = {"eventType": kind, "mail": mail, "bounce": part, "complaint": part, "deliveryDelay": part}
        for one in read_event(event):
            one.found.judgement()
