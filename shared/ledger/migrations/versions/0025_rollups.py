"""Counts of a campaign without adding up all of its batches: see shared.ledger.rollups."""

import sqlalchemy as sa
from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None

SUMS = (
    *("size", "rescues", "pending", "deferred", "sent", "failed", "suppressed", "expired", "cancelled", "unknown"),
    *("gone", "bounced", "complained", "unsubscribed"),
)


def upgrade() -> None:
    # Release 0.1.0 knows neither, and may change a batch that is in a rollup: closing a campaign adds it up again.
    op.add_column("batch", sa.Column("rolled_up", sa.Boolean(), server_default=sa.false(), nullable=False))
    op.create_index(
        "batch_not_rolled_up",
        "batch",
        ["campaign_id"],
        postgresql_where=sa.text("NOT rolled_up"),
        sqlite_where=sa.text("rolled_up = 0"),
    )
    op.create_table(
        "rollup",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        *(sa.Column(name, sa.BigInteger(), server_default=sa.text("0"), nullable=False) for name in SUMS),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("campaign_id"),
        postgresql_with={"fillfactor": 50},
    )


def downgrade() -> None:
    op.drop_table("rollup")
    op.drop_index("batch_not_rolled_up", "batch")
    op.drop_column("batch", "rolled_up")
