"""A server without any SDK, that says things which no server should: `python babbler.py WHAT`."""

from __future__ import annotations

import json
import sys
from typing import Any

WHAT = sys.argv[1]
SCHEMA = {"type": "object"}


def answer(method: str) -> dict[str, Any]:
    match method:
        case "initialize":
            info = {"name": "babbler", "version": "1"}
            return {"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": info}}
        case "tools/list" if WHAT == "bad list":
            return {"result": {"tools": "none"}}
        case "tools/list" if WHAT == "endless list":
            return {"result": {"tools": [], "nextCursor": "again"}}
        case "tools/list" if WHAT == "twice":
            return {"result": {"tools": [{"name": "a", "inputSchema": SCHEMA}] * 2}}
        case "tools/list" if WHAT == "many":
            return {"result": {"tools": [{"name": f"t{number}", "inputSchema": SCHEMA} for number in range(1_001)]}}
        case "tools/list":
            return {"result": {"tools": [{"name": "talk", "inputSchema": SCHEMA}]}}
        case "tools/call" if WHAT == "bad answer":
            return {"result": {"content": "hello"}}
        case "tools/call":
            return {"result": {"content": [{"type": "text", "text": "hello"}]}}
        case _:
            return {"error": {"code": -32601, "message": "Method not found"}}


def main() -> None:
    if WHAT == "exits":
        sys.exit("no configuration file")
    if WHAT == "text":
        print("Welcome to the babbler!\n{}\n[1, 2]", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        if "id" in asked and WHAT != "silent":
            print(json.dumps({"jsonrpc": "2.0", "id": asked["id"]} | answer(asked["method"])), flush=True)


if __name__ == "__main__":
    main()
