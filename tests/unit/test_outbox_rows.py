"""How the facts of one transaction are kept in a row of the outbox."""

from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from shared.ledger import outbox
from shared.ledger.facts import Fact, FactType
from shared.ledger.models import DEFAULT_PROJECT


@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={name: st.none() | st.integers(0, 2) | st.text("ab", max_size=2) for name in ("code", "reply")}
        ),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_a_row_keeps_each_fact_as_it_was(details: list[dict[str, Any]], is_one_campaign: bool) -> None:
    campaigns_told = [UUID(int=1 if is_one_campaign else number) for number in range(len(details))]
    facts = [
        Fact(FactType.RECIPIENT_SENT, campaign, number, one)
        for number, (campaign, one) in enumerate(zip(campaigns_told, details, strict=True))
    ]
    [row] = outbox.pack(DEFAULT_PROJECT, facts)
    assert list(outbox.unpack(row.facts, row.size)) == [
        {
            "type": "recipient.sent",
            "campaign_id": str(fact.campaign_id),
            "recipient_id": fact.recipient_id,
            **{name: value for name, value in fact.details.items() if value is not None},
        }
        for fact in facts
    ]
