"""Complaints per provider and day, which alert and hold the next campaign."""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

COMPLAINTS = sa.text("kind = 'complained'")


def upgrade() -> None:
    op.create_table(
        "complaint_rate",
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("provider", sa.String(length=255), nullable=False),
        sa.Column("day", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("complaints", sa.Integer(), nullable=False),
        sa.Column("delivered", sa.Integer(), nullable=False),
        sa.Column("judged_at", sa.Float(precision=53), nullable=False),
        sa.Column("lifted_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("project_id", "provider", "day"),
    )
    op.create_index("report_complaints", "report", ["at"], postgresql_where=COMPLAINTS, sqlite_where=COMPLAINTS)


def downgrade() -> None:
    op.drop_index("report_complaints", "report")
    op.drop_table("complaint_rate")
