"""Says in the ledger how this sender's mail leaves, for the checks of domains: at the start, and again every hour."""

import time
from collections.abc import Iterable, Mapping

from shared.ledger import sending_facts
from shared.ledger.database import Ledger
from shared.ledger.sending_facts import SAY_SECONDS, DkimFact, EgressFact
from shared.messages.dkim import DkimSigner
from shared.relays.config import RelayConfig

LOOK_SECONDS = 60.0


class SendingFacts:
    """The DKIM keys and relays of this process; they never change while it runs."""

    def __init__(self, ledger: Ledger, signers: Mapping[str, DkimSigner], relays: Iterable[RelayConfig]) -> None:
        self._ledger = ledger
        self._dkim = [DkimFact(one.domain, one.selector, one.public_key) for one in signers.values()]
        self._egress = [EgressFact(relay.name, tuple(map(str, relay.egress))) for relay in relays]
        self._due = time.monotonic()

    async def tick(self) -> None:
        """Says it if it is due. After a failure the next tick tries again."""
        if time.monotonic() >= self._due:
            await sending_facts.say(self._ledger, self._dkim, self._egress)
            self._due = time.monotonic() + SAY_SECONDS
