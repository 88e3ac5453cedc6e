"""The tool `find_tools`, and which tools a turn shows: the few that fit the conversation.

What is shown follows from the conversation alone, so a turn that is tried again shows the same. What is not shown can
be called all the same: a model may know a name from earlier, and every call is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from activities.catalog import Catalog
from activities.engine_tools import FIND_TOOLS
from activities.models.base import TurnMessage
from activities.tool_ranking import Rankings
from horarium.content import shorten
from horarium.definitions import Agent, ToolSearch
from horarium.ledger.agents import ServedTool
from horarium.ledger.database import Ledger
from horarium.ledger.runs import Runs
from horarium.performing import Performer
from horarium.tools import NotPerformed, Performed, ToolContext, ToolSpec
from horarium.visible import one_line

FOUND = 10  # tools in one answer of `find_tools`
KEPT = 10  # of those found, and of those called: the latest go on being shown
ASKED = 2  # messages of the user that say what it is about
QUERY_CHARS = 2_000  # of each message
LINE_CHARS = 200
_LISTED = re.compile(r"^- ([a-zA-Z][a-zA-Z0-9_\-]{0,63}): ", re.MULTILINE)


class ToolFinding:
    """What shows and finds tools; one object for each process."""

    def __init__(self, ledger: Ledger, catalog: Catalog) -> None:
        self._runs = Runs(ledger)
        self._catalog = catalog
        self._rankings = Rankings()

    async def shown(
        self, agent: Agent, tools: Mapping[str, ServedTool], messages: Sequence[TurnMessage]
    ) -> dict[str, ServedTool]:
        """Of a run's tools those that the next turn shows, in the order that they always have.

        Raises:
            ConfigError: The ranking that the agent wants is not installed.
        """
        search = agent.tool_search
        if search is None or len(tools) <= search.show + 1:
            return dict(tools)
        wanted = {FIND_TOOLS.name, *_earlier(messages, tools)}
        wanted.update(await self._best(search, tools, _topic(messages), search.show))
        return {name: tool for name, tool in tools.items() if name in wanted}

    async def find(self, run: str, query: str) -> list[ToolSpec]:
        """The tools of a run that fit a query, the best first."""
        agent = await self._agent(run)
        tools = await self._catalog.of_run(run, agent)
        best = await self._best(agent.tool_search or ToolSearch(), tools, query[:QUERY_CHARS], FOUND)
        return [tools[name].spec for name in best]

    async def performer(self, run: str) -> Performer | None:
        """What answers `find_tools` in a run; None: its agent does not search, and the name is some other tool's."""
        return _FindTools(self, run) if (await self._agent(run)).tool_search is not None else None

    async def _best(self, search: ToolSearch, tools: Mapping[str, ServedTool], query: str, most: int) -> list[str]:
        specs = [tool.spec for name, tool in tools.items() if name != FIND_TOOLS.name]
        return (await self._rankings.of(search.ranking, specs)).best(query, most)

    async def _agent(self, run: str) -> Agent:
        record = await self._runs.get(run)
        return (await self._catalog.agent(record.agent, record.version or 1)).agent


class _FindTools:
    """`find_tools` in one run."""

    def __init__(self, finding: ToolFinding, run: str) -> None:
        self._finding = finding
        self._run = run

    @property
    def spec(self) -> ToolSpec:
        return FIND_TOOLS

    async def perform(self, arguments: Mapping[str, Any], context: ToolContext) -> str:
        found = await self._finding.find(self._run, str(arguments["query"]))
        if not found:
            return "No tool fits these words. Say in other words what it should do, or go on without."
        return "\n".join(["These fit, the best first. From your next turn on you can call them:", *map(_line, found)])

    async def verify(self, arguments: Mapping[str, Any], context: ToolContext) -> Performed | NotPerformed | None:
        return None


def _line(spec: ToolSpec) -> str:
    return f"- {spec.name}: {shorten(one_line(spec.description), LINE_CHARS) or 'no description'}"


def _topic(messages: Sequence[TurnMessage]) -> str:
    """What the conversation is about now: what the user said last, and the model's own last words."""
    asked = [message.text for message in messages if message.role == "user"][-ASKED:]
    said = [message.text for message in messages if message.role == "assistant" and message.text][-1:]
    return "\n".join(text[:QUERY_CHARS] for text in (*asked, *said))


def _earlier(messages: Sequence[TurnMessage], tools: Mapping[str, ServedTool]) -> set[str]:
    """The tools that were called, and those that `find_tools` named; of each the latest."""
    called: list[str] = []
    found: list[str] = []
    asking: set[str] = set()  # call ids of `find_tools`; a later turn may use one again for another tool
    for message in messages:
        if message.role == "assistant":
            for call in message.calls:
                called.append(call.name)
                (asking.add if call.name == FIND_TOOLS.name else asking.discard)(call.id)
        elif message.role == "tool" and message.call_id in asking:
            found += reversed(_LISTED.findall(message.text))  # the best counts as the latest
    return {*_latest(called, tools), *_latest(found, tools)}


def _latest(names: Iterable[str], tools: Mapping[str, ServedTool]) -> Iterator[str]:
    there = dict.fromkeys(name for name in reversed(list(names)) if name in tools and name != FIND_TOOLS.name)
    yield from list(there)[:KEPT]
