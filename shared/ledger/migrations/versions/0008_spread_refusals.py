"""Refusals of a campaign's content or sender that all senders count together."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Release 0.1.0 does not write it: it counts nothing of this kind.
    op.create_table(
        "spread_refusals",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("recent", sa.Text(), nullable=False),
        sa.Column("reply", sa.String(length=500), nullable=True),
        sa.Column("sent_before", sa.Integer(), nullable=True),
        sa.Column("tripped_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("campaign_id"),
    )


def downgrade() -> None:
    op.drop_table("spread_refusals")
