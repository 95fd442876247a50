"""Limits that senders keep exactly: room for each email, caps for hours and days, warm-up."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

COUNTS = ("hour", "hour_count", "day", "day_count")
CAPS = ("emails_per_hour", "emails_per_day", "warmup_start", "warmup_until", "warmup_day")


def upgrade() -> None:
    op.add_column("rate_limit", sa.Column("next_at", sa.Float(precision=53), server_default="0", nullable=False))
    op.add_column("rate_limit", sa.Column("warmup_growth", sa.Float(precision=53), nullable=True))
    for name in CAPS:
        op.add_column("rate_limit", sa.Column(name, sa.Integer(), nullable=True))
    for name in COUNTS:
        op.add_column("rate_limit", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    for name in (*COUNTS, *CAPS, "warmup_growth", "next_at"):
        op.drop_column("rate_limit", name)
