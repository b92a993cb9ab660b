"""What configurations in use answered, kept for every worker."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "reference_answers",
        sa.Column("answering", sa.String(length=64), nullable=False),
        sa.Column("hardware", sa.String(length=256), nullable=False),
        sa.Column("answers", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("answering", "hardware", name=op.f("pk_reference_answers")),
    )
