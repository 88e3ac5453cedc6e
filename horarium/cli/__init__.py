"""The command line: `horarium NOUNS verb`. Results to stdout, talk to stderr, errors in two lines."""

from __future__ import annotations

from typing import NoReturn

import typer

from horarium.cli import (
    agents,
    apikeys,
    approvals,
    audit,
    cron,
    deploy,
    doctor,
    evidence_files,
    gateway,
    init,
    keys,
    memory_review,
    routines,
    runs,
    serve,
    stack,
    start,
    threads,
    toolbox,
    tools,
    workspace,
)
from horarium.leaving import leave

app = typer.Typer(
    name="horarium",
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

app.command("up")(stack.up)
app.command("run")(start.run)
app.command("plan")(deploy.plan)
app.command("apply")(deploy.apply)
app.command("worker")(stack.worker)
app.command("gateway")(gateway.gateway)
app.command("serve")(serve.serve)
app.command("init")(init.init)
app.command("doctor")(doctor.doctor)
app.add_typer(runs.app, name="runs")
app.add_typer(threads.app, name="threads")
app.add_typer(approvals.app, name="approvals")
app.add_typer(agents.app, name="agents")
app.add_typer(keys.app, name="keys")
app.add_typer(audit.app, name="audit")
app.add_typer(evidence_files.app, name="evidence")
app.add_typer(routines.app, name="routine")
app.add_typer(toolbox.app, name="toolbox")
app.add_typer(tools.app, name="tools")
app.add_typer(apikeys.app, name="api-keys")
app.add_typer(memory_review.app, name="memory")
app.add_typer(cron.app, name="cron")
app.add_typer(workspace.app, name="workspace")


def main() -> NoReturn:
    """The entry point of the `horarium` program."""
    try:
        app()
    except SystemExit as ended:
        if not isinstance(ended.code, int | None):
            raise
        leave(ended.code or 0)
    leave(0)
