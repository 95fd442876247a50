"""A project's suppressions are listed and exported by an index, without reading those of other projects."""

from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("suppression_by_project", "suppression", ["project_id", "id"])


def downgrade() -> None:
    op.drop_index("suppression_by_project", "suppression")
