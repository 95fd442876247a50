"""Erased people: erasures, and the secret of the hashes that keep erased people suppressed."""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None

UNFINISHED = sa.text("finished_at IS NULL")
HASHED = sa.text("email = ''")


def upgrade() -> None:
    op.create_table(
        "erasure",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("hashed_key", sa.String(length=80), nullable=False),
        sa.Column("email", sa.String(length=320), nullable=True),
        sa.Column("email_key", sa.String(length=320), nullable=True),
        sa.Column("phase", sa.String(length=16), nullable=False),
        sa.Column("cursor", sa.String(length=40), nullable=True),
        sa.Column("recipients", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.Column("asked_at", sa.Float(precision=53), nullable=False),
        sa.Column("finished_at", sa.Float(precision=53), nullable=True),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
        sa.UniqueConstraint("project_id", "hashed_key", name="erasure_once"),
    )
    op.create_index("erasure_unfinished", "erasure", ["asked_at"], postgresql_where=UNFINISHED, sqlite_where=UNFINISHED)
    op.create_table(
        "hash_secret",
        sa.Column("sealed_for", sa.String(length=32), nullable=False),
        sa.Column("sealed", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Float(precision=53), nullable=False),
        sa.PrimaryKeyConstraint("sealed_for"),
    )
    op.create_index("suppression_hashed", "suppression", ["project_id"], postgresql_where=HASHED, sqlite_where=HASHED)


def downgrade() -> None:
    op.drop_index("suppression_hashed", "suppression")
    op.drop_table("hash_secret")
    op.drop_index("erasure_unfinished", "erasure")
    op.drop_table("erasure")
