"""The statuses of runs, one after the other"""

import sqlalchemy as sa
from alembic import op

from horarium.ledger.schema import Instant

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "run_statuses",
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("seq", sa.Integer(), nullable=False, comment="From 1, in the order in which the run had them."),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_run_statuses_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "seq", name=op.f("pk_run_statuses")),
    )
    op.execute(
        "INSERT INTO run_statuses (run_id, seq, status, at) "
        "SELECT id, 1, status, coalesce(closed_at, opened_at, created_at) FROM runs"
    )


def downgrade() -> None:
    op.drop_table("run_statuses")
