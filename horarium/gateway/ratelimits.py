"""How much one caller may ask for: by address before anything is looked up, then by key and by tenant.

Windows are counted in this process, or in a store that several gateways share. A store that does not answer lets
nobody wait: each gateway then counts by itself until it does.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

import structlog
from limits import RateLimitItem, parse
from limits.aio.storage import Storage
from limits.aio.strategies import FixedWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string
from starlette.datastructures import Headers
from starlette.types import Scope

from horarium.errors import ConfigError
from horarium.secrets import REFERENCE, reveal
from horarium.settings import LimitSettings

log = structlog.get_logger()

MOST_WINDOWS = 100_000
SHARED_PATIENCE = 0.25  # seconds, for one word with the store
AWAY = 5.0  # seconds without the store, after it did not answer
V6_SITE = 64  # bits of an IPv6 address that say whose it is; the rest its owner chooses


class RateLimits:
    """The limits of one gateway."""

    def __init__(self, settings: LimitSettings, proxies: Iterable[str] = ()) -> None:
        """`proxies`: those whose `X-Forwarded-For` is believed.

        Raises:
            ConfigError: The storage cannot be used.
        """
        self._key = parse(settings.per_key)
        self._tenant = parse(settings.per_tenant)
        self._address = parse(settings.per_address)
        self._sign_ins = parse(settings.sign_ins)
        self._failure_weight = settings.failure_weight
        self._proxies = tuple(ip_network(proxy) for proxy in proxies)
        self._own = FixedWindowRateLimiter(Windows())
        self._shared = _shared(settings.storage)
        self._away_until = 0.0

    def address_of(self, scope: Scope, headers: Headers) -> str:
        """Where a request comes from. A proxy of ours says for whom it asks; nobody else is believed."""
        peer = scope.get("client")
        address = str(peer[0]) if peer else "local"
        if self._proxies:
            told = [part.strip() for line in headers.getlist("x-forwarded-for") for part in line.split(",")]
            while told and _is_in(address, self._proxies):
                address = told.pop()
        return _site(address)

    async def wait_of_address(self, address: str) -> int | None:
        """Count one request. Returns seconds to wait when there were too many, else None."""
        return await self._wait(self._address, "address", address)

    async def wait_of_caller(self, key: str | None, tenant: str) -> int | None:
        """Count one request of somebody whose key was looked at."""
        wait = await self._wait(self._key, "key", key) if key is not None else None
        return wait or await self._wait(self._tenant, "tenant", tenant)

    async def wait_of_sign_in(self, address: str) -> int | None:
        """Count one attempt to sign in."""
        return await self._wait(self._sign_ins, "sign-in", address)

    async def failed(self, address: str) -> None:
        """Count a key or a token that was wrong: guessing is over long before asking is."""
        await self._wait(self._address, "address", address, cost=self._failure_weight)

    async def _wait(self, item: RateLimitItem, kind: str, whose: str, cost: int = 1) -> int | None:
        now = time.time()
        if self._shared is not None and now >= self._away_until:
            try:
                return await _hit(self._shared, item, kind, whose, cost)
            except StorageError as error:
                self._away_until = now + AWAY
                log.warning("gateway.limits_away", error=type(error.storage_error).__name__)
        return await _hit(self._own, item, kind, whose, cost)


async def _hit(limiter: FixedWindowRateLimiter, item: RateLimitItem, kind: str, whose: str, cost: int) -> int | None:
    if await limiter.hit(item, kind, whose, cost=cost):
        return None
    stats = await limiter.get_window_stats(item, kind, whose)
    return max(1, math.ceil(stats.reset_time - time.time()))


class Windows(Storage):
    """Counts in this process, at the same small cost however many there are, and never more than `MOST_WINDOWS`."""

    STORAGE_SCHEME = None

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        super().__init__(None)
        self._clock = clock
        self._counts: OrderedDict[str, tuple[int, float]] = OrderedDict()  # a dict is slow to lose its first

    @property
    def base_exceptions(self) -> type[Exception]:
        """None of its own."""
        return StorageError

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count in a window, which begins with its first count."""
        now = self._clock()
        count, ends = self._counts.get(key, (0, 0.0))
        if ends <= now:
            self._counts.pop(key, None)  # so that it stands behind those that began before
            count, ends = 0, now + expiry
            self._make_room(now)
        self._counts[key] = (count + amount, ends)
        return count + amount

    async def get(self, key: str) -> int:
        """The count of a window."""
        count, ends = self._counts.get(key, (0, 0.0))
        return count if ends > self._clock() else 0

    async def get_expiry(self, key: str) -> float:
        """When a window ends."""
        return self._counts.get(key, (0, self._clock()))[1]

    async def check(self) -> bool:
        """It is always there."""
        return True

    async def reset(self) -> int | None:
        """Forget all."""
        many = len(self._counts)
        self._counts.clear()
        return many

    async def clear(self, key: str) -> None:
        """Forget one."""
        self._counts.pop(key, None)

    def _make_room(self, now: float) -> None:
        """Two of the oldest for each new one: those that are over go, and any does when there are too many."""
        for key in [key for _, key in zip(range(2), self._counts, strict=False)]:
            if self._counts[key][1] <= now or len(self._counts) >= MOST_WINDOWS:
                del self._counts[key]


def _shared(storage: str | None) -> FixedWindowRateLimiter | None:
    if storage is None:
        return None
    url = reveal(storage) if REFERENCE.match(storage) else storage
    try:
        made = storage_from_string(
            url,
            wrap_exceptions=True,
            implementation="redispy",
            socket_timeout=SHARED_PATIENCE,
            socket_connect_timeout=SHARED_PATIENCE,
        )
    except ConfigurationError as error:
        hint = "Install it: pip install 'horarium[redis]'."
        raise ConfigError(f"`storage` in [gateway.limits] cannot be used: {error}.", hint=hint) from error
    if not isinstance(made, Storage):
        raise ConfigError("`storage` in [gateway.limits] has to begin with async+redis://.")
    return FixedWindowRateLimiter(made)


def _is_in(address: str, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def _site(address: str) -> str:
    if ":" not in address:
        return address[:100]
    try:
        return str(ip_network((address.partition("%")[0], V6_SITE), strict=False))
    except ValueError:
        return address[:100]
