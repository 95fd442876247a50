"""What the ledger does not know yet of a held batch."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.sender.results import Result


@dataclass(frozen=True, slots=True)
class Commit:
    """What goes into one group commit for one batch. Withdrawals are older than intents, and are written first."""

    results: Sequence[Result]
    # Recipient ids whose intents are withdrawn: their emails ended before a body left.
    withdrawals: Sequence[int]
    # By recipient id: resolved after the commit with whether the body may leave.
    intents: Mapping[int, asyncio.Future[bool]]
    # Results of emails that were tried.
    in_doubt: int


class Unrecorded:
    """Results, intents and withdrawals of one batch: those that wait, and those in the commit that is running."""

    __slots__ = ("_in_doubt", "_intents", "_is_committing", "_results", "_withdrawals", "in_doubt")

    def __init__(self) -> None:
        self._results: list[Result] = []
        self._intents: dict[int, asyncio.Future[bool]] = {}
        self._withdrawals: list[int] = []
        self._is_committing = False
        #: Results of emails that were tried and that the ledger does not have yet: a crash may send these twice. Those
        #: of the running commit are included.
        self.in_doubt = 0
        self._in_doubt = 0  # those that wait for the next commit

    @property
    def waits(self) -> bool:
        """There is something for the next commit."""
        return bool(self._results or self._intents or self._withdrawals)

    @property
    def is_empty(self) -> bool:
        """Nothing waits and no commit is running."""
        return not self.waits and not self._is_committing

    def add(self, result: Result, *, tried: bool) -> None:
        """Adds a result to the next commit. `tried`: the email was given to a relay."""
        self._results.append(result)
        self._in_doubt += tried
        self.in_doubt += tried

    def add_intent(self, recipient_id: int) -> asyncio.Future[bool]:
        """Adds an intent to the next commit; the future says afterwards whether the body may leave."""
        may_leave: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._intents[recipient_id] = may_leave
        return may_leave

    def withdraw_intent(self, recipient_id: int) -> None:
        """No body left: the ledger forgets the intent, which it may have, may be about to get, or never gets."""
        self._intents.pop(recipient_id, None)
        self._withdrawals.append(recipient_id)

    def begin_commit(self) -> Commit:
        """Hands over everything that waits. One commit runs at a time; it is repeated until it succeeds."""
        commit = Commit(self._results, self._withdrawals, self._intents, self._in_doubt)
        self._results, self._withdrawals, self._intents, self._in_doubt = [], [], {}, 0
        self._is_committing = True
        return commit

    def end_commit(self, commit: Commit, *, may_leave: bool) -> None:
        """The ledger has the commit; bodies that waited for their intent may leave or not."""
        self._is_committing = False
        self.in_doubt -= commit.in_doubt
        for intent in commit.intents.values():
            if not intent.done():
                intent.set_result(may_leave)
