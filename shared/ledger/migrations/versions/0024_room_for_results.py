"""More room on each page of recipients, so that most results are recorded without touching an index."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _leave_full(50)


def downgrade() -> None:
    _leave_full(80)


def _leave_full(percent: int) -> None:
    """Takes effect on new pages. It waits for no reader or writer, and none waits for it."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(f"ALTER TABLE recipient SET (fillfactor = {percent})")
