"""Tokens that name an email: which batches have them, and the domains that take bounces."""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("batch", sa.Column("has_tokens", sa.Boolean(), nullable=True))
    op.add_column("domain", sa.Column("bounce_domain", sa.String(length=255), nullable=True))


def downgrade() -> None:
    op.drop_column("domain", "bounce_domain")
    op.drop_column("batch", "has_tokens")
