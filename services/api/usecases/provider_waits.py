"""Which deferred recipients wait for their provider, and which for their retry."""

from typing import Any

from shared.faults.judge import judge
from shared.faults.meaning import Fault
from shared.ledger.states import RecipientStatus
from shared.providers import Providers
from shared.relays.replies import Stage

OUR_WORDS = "waits for "
"""How a sender's note begins when a limit of the provider leaves no room (`services/sender/provider_gate.py`)."""

_PROVIDERS = Providers()


def waiting_for(row: Any) -> str | None:
    """The provider and the relay that a recipient waits for ("gmail at smtp.example.com"); None: it does not.

    `row` has `status`, `email`, `attempts`, `smtp_code`, `enhanced_code`, `reply` and `relay`. A refusal by a provider
    spends no attempt, so a deferred recipient without one waits for its provider whatever the reply says."""
    if row.status != RecipientStatus.DEFERRED or not row.relay:
        return None
    if row.attempts and not (row.reply or "").startswith(OUR_WORDS) and not _blames_provider(row):
        return None
    return f"{_PROVIDERS.of(row.email.rpartition('@')[2].lower()).name} at {row.relay}"


def _blames_provider(row: Any) -> bool:
    if row.smtp_code is None:
        return False
    return judge(Stage.RCPT, row.smtp_code, row.reply or "", row.enhanced_code).fault is Fault.PROVIDER
