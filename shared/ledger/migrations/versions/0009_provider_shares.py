"""Shares of the senders in what may be in flight to a provider over a relay."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Release 0.1.0 neither reads nor writes it: its emails do not count.
    op.create_table(
        "provider_share",
        sa.Column("relay", sa.String(length=200), nullable=False),
        sa.Column("provider", sa.String(length=200), nullable=False),
        sa.Column("owner", sa.String(length=200), nullable=False),
        sa.Column("emails", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("lease_until", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("relay", "provider", "owner"),
    )


def downgrade() -> None:
    op.drop_table("provider_share")
