"""Rescues of a batch without progress in between: its campaign pauses instead of stopping every sender in turn."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch", sa.Column("fruitless", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("batch", sa.Column("rescued_mark", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("batch", "rescued_mark")
    op.drop_column("batch", "fruitless")
