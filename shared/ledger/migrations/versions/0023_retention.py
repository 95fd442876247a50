"""Retention: results of campaigns that ended long ago are deleted; counts and a summary stay."""

import sqlalchemy as sa
from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

KEPT = sa.text("forgotten_at IS NULL")
UNDER_WAY = sa.text("ended_at IS NULL")


def upgrade() -> None:
    op.add_column("project", sa.Column("retention_days", sa.Integer(), nullable=True))
    op.add_column("campaign", sa.Column("forgotten_at", sa.Float(precision=53), nullable=True))
    op.create_index("campaign_kept", "campaign", ["finished_at"], postgresql_where=KEPT, sqlite_where=KEPT)
    op.create_table(
        "forgotten_campaign",
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("days", sa.Integer(), nullable=False),
        sa.Column("began_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("cursor", sa.BigInteger(), server_default=sa.text("0"), nullable=False),
        sa.Column("recipients", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("reports", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("refusals", sa.Text(), server_default="[]", nullable=False),
        sa.ForeignKeyConstraint(["campaign_id"], ["campaign.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("campaign_id"),
        postgresql_with={"fillfactor": 50},
    )
    op.create_index(
        "forgotten_under_way", "forgotten_campaign", ["began_at"], postgresql_where=UNDER_WAY, sqlite_where=UNDER_WAY
    )
    op.create_table(
        "forgotten_people",
        sa.Column("first_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("campaign_id", sa.Uuid(), nullable=False),
        sa.Column("people", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("first_id"),
    )


def downgrade() -> None:
    op.drop_table("forgotten_people")
    op.drop_table("forgotten_campaign")
    op.drop_index("campaign_kept", "campaign")
    op.drop_column("campaign", "forgotten_at")
    op.drop_column("project", "retention_days")
