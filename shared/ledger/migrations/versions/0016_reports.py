"""What comes back after the 250: reports, and their counts beside those of the results."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

COUNTS = ("bounced", "complained", "unsubscribed")


def upgrade() -> None:
    op.create_table(
        "report",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=True),
        sa.Column("campaign_id", sa.Uuid(), nullable=True),
        sa.Column("recipient_id", sa.BigInteger(), nullable=True),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("verified", sa.Boolean(), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=True),
        sa.Column("email_key", sa.String(length=320), nullable=True),
        sa.Column("via", sa.String(length=8), nullable=False),
        sa.Column("reporter", sa.String(length=200), server_default="", nullable=False),
        sa.Column("code", sa.Integer(), nullable=True),
        sa.Column("enhanced_code", sa.String(length=16), nullable=True),
        sa.Column("why", sa.String(length=100), nullable=True),
        sa.Column("consequence", sa.String(length=16), nullable=True),
        sa.Column("text", sa.String(length=500), server_default="", nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], ondelete="CASCADE"),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("digest"),
    )
    op.create_index("report_by_campaign", "report", ["campaign_id", "kind", "recipient_id"])
    op.create_index("report_by_recipient", "report", ["recipient_id"])
    op.create_index("report_by_project", "report", ["project_id", "id"])
    op.create_index("report_by_address", "report", ["project_id", "email_key"])
    for name in COUNTS:
        op.add_column("batch", sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False))


def downgrade() -> None:
    for name in COUNTS:
        op.drop_column("batch", name)
    op.drop_table("report")
