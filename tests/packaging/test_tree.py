"""What may not be in the tree: a machine's path, or the address of a registry."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# In pieces, so that this file does not contain what it looks for.
FORBIDDEN = re.compile(
    "|".join(
        (
            r"/(root|home/\w+|Users/\w+)/",
            r"(?<![\w.$}])/wo" + r"rk/",
            r"https?://[\w.-]*(py" + r"pi|python" + r"hosted|np" + r"mjs|regis" + r"try)[\w.-]*",
            r"(index|extra-index)-" + r"url",
        )
    )
)


def test_no_machine_path_and_no_registry_host_is_in_the_tree():
    found = [
        f"{name}:{number}: {line.strip()[:120]}"
        for name in tracked()
        for number, line in enumerate(text_of(name), 1)
        if FORBIDDEN.search(line)
    ]

    assert found == []


def test_the_look_itself_would_find_one():
    assert FORBIDDEN.search("see /ro" + "ot/project")
    assert FORBIDDEN.search("https://py" + "pi.org/simple")


def tracked() -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    assert len(names) > 50
    return names


def text_of(name: str) -> list[str]:
    try:
        return (ROOT / name).read_text("utf-8").splitlines()
    except UnicodeDecodeError:
        return []
