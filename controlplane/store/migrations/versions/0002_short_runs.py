"""Short runs: what a trial is held against, and the share of a run that its values rest on."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("share", sa.Float(), nullable=True))
    op.add_column("trials", sa.Column("bar", sa.JSON(), nullable=True))
