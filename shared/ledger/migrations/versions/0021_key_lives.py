"""For how long a key was made: one that is rotated twice keeps its lifetime."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("lives_seconds", sa.Float(precision=53), nullable=True))


def downgrade() -> None:
    op.drop_column("api_key", "lives_seconds")
