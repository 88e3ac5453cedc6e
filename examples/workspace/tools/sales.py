"""Tools that work on the files of their thread. The names come from the model, so they go through `workspace`."""

import csv
import io

from horarium import ToolContext, tool


@tool(effect="idempotent")
def count_day(day: str, archive: str, context: ToolContext) -> str:
    """Count the sales of a day, from an archive that somebody put into the workspace."""
    workspace = context.workspace
    workspace.extract(archive, into="sales")  # a member that leads out, or a bomb, is refused
    rows = csv.DictReader(io.StringIO(workspace.read_text(f"sales/{day}.csv")))
    total = sum(int(row["amount"]) for row in rows)
    workspace.write_text(f"totals/{day}.txt", str(total))
    return f"{day}: {total}"


@tool(effect="idempotent")
def write_report(context: ToolContext) -> str:
    """Write report.md from all days that were counted so far, in this run or an earlier one."""
    workspace = context.workspace
    days = workspace.list("totals/*.txt")
    lines = [f"- {name[7:-4]}: {workspace.read_text(name)}" for name in days]
    workspace.write_text("report.md", "# Sales\n" + "\n".join(lines) + "\n")
    return f"{len(days)} days"
