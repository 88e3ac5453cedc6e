"""Ledgers for tests: an empty one is laid out once in a process, by its migrations, and copied from then on."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy.engine import make_url

from horarium.ledger.database import Ledger
from horarium.settings import Settings

_empty: list[bytes] = []


async def open_ledger(settings: Settings) -> Ledger:
    """As `Ledger.open`; twenty times as fast where there is none yet and it is SQLite's."""
    await lay_out(settings)
    return await Ledger.open(settings)


async def lay_out(settings: Settings) -> None:
    """Put an empty ledger where the settings want one, unless one is there or it is no file."""
    url = make_url(settings.ledger_url)
    file = Path(url.database or "")
    if not url.drivername.startswith("sqlite") or file.exists():
        return
    if not _empty:
        _empty.append(await _laid_out())
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_empty[0])


async def _laid_out() -> bytes:
    with TemporaryDirectory() as root:
        settings = Settings(root=Path(root))
        await (await Ledger.open(settings)).close()
        return Path(make_url(settings.ledger_url).database or "").read_bytes()
