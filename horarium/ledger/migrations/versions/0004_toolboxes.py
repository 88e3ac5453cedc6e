"""Toolboxes, pinned tools, sub-agents, summaries"""

import sqlalchemy as sa
from alembic import op

from horarium.ledger.schema import Instant, Json

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(length=40), nullable=False, comment="The part of the key that may be shown."),
        sa.Column("hash", sa.String(length=80), nullable=False, comment="SHA-256 of the whole key."),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("scopes", Json(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("created_by", sa.String(length=200), nullable=True),
        sa.Column("expires_at", Instant(), nullable=True),
        sa.Column("last_used_at", Instant(), nullable=True),
        sa.Column("revoked_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_api_keys")),
    )
    op.create_table(
        "tool_workers",
        sa.Column("id", sa.String(length=80), nullable=False),
        sa.Column("queue", sa.String(length=200), nullable=False),
        sa.Column("host", sa.String(length=200), nullable=False),
        sa.Column("pid", sa.Integer(), nullable=False),
        sa.Column("version", sa.String(length=40), nullable=False, comment="Of this package there."),
        sa.Column("python", sa.String(length=20), nullable=False),
        sa.Column(
            "digest",
            sa.String(length=80),
            nullable=False,
            comment="Of all that it serves: workers of one queue should agree.",
        ),
        sa.Column("tools", Json(), nullable=False, comment="Name to the digest of its spec."),
        sa.Column("started_at", Instant(), nullable=False),
        sa.Column("seen_at", Instant(), nullable=False),
        sa.Column("stopped_at", Instant(), nullable=True),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_tool_workers")),
    )
    with op.batch_alter_table("tool_workers", schema=None) as batch_op:
        batch_op.create_index(op.f("ix_tool_workers_queue"), ["queue"], unique=False)

    op.create_table(
        "toolbox_versions",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("definition", Json(), nullable=False, comment="Whole, documents included: it never changes."),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", name=op.f("pk_toolbox_versions")),
    )
    op.create_table(
        "toolboxes",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("default_version", sa.Integer(), nullable=False),
        sa.Column(
            "previous_version",
            sa.Integer(),
            nullable=True,
            comment="The default before this one: where a rollback goes.",
        ),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.Column("changed_by", sa.String(length=200), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_toolboxes")),
    )
    op.create_table(
        "toolsets",
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("definition", Json(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_toolsets")),
    )
    op.create_table(
        "trusted_tools",
        sa.Column("server", sa.String(length=80), nullable=False, comment="Digest of its URL, or of its command."),
        sa.Column("tool", sa.String(length=200), nullable=False, comment="As the server names it."),
        sa.Column(
            "label", sa.String(length=24), nullable=False, comment="What an agent or toolbox called the server first."
        ),
        sa.Column("address", sa.Text(), nullable=False, comment="URL or command, for people."),
        sa.Column("trusted_digest", sa.String(length=80), nullable=True, comment="Null: nobody has looked at it yet."),
        sa.Column("trusted", Json(), nullable=True, comment="Name, description and schema as they were trusted."),
        sa.Column("trusted_at", Instant(), nullable=True),
        sa.Column("trusted_by", sa.String(length=200), nullable=True, comment="A person, or `first_use`."),
        sa.Column("seen_digest", sa.String(length=80), nullable=False),
        sa.Column("seen", Json(), nullable=False, comment="Name, description and schema as they were seen last."),
        sa.Column("seen_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("server", "tool", name=op.f("pk_trusted_tools")),
    )
    op.create_table(
        "run_toolsets",
        sa.Column("run_id", sa.String(length=200), nullable=False, comment="Its tools are found before it is opened."),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column("agent", sa.String(length=63), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["digest"], ["toolsets.digest"], name=op.f("fk_run_toolsets_digest_toolsets")),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_run_toolsets")),
    )
    op.create_table(
        "summaries",
        sa.Column("thread_id", sa.String(length=200), nullable=False),
        sa.Column("upto", sa.Integer(), nullable=False, comment="Place of the last message that it stands for."),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name=op.f("fk_summaries_thread_id_threads")),
        sa.PrimaryKeyConstraint("thread_id", "upto", name=op.f("pk_summaries")),
    )
    with op.batch_alter_table("approvals", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "path",
                sa.Text(),
                nullable=True,
                comment="Of a sub-agent's run: the agents from the topmost down, like `chief > clerk`.",
            )
        )

    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column("parent_run", sa.String(length=200), nullable=True, comment="That handed it its task.")
        )
        batch_op.add_column(sa.Column("parent_step", sa.Integer(), nullable=True))
        batch_op.add_column(
            sa.Column(
                "path",
                Json(),
                nullable=True,
                comment="The agents from the topmost run down to this one's; null: it has no parent.",
            )
        )
        batch_op.create_index(op.f("ix_runs_parent_run"), ["parent_run"], unique=False)

    with op.batch_alter_table("steps", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "untrusted", sa.Integer(), server_default="0", nullable=False, comment="1: strangers wrote its output."
            )
        )

    with op.batch_alter_table("threads", schema=None) as batch_op:
        batch_op.add_column(sa.Column("forked_from", sa.String(length=200), nullable=True))
        batch_op.add_column(
            sa.Column("forked_at", sa.Integer(), nullable=True, comment="Place of the last message that was copied.")
        )
