"""API keys of a ledger: made, looked up, revoked. The ledger never has a key, only its hash."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, insert, or_, select, update

from horarium.apikeys import ApiKey, checked_scopes, fits, hash_of, identity_of, new_key
from horarium.errors import ConfigError, NotFound
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger
from horarium.ledger.schema import api_keys

USED_EVERY = timedelta(minutes=1)  # how often the last use is written down
MOST_CHARS = {"name": 200, "tenant": 64}


class ApiKeys:
    """The API keys of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    async def create(
        self,
        name: str,
        scopes: tuple[str, ...],
        *,
        tenant: str = "default",
        expires_at: datetime | None = None,
        by: str | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key. Returns what the ledger has of it, and the key itself, which nobody can look up again.

        Raises:
            ConfigError: A name or a scope is wrong, or it would have expired already.
        """
        now = datetime.now(UTC)
        for what, text in (("name", name), ("tenant", tenant)):
            if not text.strip() or len(text) > MOST_CHARS[what] or not text.isprintable():
                raise ConfigError(f"A key's {what} has 1 to {MOST_CHARS[what]} characters that can be shown.")
        if expires_at is not None and expires_at <= now:
            raise ConfigError("The key would have expired already.", hint="Give it longer, or no end.")
        identity, key = new_key()
        made = ApiKey(
            id=identity,
            hash=hash_of(key),
            name=name,
            tenant=tenant,
            scopes=checked_scopes(scopes),
            created_at=now,
            created_by=by,
            expires_at=expires_at,
            last_used_at=None,
            revoked_at=None,
        )
        async with self._ledger.write() as connection:
            values = {column.name: getattr(made, column.name) for column in api_keys.c}
            await connection.execute(insert(api_keys).values({**values, "scopes": list(made.scopes)}))
            data = {"by": by, "name": name, "scopes": list(made.scopes), "expires_at": expires_at and str(expires_at)}
            entry = AuditEntry(kind="api_key.created", at=now, tenant=tenant, subject=identity, data=data)
            await append(connection, entry)
        return made, key

    async def check(self, key: str) -> ApiKey | None:
        """The record of a key that counts; None for one that is wrong, revoked or expired.

        Looked up each time, so that a revoked key opens nothing from that moment on.
        """
        identity = identity_of(key)
        found = await self._find(identity) if identity is not None else None
        if not fits(key, found) or found is None:
            return None
        now = datetime.now(UTC)
        if found.unusable(now) is not None:
            return None
        if found.last_used_at is None or now - found.last_used_at >= USED_EVERY:
            await self._used(found.id, now)
        return found

    async def counts(self, identity: str) -> ApiKey | None:
        """The record of a key by its id, while it counts: for who has shown the key itself before."""
        found = await self._find(identity)
        return found if found is not None and found.unusable(datetime.now(UTC)) is None else None

    async def all(self, *, tenant: str | None = None) -> list[ApiKey]:
        """Every key, the newest first; those that count no more too."""
        query = select(api_keys).order_by(api_keys.c.created_at.desc(), api_keys.c.id)
        if tenant is not None:
            query = query.where(api_keys.c.tenant == tenant)
        async with self._ledger.read() as connection:
            return [_record(row) for row in await connection.execute(query)]

    async def any_counts(self) -> bool:
        """Whether there is a key that opens something."""
        now = datetime.now(UTC)
        query = select(func.count()).where(
            or_(api_keys.c.revoked_at.is_(None), api_keys.c.revoked_at > now),
            or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > now),
        )
        async with self._ledger.read() as connection:
            return bool(await connection.scalar(query))

    async def revoke(self, identity: str, *, by: str | None = None, tenant: str | None = None) -> ApiKey:
        """Have a key open nothing from now on. Safe to repeat: the first time counts.

        Raises:
            NotFound: There is no key of this id, or it is another tenant's.
        """
        now = datetime.now(UTC)
        known = await self._find(identity)
        if known is None or tenant not in (None, known.tenant):
            raise NotFound(f"There is no API key {identity!r}.", hint="See which there are: horarium api-keys list")
        async with self._ledger.write() as connection:
            revoked = (
                await connection.execute(
                    update(api_keys)
                    .where(api_keys.c.id == identity, api_keys.c.revoked_at.is_(None))
                    .values(revoked_at=now)
                    .returning(api_keys.c.tenant)
                )
            ).first()
            if revoked is not None:
                entry = AuditEntry(
                    kind="api_key.revoked", at=now, tenant=revoked.tenant, subject=identity, data={"by": by}
                )
                await append(connection, entry)
        return await self._find(identity) or known

    async def _find(self, identity: str) -> ApiKey | None:
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(api_keys).where(api_keys.c.id == identity))).first()
        return _record(row) if row is not None else None

    async def _used(self, identity: str, now: datetime) -> None:
        late = or_(api_keys.c.last_used_at.is_(None), api_keys.c.last_used_at <= now - USED_EVERY)
        async with self._ledger.write() as connection:
            await connection.execute(update(api_keys).where(api_keys.c.id == identity, late).values(last_used_at=now))


def _record(row: Any) -> ApiKey:
    values = {column.name: getattr(row, column.name) for column in api_keys.c}
    return ApiKey(**{**values, "scopes": tuple(row.scopes)})
