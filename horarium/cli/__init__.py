"""The command line: `horarium NOUNS verb`. Results to stdout, talk to stderr, errors in two lines."""

from __future__ import annotations

from typing import ClassVar, NoReturn

import typer

from horarium.cli.late import Late, LateGroup
from horarium.leaving import leave


class Commands(LateGroup):
    """All commands; what is said of each is the first sentence of its own help."""

    late: ClassVar = {
        "up": Late(
            "stack:up",
            "Start server, worker, gateway and health endpoint on this machine; keep them running until Ctrl-C.",
        ),
        "run": Late("start:run", "Start a run of an agent; print its id, or wait for its answer."),
        "plan": Late(
            "deploy:plan",
            "Show what `horarium apply` would change: routines to create, update and delete, and what somebody changed "
            "in Temporal by hand.",
        ),
        "apply": Late(
            "deploy:apply",
            "Make it so: bring routines into the ledger and their schedules into Temporal, and set right what differs "
            "there.",
        ),
        "worker": Late(
            "stack:worker",
            "Run one worker until Ctrl-C or SIGTERM; what is in flight is finished or handed back.",
        ),
        "gateway": Late(
            "gateway:gateway",
            "Serve REST, the Responses protocol and toolboxes over HTTP until Ctrl-C or SIGTERM.",
        ),
        "serve": Late(
            "serve:serve",
            "Serve one agent: /responses, /invocations and /readiness, until Ctrl-C or SIGTERM.",
        ),
        "init": Late(
            "init:init",
            "Write a small working project: settings, an agent, its prompt, a tool, a routine that is not enabled.",
        ),
        "doctor": Late(
            "doctor:doctor",
            "Check server, ledger, models, credentials, disk, versions, agents, tools, tool workers, routines; say "
            "what to do.",
        ),
        "runs": Late("runs:app", "See what runs did and do, talk to them, and end them."),
        "threads": Late("threads:app", "See what was said in threads, add to them, fork and delete them."),
        "approvals": Late("approvals:app", "See what runs ask of people, and answer."),
        "agents": Late("agents:app", "See the agents of this project, and check their files."),
        "keys": Late("keys:app", "Create, list and revoke the keys that sign decisions."),
        "audit": Late("audit:app", "See who decided what, export it, and check an export."),
        "evidence": Late("evidence_files:app", "Export the signed evidence of a run, and verify such a file."),
        "routine": Late("routines:app", "See routines and their ticks, try them out, run, pause and delete them."),
        "toolbox": Late("toolbox:app", "See toolboxes and their versions, and choose which one counts."),
        "tools": Late("tools:app", "See what MCP servers say of their tools, and say what you trust."),
        "api-keys": Late("apikeys:app", "Create, list and revoke the keys to what is served over HTTP."),
        "memory": Late("memory_review:app", "See, correct and take back what later runs are told."),
        "cron": Late("cron:app", "See what a cron line means."),
        "workspace": Late("workspace:app", "See, fetch, put and remove the files of a thread."),
    }


app = typer.Typer(
    name="horarium",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="""Durable AI agent runs and routines on Temporal.

\b
Begin:
  horarium init hello && cd hello
  horarium up                          (leave it running)
  horarium run hello "Good morning" --watch

Settings come from horarium.toml of the project around the current directory; HORARIUM_TEMPORAL__ADDRESS
overrides `address` in [temporal], and so on.

\b
Exit codes: 0 done, 1 the run (or a check) failed, 2 you typed it wrong or a file is wrong,
3 cannot reach Temporal or the ledger.""",
)


@app.callback()
def _horarium() -> None:
    pass


def main() -> NoReturn:
    """The entry point of the `horarium` program."""
    try:
        app()
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        leave(ended.code or 0)
    leave(0)
