"""States and transitions are complete. A closed recipient opens only at a person's request, or for a received 250."""

from shared.ledger.counts import STATUSES
from shared.ledger.models import Batch
from shared.ledger.states import (
    BATCH_TRANSITIONS,
    CAMPAIGN_TRANSITIONS,
    CLOSED,
    FINAL,
    OPEN,
    RECIPIENT_TRANSITIONS,
    BatchState,
    CampaignStatus,
    RecipientStatus,
    before,
)


def test_every_state_has_its_transitions() -> None:
    assert set(CAMPAIGN_TRANSITIONS) == set(CampaignStatus)
    assert set(BATCH_TRANSITIONS) == set(BatchState)
    assert set(RECIPIENT_TRANSITIONS) == set(RecipientStatus)
    assert set(OPEN) | set(CLOSED) == set(RecipientStatus)


def test_before_is_the_other_way_round() -> None:
    for source, targets in CAMPAIGN_TRANSITIONS.items():
        for target in CampaignStatus:
            assert (source in before(target)) is (target in targets)
    assert before(BatchState.DONE) == (BatchState.SENDING,)
    assert before(RecipientStatus.PENDING) == (RecipientStatus.FAILED, RecipientStatus.UNKNOWN)


def test_every_campaign_can_reach_an_end() -> None:
    for start in CampaignStatus:
        seen, frontier = {start}, [start]
        while frontier:
            for target in CAMPAIGN_TRANSITIONS[frontier.pop()]:
                if target not in seen:
                    seen.add(target)
                    frontier.append(target)
        assert seen & set(FINAL), start


def test_a_received_250_wins_over_every_other_status() -> None:
    for status in RecipientStatus:
        if status != RecipientStatus.SENT:
            assert RecipientStatus.SENT in RECIPIENT_TRANSITIONS[status]
    assert RECIPIENT_TRANSITIONS[RecipientStatus.SENT] == ()


def test_a_batch_counts_every_status() -> None:
    assert set(STATUSES) == {status.value for status in RecipientStatus}
    assert set(STATUSES) <= set(Batch.model_fields)
