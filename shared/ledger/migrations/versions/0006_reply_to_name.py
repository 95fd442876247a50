"""The name beside the address of Reply-To."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Release 0.1.0 reads the address beside it.
    op.add_column("campaign", sa.Column("reply_to_name", sa.String(length=200), nullable=True))


def downgrade() -> None:
    op.drop_column("campaign", "reply_to_name")
