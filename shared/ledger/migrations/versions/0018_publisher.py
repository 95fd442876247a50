"""Which process publishes the events of a project to the broker."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("event_stream", sa.Column("publisher", sa.String(length=64), nullable=True))
    op.add_column("event_stream", sa.Column("publisher_until", sa.Float(precision=53), nullable=True))


def downgrade() -> None:
    op.drop_column("event_stream", "publisher_until")
    op.drop_column("event_stream", "publisher")
