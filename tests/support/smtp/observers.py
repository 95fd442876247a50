"""The base of observers that note something. A compiled class, such as `observe.Silent`, cannot be inherited from."""

from services.sender.smtp.contract import Job, Outcome
from shared.relays.replies import Stage


class Noting:
    """Ignores what a derived class does not override."""

    def phase(self, relay: str, stage: Stage, seconds: float) -> None:
        pass

    def attempt(self, job: Job, outcome: Outcome) -> None:
        pass

    def relay(self, relay: str, state: str, reason: str, seconds: float) -> None:
        pass
