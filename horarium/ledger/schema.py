"""The tables. A change here needs a migration beside it (a test compares the two)."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Instant(TypeDecorator[datetime]):
    """An aware datetime, stored as microseconds since 1970 UTC: the same on both databases."""

    impl = BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> int | None:
        return None if value is None else (value - _EPOCH) // timedelta(microseconds=1)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return None if value is None else _EPOCH + timedelta(microseconds=value)


class Json(TypeDecorator[Any]):
    """JSON as text; we never query inside it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: Any | None, dialect: Dialect) -> str | None:
        return None if value is None else json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

    def process_result_value(self, value: Any | None, dialect: Dialect) -> Any | None:
        return None if value is None else json.loads(value)


metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

agent_versions = Table(
    "agent_versions",
    metadata,
    Column("name", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("definition", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    PrimaryKeyConstraint("name", "version"),
)

tools = Table(
    "tools",
    metadata,
    Column("name", String(64), nullable=False),
    Column("queue", String(200), nullable=False),
    Column("spec", Json, nullable=False),
    Column("seen_at", Instant, nullable=False),
    PrimaryKeyConstraint("name"),
)

threads = Table(
    "threads",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("open_run", String(200), index=True),
    Column("created_at", Instant, nullable=False),
    Column("deleted_at", Instant),
    Column("forked_from", String(200)),
    Column("forked_at", Integer, comment="Place of the last message that was copied."),
)

runs = Table(
    "runs",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("key", String(200)),
    Column("request_digest", String(80)),
    Column("thread_id", ForeignKey("threads.id"), nullable=False),
    Column("agent", String(63), nullable=False),
    Column("version", Integer),
    Column("status", String(20), nullable=False),
    Column("reason", String(100)),
    Column("message", Text),
    Column("requested_by", String(200)),
    Column("resume_from", String(200)),
    Column("tick", String(200), index=True, comment="The tick of which it is an attempt; only the engine writes it."),
    Column("metadata", Json, nullable=False),
    Column("turns", Integer, nullable=False, default=0),
    Column("steps", Integer, nullable=False, default=0),
    Column("input_tokens", BigInteger, nullable=False, default=0),
    Column("output_tokens", BigInteger, nullable=False, default=0),
    Column("cost_micro_usd", BigInteger, nullable=False, default=0),
    Column("created_at", Instant, nullable=False),
    Column("opened_at", Instant),
    Column("closed_at", Instant),
    Column("parent_run", String(200), index=True, comment="That handed it its task."),
    Column("parent_step", Integer),
    Column("path", Json, comment="The agents from the topmost run down to this one's; null: it has no parent."),
    UniqueConstraint("tenant", "key"),
    Index(None, "created_at"),
    Index(None, "thread_id"),
)

run_statuses = Table(
    "run_statuses",
    metadata,
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("seq", Integer, nullable=False, comment="From 1, in the order in which the run had them."),
    Column("status", String(20), nullable=False),
    Column("at", Instant, nullable=False),
    PrimaryKeyConstraint("run_id", "seq"),
)

steps = Table(
    "steps",
    metadata,
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("name", String(200), nullable=False),
    Column("status", String(20), nullable=False),
    Column("effect", String(20), nullable=False),
    Column("key", String(300)),
    Column("call_id", String(200)),
    Column("input_digest", String(80)),
    Column("arguments", Text, comment="Canonical JSON."),
    Column("output", Text, comment="What the model is shown; the whole is in the blob when there is one."),
    Column("output_bytes", BigInteger),
    Column("output_blob", String(80)),
    Column("changes", String(200), comment="What was altered to make the output storable."),
    Column("code", String(100)),
    Column("message", Text),
    Column("by", String(200), comment="The person who settled it, when a person did."),
    Column("attempts", Integer, nullable=False, default=0),
    Column("failures", Integer, nullable=False, default=0),
    Column("permit", Integer, nullable=False, default=0),
    Column("token", String(60), comment="Of the attempt that holds the claim."),
    Column("note", Text, comment="What the model is told before the output, e.g. that a person changed the call."),
    Column("partial", Text, comment="What a streaming model has said so far; gone when settled."),
    Column("model", String(200)),
    Column("input_tokens", Integer, nullable=False, default=0),
    Column("output_tokens", Integer, nullable=False, default=0),
    Column("cost_micro_usd", BigInteger, nullable=False, default=0),
    Column("claimed_at", Instant),
    Column("settled_at", Instant),
    Column(
        "untrusted", Integer, nullable=False, default=0, server_default="0", comment="1: strangers wrote its output."
    ),
    PrimaryKeyConstraint("run_id", "number"),
    Index(None, "key"),
    Index(None, "output_blob"),
)

messages = Table(
    "messages",
    metadata,
    Column("id", Integer().with_variant(BigInteger, "postgresql"), primary_key=True, autoincrement=True),
    Column("thread_id", ForeignKey("threads.id"), nullable=False),
    Column("seq", Integer, comment="Place in the thread; null while it is queued."),
    Column("role", String(10), nullable=False),
    Column("text", Text, comment="Null where the content is a step's."),
    Column("run_id", String(200)),
    Column("step", Integer),
    Column("call_id", String(200), comment="Of a tool's answer that is no step's."),
    Column("author", String(200)),
    Column("ref", String(80), comment="Of a message that was sent to a run: it is stored once."),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("thread_id", "seq"),
    UniqueConstraint("thread_id", "ref"),
)

approvals = Table(
    "approvals",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("kind", String(20), nullable=False, comment="approval, unknown_outcome or held_step."),
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("agent", String(63), nullable=False),
    Column("step", Integer, nullable=False),
    Column("guards", Integer, nullable=False),
    Column("tool", String(64), nullable=False),
    Column("effect", String(20), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("arguments", Text, nullable=False),
    Column("rule", String(40), nullable=False),
    Column("approvers", Json, nullable=False),
    Column("not_by", Json, nullable=False),
    Column("required", Integer, nullable=False),
    Column("requested_by", String(200)),
    Column("text", Text, comment="What is asked, where it is no approval."),
    Column("status", String(20), nullable=False),
    Column("requested_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("escalated_at", Instant),
    Column("decided_at", Instant),
    Column("decided_by", String(200)),
    Column("decided_via", String(20)),
    Column("decided_digest", String(80), comment="Of the arguments that were released."),
    Column("verdict", String(20)),
    Column("comment", Text),
    Column("path", Text, comment="Of a sub-agent's run: the agents from the topmost down, like `chief > clerk`."),
    Column("reassigned", Json, comment="Who handed it to whom, in order; null: nobody did."),
    Index(None, "status"),
    Index(None, "run_id"),
    Index(None, "tenant", "agent", "tool", "decided_at"),
)

votes = Table(
    "votes",
    metadata,
    Column("approval_id", ForeignKey("approvals.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("by", String(200), nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("at", Instant, nullable=False),
    Column("via", String(20), nullable=False),
    Column("key", String(40), comment="That proved who it was; null: the name is a claim."),
    Column("comment", Text),
    PrimaryKeyConstraint("approval_id", "number"),
)

edits = Table(
    "edits",
    metadata,
    Column("approval_id", ForeignKey("approvals.id"), nullable=False),
    Column("digest", String(80), nullable=False),
    Column("arguments", Text, nullable=False, comment="Canonical JSON, as a person changed them."),
    Column("by", String(200), nullable=False),
    Column("at", Instant, nullable=False),
    PrimaryKeyConstraint("approval_id", "digest"),
)

grants = Table(
    "grants",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("agent", String(63), nullable=False),
    Column("scope", String(10), nullable=False),
    Column("scope_id", String(200), nullable=False, comment="Run, thread or agent."),
    Column("tool", String(64), nullable=False),
    Column("schema_digest", String(80), nullable=False, comment="Of the tool's arguments when it was granted."),
    Column("bounds", Json, nullable=False),
    Column("granted_by", String(200), nullable=False),
    Column("granted_in", String(40), comment="The approval it came with."),
    Column("comment", Text),
    Column("created_at", Instant, nullable=False),
    Column("ends_at", Instant, nullable=False),
    Column("revoked_at", Instant),
    Column("revoked_by", String(200)),
    Index(None, "tenant", "agent", "tool"),
)

audit = Table(
    "audit",
    metadata,
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("at", Instant, nullable=False),
    Column("kind", String(40), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("run_id", String(200)),
    Column("subject", String(200), comment="Approval, question, grant, key or link it is about."),
    Column("data", Text, nullable=False, comment="Canonical JSON: the entry as it is hashed."),
    Column("once", String(200), comment="Written at most once under this name.", unique=True),
    Column("previous", String(80), nullable=False),
    Column("hash", String(80), nullable=False),
    Index(None, "run_id"),
)

notices = Table(
    "notices",
    metadata,
    Column("id", String(80), primary_key=True, comment="Derived from event, subject, occurrence and address."),
    Column(
        "address",
        String(80),
        nullable=False,
        comment="Digest of the reference it stands under; the address itself is a secret.",
    ),
    Column("sent_at", Instant, nullable=False),
)

links = Table(
    "links",
    metadata,
    Column("jti", String(60), primary_key=True),
    Column("approval_id", String(40), nullable=False),
    Column("used_by", String(200), nullable=False),
    Column("used_at", Instant, nullable=False),
    Column("verdict", String(20), nullable=False),
    Column("settled_at", Instant, comment="When the decision was accepted; null: the same one may be sent again."),
)

memories = Table(
    "memories",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("kind", String(20), nullable=False, comment="user, procedural or summary."),
    Column("scope", String(200), nullable=False, comment="Of a user's: empty, it goes everywhere."),
    Column("owner", String(200), nullable=False, comment="The user whose it is, folded; empty: nobody's own."),
    Column("subject", String(200), nullable=False, comment="What it is about; folded."),
    Column("created_at", Instant, nullable=False),
    UniqueConstraint("tenant", "kind", "scope", "owner", "subject"),
)

memory_versions = Table(
    "memory_versions",
    metadata,
    Column("id", Integer().with_variant(BigInteger, "postgresql"), primary_key=True, autoincrement=True),
    Column("memory_id", ForeignKey("memories.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column(
        "status", String(20), nullable=False, comment="active, candidate, quarantined, rejected, withdrawn or undone."
    ),
    Column("text", Text, nullable=False),
    Column("run_id", String(200), comment="That taught it first; null: a person wrote it."),
    Column("agent", String(63)),
    Column("model", String(200), comment="That put it into words; null: none did."),
    Column("score", Float, comment="0 to 1, of the run that taught it."),
    Column("judged_by", String(300), comment="The rubric, or `feedback:<person>`."),
    Column("reason", Text, comment="Why it has the status it has."),
    Column("changed_by", String(200), comment="The person who changed it last."),
    Column("created_at", Instant, nullable=False),
    Column("renewed_at", Instant, nullable=False, comment="When it was learned last."),
    Column("expires_at", Instant, comment="Null: never."),
    UniqueConstraint("memory_id", "version"),
    Index(None, "run_id"),
    Index(None, "status"),
)

memory_sources = Table(
    "memory_sources",
    metadata,
    Column("memory_id", String(40), nullable=False),
    Column("version", Integer, nullable=False),
    Column("run_id", String(200), nullable=False),
    Column("score", Float),
    Column("at", Instant, nullable=False),
    PrimaryKeyConstraint("memory_id", "version", "run_id"),
    Index(None, "run_id"),
)

memory_uses = Table(
    "memory_uses",
    metadata,
    Column("memory_id", String(200), nullable=False, comment="Ours, or that of a store elsewhere."),
    Column("version", Integer, nullable=False),
    Column("run_id", String(200), nullable=False),
    Column("step", Integer, nullable=False),
    Column("at", Instant, nullable=False),
    PrimaryKeyConstraint("memory_id", "version", "run_id"),
    Index(None, "run_id"),
)

lessons = Table(
    "lessons",
    metadata,
    Column("run_id", String(200), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("report", Json, nullable=False, comment="What the step says that was learned: ids, no text."),
    Column("feedback", String(10), comment="positive or negative; the last word."),
    Column("feedback_by", String(200)),
    Column("note", Text),
    Column("created_at", Instant, nullable=False),
)

memory_outbox = Table(
    "memory_outbox",
    metadata,
    Column("run_id", String(200), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("store", String(200), nullable=False),
    Column("scope", String(500), nullable=False, comment="As the store has it: tenant and user."),
    Column("items", Json, nullable=False, comment="The messages; emptied when they are delivered."),
    Column(
        "status",
        String(20),
        nullable=False,
        comment="pending, sent, delivered, failed; or held back: candidate, quarantined, rejected, withdrawn.",
    ),
    Column("update_id", String(200), comment="The store's name for what it does."),
    Column("message", Text),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
)

routines = Table(
    "routines",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("tenant", String(64), nullable=False),
    Column("definition", Json, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("generation", Integer, nullable=False, comment="Counts changes of what the schedules are made from."),
    Column("applied", Integer, nullable=False, comment="The generation that Temporal's schedules show."),
    Column("translated_until", Instant, comment="Clock changes are accounted for so far; null: no end."),
    Column("schedules", Json, nullable=False, comment="Triggers that have, or may have, a schedule in Temporal."),
    Column("managed_by", String(20), nullable=False, comment="files or orders; only what is of files can be pruned."),
    Column("paused", Integer, nullable=False, comment="1: no trigger fires."),
    Column("pause_note", Text),
    Column("paused_until", Instant),
    Column("paused_by", String(200), comment="A person, or `engine` after too many failures."),
    Column("held_by", String(200), comment="The tick whose approval the next ones wait for."),
    Column("state", Json, nullable=False, comment="As the last successful tick left it."),
    Column("thread_id", String(200), comment="With `conversation: continue`."),
    Column("previous_tick", String(200), comment="The last successful one."),
    Column("last_tick", String(200), comment="The last that ended after it began, whatever came of it."),
    Column("failures", Integer, nullable=False, comment="Failed ticks in a row."),
    Column("failing_since", Instant, comment="The episode of which people were told once; null: none."),
    Column("watched_until", Instant, nullable=False, comment="Expected fires up to here are accounted for."),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Column("changed_by", String(200)),
    Column("deleted_at", Instant),
    Column("incarnation", Integer, nullable=False, default=1, comment="Counts how often the name was made anew."),
)

ticks = Table(
    "ticks",
    metadata,
    Column("id", String(200), primary_key=True),
    Column("routine", String(63), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("trigger", String(63), comment="Null: a person's, by hand."),
    Column("source", String(20), nullable=False, comment="schedule, event, manual or backfill."),
    Column("scheduled_at", Instant, nullable=False),
    Column("execution", String(64), comment="The workflow's run id that does it; another one finds it done."),
    Column("definition", Json, comment="The routine as the tick was opened with it."),
    Column("event", Json, comment="What set it off, or what a person gave instead of the input."),
    Column("status", String(20), nullable=False),
    Column("reason", String(100)),
    Column("message", Text),
    Column("input", Text, comment="As rendered for the first attempt."),
    Column("state", Json, comment="The routine's state as this tick has changed it so far."),
    Column("attempts", Integer, nullable=False),
    Column("run_id", String(200), comment="Of the latest attempt."),
    Column("thread_id", String(200)),
    Column("next_try_at", Instant),
    Column("output", Text, comment="The final answer, cut."),
    Column("alerts", Json, comment="Of whom people are told now that it is closed; kept for a repeated close."),
    Column("turns", Integer, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cost_micro_usd", BigInteger, nullable=False),
    Column("opened_at", Instant, comment="When the engine first saw it; null: it was missed."),
    Column("started_at", Instant, comment="When it was let in."),
    Column("closed_at", Instant),
    Column("told_at", Instant, comment="While it waits: when it was last told that it may ask again."),
    Column(
        "incarnation",
        Integer,
        nullable=False,
        default=1,
        comment="Of its routine; made anew is another.",
    ),
    Column("overlap", String(20), nullable=False, default="skip", comment="While another one is not done."),
    Column("holds", Integer, nullable=False, default=0, comment="1: it is parked, and the next ones wait for that."),
    Column("changes", Json, comment="What its calls changed in the state: `set` and `gone`."),
    Index(None, "routine", "scheduled_at"),
    Index(None, "status"),
)

summaries = Table(
    "summaries",
    metadata,
    Column("thread_id", ForeignKey("threads.id"), nullable=False),
    Column("upto", Integer, nullable=False, comment="Place of the last message that it stands for."),
    Column("text", Text, nullable=False),
    Column("run_id", String(200), nullable=False),
    Column("step", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    PrimaryKeyConstraint("thread_id", "upto"),
)

toolsets = Table(
    "toolsets",
    metadata,
    Column("digest", String(80), primary_key=True),
    Column("definition", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
)

run_toolsets = Table(
    "run_toolsets",
    metadata,
    Column("run_id", String(200), primary_key=True, comment="Its tools are found before it is opened."),
    Column("digest", ForeignKey("toolsets.digest"), nullable=False),
    Column("agent", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
)

run_functions = Table(
    "run_functions",
    metadata,
    Column("run_id", String(200), primary_key=True, comment="They may be known before it is opened."),
    Column("functions", Json, nullable=False, comment="The tools that whoever started the run carries out."),
    Column("choice", String(64), comment="The tool that has to be called first; `*`: whichever."),
    Column("created_at", Instant, nullable=False),
)

function_calls = Table(
    "function_calls",
    metadata,
    Column("run_id", ForeignKey("runs.id"), nullable=False),
    Column("step", Integer, nullable=False),
    Column("tool", String(64), nullable=False),
    Column("asked_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("submitted_at", Instant, comment="The first output that was submitted stands."),
    Column("by", String(200)),
    Column("digest", String(80), comment="Of the output."),
    Column("output", Text, comment="Null once the step has it, or when it is in the blob store."),
    Column("output_blob", String(80)),
    Column("ended", String(20), comment="Why no output is waited for any longer: expired or withdrawn."),
    PrimaryKeyConstraint("run_id", "step"),
)

trusted_tools = Table(
    "trusted_tools",
    metadata,
    Column("server", String(80), nullable=False, comment="Digest of its URL, or of its command."),
    Column("tool", String(200), nullable=False, comment="As the server names it."),
    Column("label", String(24), nullable=False, comment="What an agent or toolbox called the server first."),
    Column("address", Text, nullable=False, comment="URL or command, for people."),
    Column("trusted_digest", String(80), comment="Null: nobody has looked at it yet."),
    Column("trusted", Json, comment="Name, description and schema as they were trusted."),
    Column("trusted_at", Instant),
    Column("trusted_by", String(200), comment="A person, or `first_use`."),
    Column("seen_digest", String(80), nullable=False),
    Column("seen", Json, nullable=False, comment="Name, description and schema as they were seen last."),
    Column("seen_at", Instant, nullable=False),
    PrimaryKeyConstraint("server", "tool"),
)

toolboxes = Table(
    "toolboxes",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("default_version", Integer, nullable=False),
    Column("previous_version", Integer, comment="The default before this one: where a rollback goes."),
    Column("changed_at", Instant, nullable=False),
    Column("changed_by", String(200)),
)

toolbox_versions = Table(
    "toolbox_versions",
    metadata,
    Column("name", String(63), nullable=False),
    Column("version", Integer, nullable=False),
    Column("digest", String(80), nullable=False),
    Column("definition", Json, nullable=False, comment="Whole, documents included: it never changes."),
    Column("created_at", Instant, nullable=False),
    PrimaryKeyConstraint("name", "version"),
)

tool_workers = Table(
    "tool_workers",
    metadata,
    Column("id", String(80), primary_key=True),
    Column("queue", String(200), nullable=False, index=True),
    Column("host", String(200), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("version", String(40), nullable=False, comment="Of this package there."),
    Column("python", String(20), nullable=False),
    Column("digest", String(80), nullable=False, comment="Of all that it serves: workers of one queue should agree."),
    Column("tools", Json, nullable=False, comment="Name to the digest of its spec."),
    Column("started_at", Instant, nullable=False),
    Column("seen_at", Instant, nullable=False),
    Column("stopped_at", Instant),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True, comment="The part of the key that may be shown."),
    Column("hash", String(80), nullable=False, comment="SHA-256 of the whole key."),
    Column("name", String(200), nullable=False),
    Column("tenant", String(64), nullable=False),
    Column("scopes", Json, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(200)),
    Column("expires_at", Instant),
    Column("last_used_at", Instant),
    Column("revoked_at", Instant),
)

workspace_versions = Table(
    "workspace_versions",
    metadata,
    Column("thread_id", ForeignKey("threads.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("files", Integer, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("run_id", String(200), comment="The run whose step made it; null: a person, or a fork."),
    Column("step", Integer),
    Column("by", String(200)),
    Column("note", Text),
    Column("created_at", Instant, nullable=False),
    PrimaryKeyConstraint("thread_id", "version"),
)

workspace_files = Table(
    "workspace_files",
    metadata,
    Column("thread_id", ForeignKey("threads.id"), nullable=False),
    Column("path", String(1000), nullable=False),
    Column("since", Integer, nullable=False, comment="The first version that has it so."),
    Column("until", Integer, comment="The first version that has it no longer so; null: the latest has it."),
    Column("size", BigInteger, nullable=False),
    Column("digest", String(80), nullable=False, comment="Of its content, in the blob store below `workspaces`."),
    Column("executable", Integer, nullable=False),
    PrimaryKeyConstraint("thread_id", "path", "since"),
    Index(None, "digest"),
    Index("ix_workspace_files_thread_id_until", "thread_id", "until"),
)

workspace_uploads = Table(
    "workspace_uploads",
    metadata,
    Column("id", String(40), nullable=False, comment="Of one attempt to record a version."),
    Column("digest", String(80), nullable=False, comment="A content that is being stored: not to be deleted."),
    Column("created_at", Instant, nullable=False),
    PrimaryKeyConstraint("id", "digest"),
    Index(None, "digest"),
)

workspace_garbage = Table(
    "workspace_garbage",
    metadata,
    Column("digest", String(80), primary_key=True, comment="A content that a version named which is gone."),
)
