"""Breakers: refusals at a relay, addresses without a mailbox by batch, and suppressions in doubt."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Release 0.1.0 writes none of these: what it sends is not judged, and its resume leaves `breaker` as it is.
    op.create_table(
        "relay_refusals",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("relay", sa.String(length=200), nullable=False),
        sa.Column("recent", sa.Text(), nullable=False),
        sa.Column("reply", sa.String(length=500), nullable=True),
        sa.Column("list_domains", sa.Integer(), nullable=True),
        sa.Column("since", sa.Float(precision=53), nullable=True),
        sa.Column("tripped_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("campaign_id", "relay"),
    )
    op.add_column("campaign", sa.Column("breaker", sa.String(length=16), nullable=True))
    op.add_column("campaign", sa.Column("list_breaker_off", sa.Boolean(), nullable=True))
    op.add_column("batch", sa.Column("gone", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("suppression", sa.Column("provisional", sa.Boolean(), nullable=True))


def downgrade() -> None:
    op.drop_column("suppression", "provisional")
    op.drop_column("batch", "gone")
    op.drop_column("campaign", "list_breaker_off")
    op.drop_column("campaign", "breaker")
    op.drop_table("relay_refusals")
