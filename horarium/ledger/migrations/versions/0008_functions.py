"""Functions that whoever starts a run carries out; approvals that are handed to others"""

import sqlalchemy as sa
from alembic import op

from horarium.ledger.schema import Instant, Json

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "run_functions",
        sa.Column("run_id", sa.String(length=200), nullable=False, comment="They may be known before it is opened."),
        sa.Column("functions", Json(), nullable=False, comment="The tools that whoever started the run carries out."),
        sa.Column("choice", sa.String(length=64), comment="The tool that has to be called first; `*`: whichever."),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run_functions")),
    )
    op.create_table(
        "function_calls",
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("tool", sa.String(length=64), nullable=False),
        sa.Column("asked_at", Instant(), nullable=False),
        sa.Column("expires_at", Instant()),
        sa.Column("submitted_at", Instant(), comment="The first output that was submitted stands."),
        sa.Column("by", sa.String(length=200)),
        sa.Column("digest", sa.String(length=80), comment="Of the output."),
        sa.Column("output", sa.Text(), comment="Null once the step has it, or when it is in the blob store."),
        sa.Column("output_blob", sa.String(length=80)),
        sa.Column(
            "ended", sa.String(length=20), comment="Why no output is waited for any longer: expired or withdrawn."
        ),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("fk_function_calls_run_id_runs")),
        sa.PrimaryKeyConstraint("run_id", "step", name=op.f("pk_function_calls")),
    )
    with op.batch_alter_table("approvals") as batch_op:
        batch_op.add_column(
            sa.Column("reassigned", Json(), comment="Who handed it to whom, in order; null: nobody did.")
        )
        batch_op.create_index(
            op.f("ix_approvals_tenant_agent_tool_decided_at"), ["tenant", "agent", "tool", "decided_at"]
        )


def downgrade() -> None:
    with op.batch_alter_table("approvals") as batch_op:
        batch_op.drop_index(op.f("ix_approvals_tenant_agent_tool_decided_at"))
        batch_op.drop_column("reassigned")
    op.drop_table("function_calls")
    op.drop_table("run_functions")
