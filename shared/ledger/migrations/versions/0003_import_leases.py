"""Imports under a lease: one whose process has died is found within seconds, and what it held is let go."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Release 0.1.0 writes neither: for an import of its making the time since the last row counts, as it did there.
    op.add_column("import", sa.Column("lease_until", sa.Float(precision=53), nullable=True))
    op.add_column("import", sa.Column("idempotency_key", sa.String(length=200), nullable=True))


def downgrade() -> None:
    op.drop_column("import", "idempotency_key")
    op.drop_column("import", "lease_until")
