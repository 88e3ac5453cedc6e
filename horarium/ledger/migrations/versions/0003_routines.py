"""Routines"""

import sqlalchemy as sa
from alembic import op

from horarium.ledger.schema import Instant, Json

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "routines",
        sa.Column("name", sa.String(length=63), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("definition", Json(), nullable=False),
        sa.Column("digest", sa.String(length=80), nullable=False),
        sa.Column(
            "generation", sa.Integer(), nullable=False, comment="Counts changes of what the schedules are made from."
        ),
        sa.Column("applied", sa.Integer(), nullable=False, comment="The generation that Temporal's schedules show."),
        sa.Column(
            "translated_until",
            Instant(),
            nullable=True,
            comment="Clock changes are accounted for so far; null: no end.",
        ),
        sa.Column(
            "schedules", Json(), nullable=False, comment="Triggers that have, or may have, a schedule in Temporal."
        ),
        sa.Column(
            "managed_by",
            sa.String(length=20),
            nullable=False,
            comment="files or orders; only what is of files can be pruned.",
        ),
        sa.Column("paused", sa.Integer(), nullable=False, comment="1: no trigger fires."),
        sa.Column("pause_note", sa.Text(), nullable=True),
        sa.Column("paused_until", Instant(), nullable=True),
        sa.Column(
            "paused_by", sa.String(length=200), nullable=True, comment="A person, or `engine` after too many failures."
        ),
        sa.Column(
            "held_by", sa.String(length=200), nullable=True, comment="The tick whose approval the next ones wait for."
        ),
        sa.Column("state", Json(), nullable=False, comment="As the last successful tick left it."),
        sa.Column("thread_id", sa.String(length=200), nullable=True, comment="With `conversation: continue`."),
        sa.Column("previous_tick", sa.String(length=200), nullable=True, comment="The last successful one."),
        sa.Column(
            "last_tick",
            sa.String(length=200),
            nullable=True,
            comment="The last that ended after it began, whatever came of it.",
        ),
        sa.Column("failures", sa.Integer(), nullable=False, comment="Failed ticks in a row."),
        sa.Column(
            "failing_since", Instant(), nullable=True, comment="The episode of which people were told once; null: none."
        ),
        sa.Column("watched_until", Instant(), nullable=False, comment="Expected fires up to here are accounted for."),
        sa.Column("created_at", Instant(), nullable=False),
        sa.Column("changed_at", Instant(), nullable=False),
        sa.Column("changed_by", sa.String(length=200), nullable=True),
        sa.Column("deleted_at", Instant(), nullable=True),
        sa.Column("incarnation", sa.Integer(), nullable=False, comment="Counts how often the name was made anew."),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_routines")),
    )
    op.create_table(
        "ticks",
        sa.Column("id", sa.String(length=200), nullable=False),
        sa.Column("routine", sa.String(length=63), nullable=False),
        sa.Column("tenant", sa.String(length=64), nullable=False),
        sa.Column("trigger", sa.String(length=63), nullable=True, comment="Null: a person's, by hand."),
        sa.Column("source", sa.String(length=20), nullable=False, comment="schedule, event, manual or backfill."),
        sa.Column("scheduled_at", Instant(), nullable=False),
        sa.Column(
            "execution",
            sa.String(length=64),
            nullable=True,
            comment="The workflow's run id that does it; another one finds it done.",
        ),
        sa.Column("definition", Json(), nullable=True, comment="The routine as the tick was opened with it."),
        sa.Column(
            "event", Json(), nullable=True, comment="What set it off, or what a person gave instead of the input."
        ),
        sa.Column("status", sa.String(length=20), nullable=False),
        sa.Column("reason", sa.String(length=100), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.Column("input", sa.Text(), nullable=True, comment="As rendered for the first attempt."),
        sa.Column("state", Json(), nullable=True, comment="The routine's state as this tick has changed it so far."),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("run_id", sa.String(length=200), nullable=True, comment="Of the latest attempt."),
        sa.Column("thread_id", sa.String(length=200), nullable=True),
        sa.Column("next_try_at", Instant(), nullable=True),
        sa.Column("output", sa.Text(), nullable=True, comment="The final answer, cut."),
        sa.Column(
            "alerts",
            Json(),
            nullable=True,
            comment="Of whom people are told now that it is closed; kept for a repeated close.",
        ),
        sa.Column("turns", sa.Integer(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_micro_usd", sa.BigInteger(), nullable=False),
        sa.Column("opened_at", Instant(), nullable=True, comment="When the engine first saw it; null: it was missed."),
        sa.Column("started_at", Instant(), nullable=True, comment="When it was let in."),
        sa.Column("closed_at", Instant(), nullable=True),
        sa.Column(
            "told_at",
            Instant(),
            nullable=True,
            comment="While it waits: when it was last told that it may ask again.",
        ),
        sa.Column("incarnation", sa.Integer(), nullable=False, comment="Of its routine; made anew is another."),
        sa.Column("overlap", sa.String(length=20), nullable=False, comment="While another one is not done."),
        sa.Column("holds", sa.Integer(), nullable=False, comment="1: it is parked, and the next ones wait for that."),
        sa.Column("changes", Json(), nullable=True, comment="What its calls changed in the state: `set` and `gone`."),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ticks")),
    )
    with op.batch_alter_table("ticks", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_ticks_routine_scheduled_at"), ["routine", "scheduled_at"], unique=False)
        batch_op.create_index(batch_op.f("ix_ticks_status"), ["status"], unique=False)

    with op.batch_alter_table("runs", schema=None) as batch_op:
        batch_op.add_column(
            sa.Column(
                "tick",
                sa.String(length=200),
                nullable=True,
                comment="The tick of which it is an attempt; only the engine writes it.",
            )
        )
        batch_op.create_index(batch_op.f("ix_runs_tick"), ["tick"], unique=False)
