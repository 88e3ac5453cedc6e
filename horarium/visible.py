"""Text that may be hostile, made so that a person sees what it is.

Whatever a model or a tool wrote passes through here on its way to a terminal, a mail or a page: an escape sequence or a
right-to-left override must not change what a person believes they approve.
"""

from __future__ import annotations

import json
import unicodedata

# Look like a blank, or like nothing, although Unicode calls them letters, symbols or marks.
_BLANK = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
_HIDDEN_CATEGORIES = frozenset(("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp"))


def visible(text: str) -> str:
    """The text with every character that a reader would not see written out, as `<U+202E>`; lines stay lines."""
    return "".join(f"<U+{ord(char):04X}>" if _is_hidden(char) else char for char in text)


def one_line(text: str) -> str:
    """As `visible`, on one line."""
    return visible(" ".join(text.split()))


def harmless(text: str) -> str:
    """The text without what steers a terminal; unlike `visible` it keeps joiners and marks, which prose needs."""
    return "".join(f"<U+{ord(char):04X}>" if _steers(char) else char for char in text)


def exact_json(arguments: str) -> str:
    """Arguments (JSON text) for a person to judge: indented, complete, every invisible character written out."""
    try:
        shown = json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except ValueError:
        shown = arguments or "(deleted with its thread)"
    return visible(shown)


def editable_json(arguments: str) -> str:
    """Arguments (JSON text) for a person to change: indented; what a reader would not see is a JSON escape."""
    try:
        text = json.dumps(json.loads(arguments), indent=2, ensure_ascii=False)
    except ValueError:
        return arguments
    return "".join(json.dumps(char)[1:-1] if _is_hidden(char) else char for char in text)


def _is_hidden(char: str) -> bool:
    if " " <= char <= "~" or char == "\n":
        return False
    if char in _BLANK or "\ufe00" <= char <= "\ufe0f" or "\U000e0000" <= char <= "\U000e0fff":
        return True
    category = unicodedata.category(char)
    return category in _HIDDEN_CATEGORIES or category == "Zs"


def _steers(char: str) -> bool:
    return unicodedata.category(char) in ("Cc", "Cs") and char not in "\n\t"
