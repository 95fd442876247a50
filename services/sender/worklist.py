"""The rows of a held batch that have not started yet."""

from collections import deque
from collections.abc import Sequence
from itertools import islice

from services.sender.db.worklist import WorklistRow

FIRST_ROWS = 25
"""Rows of a campaign's first slice: its recipients may have much data."""

SLICE_BYTES = 256 * 1024
"""Data in one slice, about: a sender may hold many batches."""


class Worklist:
    """Filled slice by slice, in the order of recipient ids; used up from the front."""

    __slots__ = ("_after_id", "_is_complete", "_last_id", "_rows", "row_bytes")

    def __init__(self, row_bytes: float = 0.0, last_id: int = 0) -> None:
        #: The data of a recipient, on average over a slice of this campaign, the greatest so far; 0: not known yet.
        self.row_bytes = row_bytes
        self._rows: deque[WorklistRow] = deque()
        self._last_id = last_id  # of the batch
        self._after_id = 0  # the last recipient id that was read
        self._is_complete = False  # the last slice was read

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def after_id(self) -> int:
        """The next slice begins after this recipient id."""
        return self._after_id

    @property
    def is_used_up(self) -> bool:
        """Every slice was read and every row was taken."""
        return self._is_complete and not self._rows

    def first(self, most: int) -> Sequence[WorklistRow]:
        """The rows that are taken next, without taking them."""
        return list(islice(self._rows, most))

    def next_rows(self, slice_size: int) -> int:
        """How many rows the next slice may have: at most `slice_size`."""
        if not self.row_bytes:
            return min(slice_size, FIRST_ROWS)
        return max(1, min(slice_size, int(SLICE_BYTES / self.row_bytes)))

    def needs_slice(self, slice_size: int) -> bool:
        """Less than half a slice is left, and there may be more."""
        return not self._is_complete and len(self._rows) < max(1, self.next_rows(slice_size) // 2)

    def add_slice(self, rows: Sequence[WorklistRow], asked: int) -> None:
        """Adds the next slice. The last one is shorter than what was asked for, or ends with the last recipient."""
        self._is_complete = len(rows) < asked or rows[-1].id == self._last_id
        if rows:
            self.row_bytes = max(self.row_bytes, sum(len(row.data or "") for row in rows) / len(rows), 1.0)
            self._after_id = rows[-1].id
            self._rows.extend(rows)

    def take(self) -> WorklistRow:
        """The next row. Raises IndexError if there is none."""
        return self._rows.popleft()

    def put_first(self, row: WorklistRow) -> None:
        """Returns a row that was taken for nothing."""
        self._rows.appendleft(row)

    def put_last(self, row: WorklistRow) -> None:
        """Returns a row whose email is to be tried after the others."""
        self._rows.append(row)
