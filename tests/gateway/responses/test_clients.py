"""The official clients, for Python and for JavaScript: the same program, and both see the same."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conftest import World
from tests.gateway.responses import matrix
from tests.gateway.responses.conftest import Desk
from tests.support.engine import asks, call, says
from tests.support.thirdparty import node, openai_client

HERE = Path(__file__).parent
LONG = "The quick brown fox jumps over the lazy dog."
LINES = (
    says("It is sunny."),
    asks(call("look")),
    says(LONG),
    says("It rains."),
    says('{"shelf": "A1"}'),
    says("Gone."),
    says("Night."),
    asks(call("pay", amount=30)),
    says("Paid."),
    asks(call("get_weather", city="Oslo")),
    says("Cold."),
    says("Hello, Ana."),
    asks(call("pay", amount=40)),
    asks(call("wait")),
    says(LONG),
)
CALL = [
    *("output_item.added", "mcp_call.in_progress", "mcp_call_arguments.delta", "mcp_call_arguments.done"),
    *("mcp_call.completed", "output_item.done"),
]
TEXT = [
    *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta", "output_text.done"),
    *("content_part.done", "output_item.done"),
]
STREAMED = {"types": ["created", "in_progress", *CALL, *TEXT, "completed"], "numbered": True, "text": LONG}
WRONG = "invalid_request_error"
SEEN: dict[str, Any] = {
    "models": ["clerk"],
    "plain": ["completed", "It is sunny.", 15, {"ticket": "7"}, "clerk"],
    "stream": STREAMED,
    "helper": ["It rains.", "It rains.", "completed"],
    "parse": {"shelf": "A1"},
    "background": [True, True, "completed", "Gone."],
    "starting_after": True,
    "next": ["Night.", True],
    "approval": ["mcp_approval_request", "pay", '{"amount":30}', ["mcp_call", "message"], "Paid."],
    "functions": [['{"city":"Oslo"}'], "Cold."],
    "conversation": [True, ["I am Ana.", "Greet me.", "Hello, Ana."]],
    "conversation gone": True,
    "cancel": ["mcp_approval_request", "cancelled"],
    "deleted": ["NotFoundError", 404, WRONG, "response_not_found", None],
    "wrong key": ["AuthenticationError", 401, "authentication_error", "unauthorized", None],
    "wrong origin": ["PermissionDeniedError", 403, "permission_error", "not_allowed", None],
    "no such model": ["NotFoundError", 404, WRONG, "model_not_found", "model"],
    "unknown parameter": ["BadRequestError", 400, WRONG, "unknown_parameter", "nonsense"],
    "too large": ["APIStatusError", 413, WRONG, "too_large", None],
    "not kept": ["BadRequestError", 400, WRONG, "bad_request", None],
    "nowhere": ["NotFoundError", 404, WRONG, "not_found", None],
    "not done": ["APIStatusError", 405, WRONG, "method_not_allowed", None],
    "dropped": "response.mcp_call.in_progress",
    "taken up": STREAMED,
}


async def test_the_client_for_python_sees_what_a_program_needs(desk: Desk, world: World) -> None:
    desk.says(*LINES)
    seen: dict[str, Any] = {}
    url, key, go_on = f"{desk.serving.url}/v1", desk.keys["admin"], threading.Event()

    def say(name: str, what: Any) -> None:
        seen[name] = what
        if name == "dropped":
            world.released.set()
            go_on.set()

    await asyncio.to_thread(matrix.run, url, key, say, lambda: _waited(go_on))

    assert seen == SEEN


def _waited(event: threading.Event) -> None:
    assert event.wait(30)


@pytest.mark.timeout(400)  # the first installs it
async def test_the_client_for_javascript_sees_the_same(desk: Desk, world: World, tmp_path: Path) -> None:
    modules = await asyncio.to_thread(openai_client)
    program = await asyncio.to_thread(node)
    (tmp_path / "node_modules").symlink_to(modules)
    (tmp_path / "matrix.mjs").write_text((HERE / "matrix.mjs").read_text())
    desk.says(*LINES)
    url, key = f"{desk.serving.url}/v1", desk.keys["admin"]
    process = await asyncio.create_subprocess_exec(
        *(program, "matrix.mjs", url, key),
        cwd=tmp_path,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    seen: dict[str, Any] = {}
    try:
        async with asyncio.timeout(90):
            async for line in process.stdout:
                name, what = json.loads(line)
                seen[name] = what
                if name == "dropped":
                    world.released.set()
                    process.stdin.write(b"go on\n")
            wrong = (await process.stderr.read()).decode()
            assert await process.wait() == 0, wrong
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

    plain = {"too large": ["APIError", *SEEN["too large"][1:]], "not done": ["APIError", *SEEN["not done"][1:]]}
    assert seen == SEEN | plain  # its class for a status that has none of its own
