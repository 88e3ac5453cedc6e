"""Memories of three kinds, with versions, provenance, uses and an outbox"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from horarium.ledger.schema import Instant, Json

revision = "0005"
down_revision = "0004"

SERIAL = sa.Integer().with_variant(sa.BigInteger(), "postgresql")
# Full text on SQLite: an index beside the table, kept by triggers. PostgreSQL needs none: it searches among the few
# rows of one tenant and scope.
FULL_TEXT = (
    "CREATE VIRTUAL TABLE memory_words USING fts5(text, content='memory_versions', content_rowid='id')",
    """CREATE TRIGGER memory_words_insert AFTER INSERT ON memory_versions BEGIN
         INSERT INTO memory_words(rowid, text) VALUES (new.id, new.text); END""",
    """CREATE TRIGGER memory_words_delete AFTER DELETE ON memory_versions BEGIN
         INSERT INTO memory_words(memory_words, rowid, text) VALUES ('delete', old.id, old.text); END""",
    """CREATE TRIGGER memory_words_update AFTER UPDATE OF text ON memory_versions BEGIN
         INSERT INTO memory_words(memory_words, rowid, text) VALUES ('delete', old.id, old.text);
         INSERT INTO memory_words(rowid, text) VALUES (new.id, new.text); END""",
)


def upgrade() -> None:
    connection = op.get_bind()
    notes = connection.execute(
        sa.text("SELECT id, tenant, scope, text, run_id, created_at FROM memories ORDER BY id")
    ).all()
    op.drop_table("memories")
    _create()
    if connection.dialect.name == "sqlite":
        for statement in FULL_TEXT:
            op.execute(statement)
    for note in notes:
        _keep(connection, note)


def _create() -> None:
    op.create_table(
        "memories",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False, comment="user, procedural or summary."),
        sa.Column("scope", sa.String(length=200), nullable=False, comment="Of a user's: empty, it goes everywhere."),
        sa.Column(
            "owner", sa.String(length=200), nullable=False, comment="The user whose it is, folded; empty: nobody's own."
        ),
        sa.Column("subject", sa.String(length=200), nullable=False, comment="What it is about; folded."),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_memories")),
        sa.UniqueConstraint(
            "tenant", "kind", "scope", "owner", "subject", name=op.f("uq_memories_tenant_kind_scope_owner_subject")
        ),
    )
    op.create_table(
        "memory_versions",
        sa.Column("id", SERIAL, autoincrement=True, nullable=False),
        sa.Column("memory_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column(
            "status",
            sa.String(length=20),
            nullable=False,
            comment="active, candidate, quarantined, rejected, withdrawn or undone.",
        ),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column(
            "run_id", sa.String(length=200), nullable=True, comment="That taught it first; null: a person wrote it."
        ),
        sa.Column("agent", sa.String(length=63), nullable=True),
        sa.Column("model", sa.String(length=200), nullable=True, comment="That put it into words; null: none did."),
        sa.Column("score", sa.Float(), nullable=True, comment="0 to 1, of the run that taught it."),
        sa.Column("judged_by", sa.String(length=300), nullable=True, comment="The rubric, or `feedback:<person>`."),
        sa.Column("reason", sa.Text(), nullable=True, comment="Why it has the status it has."),
        sa.Column("changed_by", sa.String(length=200), nullable=True, comment="The person who changed it last."),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("renewed_at", Instant(), nullable=False, comment="When it was learned last."),
        sa.Column("expires_at", Instant(), nullable=True, comment="Null: never."),
        sa.ForeignKeyConstraint(["memory_id"], ["memories.id"], name=op.f("fk_memory_versions_memory_id_memories")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_memory_versions")),
        sa.UniqueConstraint("memory_id", "version", name=op.f("uq_memory_versions_memory_id_version")),
    )
    with op.batch_alter_table("memory_versions", schema=None) as batch_op:
        batch_op.create_index(op.f("ix_memory_versions_run_id"), ["run_id"], unique=False)
        batch_op.create_index(op.f("ix_memory_versions_status"), ["status"], unique=False)
    op.create_table(
        "memory_sources",
        sa.Column("memory_id", sa.String(length=40), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("score", sa.Float(), nullable=True),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("memory_id", "version", "run_id", name=op.f("pk_memory_sources")),
    )
    with op.batch_alter_table("memory_sources", schema=None) as batch_op:
        batch_op.create_index(op.f("ix_memory_sources_run_id"), ["run_id"], unique=False)
    op.create_table(
        "memory_uses",
        sa.Column("memory_id", sa.String(length=200), nullable=False, comment="Ours, or that of a store elsewhere."),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("memory_id", "version", "run_id", name=op.f("pk_memory_uses")),
    )
    with op.batch_alter_table("memory_uses", schema=None) as batch_op:
        batch_op.create_index(op.f("ix_memory_uses_run_id"), ["run_id"], unique=False)
    op.create_table(
        "lessons",
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("report", Json(), nullable=False, comment="What the step says that was learned: ids, no text."),
        sa.Column("feedback", sa.String(length=10), nullable=True, comment="positive or negative; the last word."),
        sa.Column("feedback_by", sa.String(length=200), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_lessons")),
    )
    op.create_table(
        "memory_outbox",
        sa.Column("run_id", sa.String(length=200), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("store", sa.String(length=200), nullable=False),
        sa.Column("scope", sa.String(length=500), nullable=False, comment="As the store has it: tenant and user."),
        sa.Column("items", Json(), nullable=False, comment="The messages; emptied when they are delivered."),
        sa.Column(
            "status",
            sa.String(length=20),
            nullable=False,
            comment="pending, sent, delivered, failed; or held back: candidate, quarantined, rejected, withdrawn.",
        ),
        sa.Column("update_id", sa.String(length=200), nullable=True, comment="The store's name for what it does."),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name=op.f("pk_memory_outbox")),
    )


def _keep(connection: sa.Connection, note: Any) -> None:
    """A note of the first form becomes a summary."""
    identity = f"mem_{note.id:026d}"
    connection.execute(
        sa.text(
            "INSERT INTO memories (id, tenant, kind, scope, owner, subject, created_at)"
            " VALUES (:id, :tenant, 'summary', :scope, '', :subject, :at)"
        ),
        {
            "id": identity,
            "tenant": note.tenant,
            "scope": note.scope,
            "subject": note.run_id.casefold(),
            "at": note.created_at,
        },
    )
    connection.execute(
        sa.text(
            "INSERT INTO memory_versions (memory_id, version, status, text, run_id, created_at, renewed_at)"
            " VALUES (:id, 1, 'active', :text, :run, :at, :at)"
        ),
        {"id": identity, "text": note.text, "run": note.run_id, "at": note.created_at},
    )
    connection.execute(
        sa.text("INSERT INTO memory_sources (memory_id, version, run_id, at) VALUES (:id, 1, :run, :at)"),
        {"id": identity, "run": note.run_id, "at": note.created_at},
    )
