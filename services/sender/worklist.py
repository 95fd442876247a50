"""The rows of a held batch that have not started yet."""

from collections import deque
from collections.abc import Sequence

from services.sender.db.worklist import WorklistRow


class Worklist:
    """Filled slice by slice, in the order of recipient ids; used up from the front."""

    __slots__ = ("_after_id", "_is_complete", "_rows")

    def __init__(self) -> None:
        self._rows: deque[WorklistRow] = deque()
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

    def needs_slice(self, slice_size: int) -> bool:
        """Less than half a slice is left, and there may be more."""
        return not self._is_complete and len(self._rows) < slice_size // 2

    def add_slice(self, rows: Sequence[WorklistRow], slice_size: int) -> None:
        """Adds the next slice; one shorter than `slice_size` is the last."""
        self._is_complete = len(rows) < slice_size
        if rows:
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
