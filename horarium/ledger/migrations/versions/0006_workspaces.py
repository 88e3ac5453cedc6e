"""Workspaces"""

import sqlalchemy as sa
from alembic import op

from horarium.ledger.schema import Instant

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "workspace_versions",
        sa.Column("thread_id", sa.String(length=200), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("files", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("run_id", sa.String(length=200), comment="The run whose step made it; null: a person, or a fork."),
        sa.Column("step", sa.Integer()),
        sa.Column("by", sa.String(length=200)),
        sa.Column("note", sa.Text()),
        sa.Column("created_at", Instant(), nullable=False),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name=op.f("fk_workspace_versions_thread_id_threads")),
        sa.PrimaryKeyConstraint("thread_id", "version", name=op.f("pk_workspace_versions")),
    )
    op.create_table(
        "workspace_files",
        sa.Column("thread_id", sa.String(length=200), nullable=False),
        sa.Column("path", sa.String(length=1000), nullable=False),
        sa.Column("since", sa.Integer(), nullable=False, comment="The first version that has it so."),
        sa.Column(
            "until", sa.Integer(), comment="The first version that has it no longer so; null: the latest has it."
        ),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column(
            "digest",
            sa.String(length=80),
            nullable=False,
            comment="Of its content, in the blob store below `workspaces`.",
        ),
        sa.Column("executable", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name=op.f("fk_workspace_files_thread_id_threads")),
        sa.PrimaryKeyConstraint("thread_id", "path", "since", name=op.f("pk_workspace_files")),
    )
    op.create_index(op.f("ix_workspace_files_digest"), "workspace_files", ["digest"])
    op.create_index("ix_workspace_files_thread_id_until", "workspace_files", ["thread_id", "until"])
    op.create_table(
        "workspace_uploads",
        sa.Column("id", sa.String(length=40), nullable=False, comment="Of one attempt to record a version."),
        sa.Column(
            "digest", sa.String(length=80), nullable=False, comment="A content that is being stored: not to be deleted."
        ),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", "digest", name=op.f("pk_workspace_uploads")),
    )
    op.create_index(op.f("ix_workspace_uploads_digest"), "workspace_uploads", ["digest"])
    op.create_table(
        "workspace_garbage",
        sa.Column(
            "digest", sa.String(length=80), nullable=False, comment="A content that a version named which is gone."
        ),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_workspace_garbage")),
    )
