"""Domains of projects; scopes and expiry of keys; limits of projects; sessions of the page; the audit."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PROJECT = ("tests_per_hour", "open_imports", "open_streams")


def upgrade() -> None:
    # Release 0.1.0 knows none of these: it accepts a full key after its expiry, and no key with fewer scopes.
    op.add_column("project", sa.Column("closed_at", sa.Float(precision=53), nullable=True))
    op.add_column("project", sa.Column("sender_id", sa.String(length=15), nullable=True))
    for name in PROJECT:
        op.add_column("project", sa.Column(name, sa.Integer(), nullable=True))
    op.add_column("api_key", sa.Column("expires_at", sa.Float(precision=53), nullable=True))
    op.add_column("api_key", sa.Column("last_used_at", sa.Float(precision=53), nullable=True))
    op.add_column("api_key", sa.Column("scopes", sa.String(length=500), nullable=True))
    op.add_column("api_key", sa.Column("sender_domains", sa.Text(), nullable=True))
    domain = op.create_table(
        "domain",
        sa.Column("name", sa.String(length=255), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("made_by", sa.String(length=16), nullable=False),
        sa.Column("created_at", sa.Float(precision=53), nullable=False),
        sa.ForeignKeyConstraint(["project_id"], ["project.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_index("ix_domain_project_id", "domain", ["project_id"])
    op.create_table(
        "page_session",
        sa.Column("id", sa.String(length=64), nullable=False),
        sa.Column("key_id", sa.Uuid(), nullable=False),
        sa.Column("started_at", sa.Float(precision=53), nullable=False),
        sa.Column("seen_at", sa.Float(precision=53), nullable=False),
        sa.Column("expires_at", sa.Float(precision=53), nullable=False),
        sa.Column("ended_at", sa.Float(precision=53), nullable=True),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("browser", sa.String(length=200), nullable=False),
        sa.ForeignKeyConstraint(["key_id"], ["api_key.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("ix_page_session_key_id", "page_session", ["key_id"])
    op.create_table(
        "audit_entry",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=True, nullable=False),
        sa.Column("at", sa.Float(precision=53), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=True),
        sa.Column("via", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=200), nullable=False),
        sa.Column("actor_name", sa.String(length=200), nullable=False),
        sa.Column("action", sa.String(length=200), nullable=False),
        sa.Column("target", sa.String(length=500), nullable=False),
        sa.Column("address", sa.String(length=64), nullable=False),
        sa.Column("result", sa.String(length=100), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("audit_by_project", "audit_entry", ["project_id", "id"])
    op.create_index("audit_by_time", "audit_entry", ["at"])
    _adopt_used_domains(domain)


def downgrade() -> None:
    op.drop_table("audit_entry")
    op.drop_table("page_session")
    op.drop_table("domain")
    for name in ("sender_domains", "scopes", "last_used_at", "expires_at"):
        op.drop_column("api_key", name)
    for name in (*reversed(PROJECT), "sender_id", "closed_at"):
        op.drop_column("project", name)


def _adopt_used_domains(domain: sa.Table) -> None:
    """A project owns the domains that its campaigns were sent from, so that an update locks no one out. If several
    projects used one, it belongs to the one that used it first."""
    campaign = sa.table(
        "campaign", sa.column("project_id", sa.Uuid()), sa.column("from_email"), sa.column("envelope_from"),
        sa.column("created_at"),
    )  # fmt: skip
    connection = op.get_bind()
    owners: dict[str, dict[str, object]] = {}
    for address in (campaign.c.from_email, campaign.c.envelope_from):
        used = connection.execute(
            sa.select(campaign.c.project_id, address.label("address"), sa.func.min(campaign.c.created_at).label("at"))
            .group_by(campaign.c.project_id, address)
            .order_by(sa.text("at"))
        )
        for row in used:
            name = row.address.rpartition("@")[2].lower()
            if name:
                new = {"name": name, "project_id": row.project_id, "made_by": "used", "created_at": row.at}
                owners.setdefault(name, new)
    if owners:
        connection.execute(domain.insert(), list(owners.values()))
