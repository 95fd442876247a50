"""Rounds, jobs and sweeps that cost what is to be done: bookmarks of long work, and indexes of what is due."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

CONDITIONS = {
    "campaign_starts": ("scheduled_at", "status = 'scheduled'"),
    "campaign_deadlines": ("deliver_by", "status IN ('scheduled', 'queued', 'sending', 'paused', 'stopping')"),
    "campaign_reopening": ("id", "reopen IS NOT NULL"),
}


def upgrade() -> None:
    op.create_table(
        "bookmark",
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    for name, (column, condition) in CONDITIONS.items():
        where = sa.text(condition)
        op.create_index(name, "campaign", [column], postgresql_where=where, sqlite_where=where)
    op.create_index("campaign_by_end", "campaign", ["finished_at"])


def downgrade() -> None:
    op.drop_index("campaign_by_end", "campaign")
    for name in CONDITIONS:
        op.drop_index(name, "campaign")
    op.drop_table("bookmark")
