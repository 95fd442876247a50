"""Lists in pages, each found by the key of the last row of the page before."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Row


def cut(rows: Sequence[Row[Any]], limit: int) -> tuple[Sequence[Row[Any]], str | None]:
    """The rows of one page, and the cursor of the next; `rows` has one more than `limit` if there is a next page."""
    page = rows[:limit]
    return page, str(page[-1].id) if len(rows) > limit else None
