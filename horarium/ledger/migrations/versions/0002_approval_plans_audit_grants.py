"""Approval plans, audit, grants"""

import sqlalchemy as sa
from alembic import op

from horarium.ledger.schema import Instant, Json

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("kind", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=True),
        sa.Column(
            "subject",
            sa.String(length=200),
            nullable=True,
            comment="Approval, question, grant, key or link it is about.",
        ),
        sa.Column("data", sa.Text(), nullable=False, comment="Canonical JSON: the entry as it is hashed."),
        sa.Column("once", sa.String(length=200), nullable=True, comment="Written at most once under this name."),
        sa.Column("previous", sa.String(length=80), nullable=False),
        sa.Column("hash", sa.String(length=80), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_audit")),
        sa.UniqueConstraint("once", name=op.f("uq_audit_once")),
    )
    with op.batch_alter_table("audit", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_audit_run_id"), ["run_id"], unique=False)

    op.create_table(
        "grants",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("agent", sa.String(length=63), nullable=False),
        sa.Column("scope", sa.String(length=10), nullable=False),
        sa.Column("scope_id", sa.String(length=200), nullable=False, comment="Run, thread or agent."),
        sa.Column("tool", sa.String(length=64), nullable=False),
        sa.Column(
            "schema_digest",
            sa.String(length=80),
            nullable=False,
            comment="Of the tool's arguments when it was granted.",
        ),
        sa.Column("bounds", Json(), nullable=False),
        sa.Column("granted_by", sa.String(length=200), nullable=False),
        sa.Column("granted_in", sa.String(length=40), nullable=True, comment="The approval it came with."),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("ends_at", Instant(), nullable=False),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.Column("revoked_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_grants")),
    )
    with op.batch_alter_table("grants", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_grants_tenant_agent_tool"), ["tenant", "agent", "tool"], unique=False)

    op.create_table(
        "links",
        sa.Column("jti", sa.String(length=60), nullable=False),
        sa.Column("approval_id", sa.String(length=40), nullable=False),
        sa.Column("used_by", sa.String(length=200), nullable=False),
        sa.Column("used_at", Instant(), nullable=False),
        sa.Column("verdict", sa.String(length=20), nullable=False),
        sa.Column(
            "settled_at",
            Instant(),
            nullable=True,
            comment="When the decision was accepted; null: the same one may be sent again.",
        ),
        sa.PrimaryKeyConstraint("jti", name=op.f("pk_links")),
    )
    op.create_table(
        "notices",
        sa.Column(
            "id",
            sa.String(length=80),
            nullable=False,
            comment="Derived from event, subject, occurrence and address.",
        ),
        sa.Column(
            "address",
            sa.String(length=80),
            nullable=False,
            comment="Digest of the reference it stands under; the address itself is a secret.",
        ),
        sa.Column("sent_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_notices")),
    )
    op.create_table(
        "edits",
        sa.Column("approval_id", sa.String(length=40), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("arguments", sa.Text(), nullable=False, comment="Canonical JSON, as a person changed them."),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["approval_id"], ["approvals.id"], name=op.f("fk_edits_approval_id_approvals")),
        sa.PrimaryKeyConstraint("approval_id", "digest", name=op.f("pk_edits")),
    )
    op.create_table(
        "votes",
        sa.Column("approval_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("by", sa.String(length=200), nullable=False),
        sa.Column("verdict", sa.String(length=20), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.Column("via", sa.String(length=20), nullable=False),
        sa.Column(
            "key", sa.String(length=40), nullable=True, comment="That proved who it was; null: the name is a claim."
        ),
        sa.Column("comment", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["approval_id"], ["approvals.id"], name=op.f("fk_votes_approval_id_approvals")),
        sa.PrimaryKeyConstraint("approval_id", "number", name=op.f("pk_votes")),
    )
    with op.batch_alter_table("approvals", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("kind", sa.String(length=20), nullable=True, comment="approval, unknown_outcome or held_step.")
        )
        batch_op.add_column(sa.Column("tenant", sa.String(length=64), nullable=True))
        batch_op.add_column(sa.Column("agent", sa.String(length=63), nullable=True))
        batch_op.add_column(sa.Column("rule", sa.String(length=40), nullable=True))
        batch_op.add_column(sa.Column("approvers", Json(), nullable=True))
        batch_op.add_column(sa.Column("not_by", Json(), nullable=True))
        batch_op.add_column(sa.Column("required", sa.Integer(), nullable=True))
        batch_op.add_column(sa.Column("requested_by", sa.String(length=200), nullable=True))
        batch_op.add_column(
            sa.Column("text", sa.Text(), nullable=True, comment="What is asked, where it is no approval.")
        )
        batch_op.add_column(sa.Column("expires_at", Instant(), nullable=True))
        batch_op.add_column(sa.Column("escalated_at", Instant(), nullable=True))
        batch_op.add_column(
            sa.Column(
                "decided_digest", sa.String(length=80), nullable=True, comment="Of the arguments that were released."
            )
        )
        batch_op.add_column(sa.Column("verdict", sa.String(length=20), nullable=True))

    op.execute(
        "UPDATE approvals SET kind = 'approval', rule = 'default', approvers = '[]', not_by = '[]', required = 1, "
        "tenant = (SELECT tenant FROM runs WHERE runs.id = approvals.run_id), "
        "agent = (SELECT agent FROM runs WHERE runs.id = approvals.run_id), "
        "decided_digest = CASE status WHEN 'approved' THEN digest END, "
        "verdict = CASE status WHEN 'approved' THEN 'approve' WHEN 'rejected' THEN 'reject' END"
    )
    with op.batch_alter_table("approvals", schema=None) as batch_op:
        batch_op.alter_column("kind", existing_type=sa.String(length=20), nullable=False)
        batch_op.alter_column("tenant", existing_type=sa.String(length=64), nullable=False)
        batch_op.alter_column("agent", existing_type=sa.String(length=63), nullable=False)
        batch_op.alter_column("rule", existing_type=sa.String(length=40), nullable=False)
        batch_op.alter_column("approvers", existing_type=sa.Text(), nullable=False)
        batch_op.alter_column("not_by", existing_type=sa.Text(), nullable=False)
        batch_op.alter_column("required", existing_type=sa.Integer(), nullable=False)

    with op.batch_alter_table("steps", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "note",
                sa.Text(),
                nullable=True,
                comment="What the model is told before the output, e.g. that a person changed the call.",
            )
        )
