"""API keys in the ledger, on each database: made once, never readable, revoked at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from horarium.errors import ConfigError, NotFound
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.database import Ledger
from horarium.ledger.schema import api_keys, audit
from tests.core.conftest import kind, ledger, new_settings, postgres

__all__ = ["kind", "ledger", "new_settings", "postgres"]
SCOPES = ("toolbox:payments",)


async def test_a_key_counts_and_the_ledger_has_no_part_of_its_secret(ledger: Ledger) -> None:
    made, key = await ApiKeys(ledger).create("laptop", SCOPES, tenant="acme", by="ana")

    found = await ApiKeys(ledger).check(key)

    assert found is not None
    assert (found.id, found.name, found.tenant, found.scopes, found.created_by) == (
        made.id,
        "laptop",
        "acme",
        SCOPES,
        "ana",
    )
    secret = key.removeprefix(f"{made.id}_")
    assert len(secret) >= 43
    async with ledger.read() as connection:
        rows = [*(await connection.execute(select(api_keys))), *(await connection.execute(select(audit.c.data)))]
    assert secret not in str(rows)
    assert (found.allows("toolbox", "payments"), found.allows("toolbox", "vault")) == (True, False)


async def test_a_thousand_keys_are_all_different(ledger: Ledger) -> None:
    from horarium.apikeys import new_key

    assert len({new_key() for _ in range(1_000)}) == 1_000


async def test_a_revoked_key_counts_no_more_and_revoking_it_again_changes_nothing(ledger: Ledger) -> None:
    made, key = await ApiKeys(ledger).create("laptop", SCOPES)

    first = await ApiKeys(ledger).revoke(made.id, by="ana")
    second = await ApiKeys(ledger).revoke(made.id, by="bob")

    assert await ApiKeys(ledger).check(key) is None
    assert first.revoked_at == second.revoked_at
    async with ledger.read() as connection:
        told = await connection.scalars(select(audit.c.kind).where(audit.c.subject == made.id).order_by(audit.c.seq))
        assert list(told) == ["api_key.created", "api_key.revoked"]


async def test_an_unknown_id_is_named(ledger: Ledger) -> None:
    with pytest.raises(NotFound, match="hk_none"):
        await ApiKeys(ledger).revoke("hk_none")


async def test_the_last_use_is_written_down_at_most_once_a_minute(ledger: Ledger) -> None:
    made, key = await ApiKeys(ledger).create("laptop", SCOPES)

    async def last_used() -> datetime | None:
        return next(item.last_used_at for item in await ApiKeys(ledger).all() if item.id == made.id)

    await ApiKeys(ledger).check(key)
    first = await last_used()
    await ApiKeys(ledger).check(key)
    assert await last_used() == first is not None
    async with ledger.write() as connection:
        long_ago = datetime.now(UTC) - timedelta(minutes=2)
        await connection.execute(update(api_keys).where(api_keys.c.id == made.id).values(last_used_at=long_ago))
    await ApiKeys(ledger).check(key)
    assert first is not None
    assert (await last_used() or first) > first


@pytest.mark.parametrize(
    ("name", "scopes", "lasts"),
    [
        ("", SCOPES, None),
        ("two\nlines", SCOPES, None),
        ("x" * 201, SCOPES, None),
        ("laptop", (), None),
        ("laptop", ("payments",), None),
        ("laptop", ("toolbox:",), None),
        ("laptop", ("toolbox:pay ments",), None),
        ("laptop", ("agent:clerk",), None),
        ("laptop", SCOPES, timedelta(0)),
    ],
)
async def test_a_key_that_makes_no_sense_is_refused(
    ledger: Ledger, name: str, scopes: tuple[str, ...], lasts: timedelta | None
) -> None:
    expires_at = datetime.now(UTC) + lasts if lasts is not None else None
    with pytest.raises(ConfigError):
        await ApiKeys(ledger).create(name, scopes, expires_at=expires_at)
