"""The group of relays that a campaign uses."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("campaign", sa.Column("relay_group", sa.String(length=40), nullable=True))


def downgrade() -> None:
    op.drop_column("campaign", "relay_group")
