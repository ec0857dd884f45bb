"""The host's firewall as a session uses it: nftables in one worker thread, and the order in which two enforcers change.

A policy is enforced twice in the firewall mode, by the native program in the TUN and by nftables around it. What goes
through the tunnel has to pass both, so while they change one after the other it is judged by the stricter of each; what
goes past the tunnel meets nftables alone. The order decides what a failure in between leaves behind:

* tightening: first the program, then nftables and the routes together; each is tried even if another one failed;
* loosening: first nftables, then the program, then the routes; the first failure ends it, and the rest stays strict.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from engine.firewall import FirewallError
from engine.firewall.nftables import apply
from engine.firewall.nftables.apply import Loaded
from engine.firewall.nftables.kernel import Access
from engine.policy import Direction, Policy, State

log = logging.getLogger(__name__)

JOB_SECONDS = 10.0
IDLE_SECONDS = 0.5  # from a change to the time when what may come next is made ready

# How much a blocking state lets through, least first. Disconnecting counts as the state whose rules it keeps (DSC-1),
# Disconnected with "always require VPN" as Error (DIS-2): `Policy.enforced`.
_OPENNESS = {State.ERROR: 0, State.CONNECTING: 1, State.CONNECTED: 2}

T = TypeVar("T")


def loosens(before: Policy | None, after: Policy) -> bool:
    """Whether going from `before` (None: in doubt) to `after` is to let more through.

    Another server or resolver is no loosening, nor is what opens here and closes there: in doubt it is to tighten.
    """
    if not after.blocks:
        return True
    if before is None:
        return False
    if not before.blocks:
        return False
    opens = _OPENNESS[after.enforced] - _OPENNESS[before.enforced], after.allow_lan - before.allow_lan
    return max(opens) > 0 and min(opens) >= 0


@dataclass(frozen=True)
class Blocked:
    """What the rules of one id have dropped or rejected in the firewall, of packets that went this way."""

    rule: str
    direction: Direction
    packets: int
    bytes: int


_DIRECTIONS = {"output": Direction.OUT, "input": Direction.IN, "forward": Direction.FORWARD}
_Counts = dict[tuple[str, str], tuple[int, int]]  # packets and bytes by (chain, rule id)


class Nftables:
    """This network namespace's nftables. One worker thread, so that loads keep their order and stop nobody.

    A table's counters go with it; what they said is kept, and told in one sum until everything is removed. The few
    packets between that look and the replacement, a millisecond, are in no sum.
    """

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="nftables")
        self._access = Access()
        self._clean = False  # whether we know that there is no table: a killed run may have left one
        self._loaded: Loaded | None = None  # the last load, and our table right after it
        self._idle: asyncio.TimerHandle | None = None
        self._counting = threading.Lock()  # held while a table and its counts are replaced
        self._replaced: _Counts = {}  # what former tables counted
        self._counts: _Counts = {}  # what was told last
        self._counters = Access()  # of the event loop's thread

    async def missing(self) -> list[str]:
        """What the machine lacks for it, one sentence each."""
        return await self._run(lambda: apply.missing(access=self._access))

    async def apply(self, policy: Policy) -> None:
        """Put a policy that blocks in force. FirewallError; its `enforced` says whether the former rules remain."""

        def work() -> None:
            former, self._loaded = self._loaded, None
            with self._counting:
                counted = _blocked(self._access)  # by a killed run, too
                # The sysctls are engine.host's, which restores them.
                self._loaded = apply.load(policy, access=self._access, former=former)
                if self._loaded is not former:
                    self._replaced = _sum(self._replaced, counted)

        self._clean = False
        self._prepare_later(policy)
        await self._run(work)

    def _prepare_later(self, policy: Policy) -> None:
        """The first time a policy is loaded, making its messages takes longer than loading them: do that before."""
        if self._idle is not None:
            self._idle.cancel()
        self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._prepare, policy)

    def _prepare(self, policy: Policy) -> None:
        """Error, Connected, and both with the local network the other way, one by one: a load waits for one at most."""
        for state in (State.ERROR, State.CONNECTED) if policy.tunnel is not None else (State.ERROR,):
            for lan in (policy.allow_lan, not policy.allow_lan):
                self._worker.submit(apply.prepare, replace(policy, state=state, kept=None, allow_lan=lan))

    async def remove(self) -> None:
        """Remove our table, or that of an earlier run, if there is one. FirewallError."""

        def work() -> None:
            self._loaded = None
            with self._counting:
                apply.remove(access=self._access)
                self._replaced = {}

        if not self._clean:
            await self._run(work)
            self._clean = True

    def blocked(self) -> tuple[Blocked, ...]:
        """What was blocked since everything was removed last; while a table is being replaced, as told before.

        A dump of a dozen counters, a tenth of a millisecond: for the event loop's thread, on request.
        """
        if self._counting.acquire(blocking=False):
            try:
                self._counts = _sum(self._replaced, _blocked(self._counters))
            finally:
                self._counting.release()
        return tuple(
            Blocked(rule, _DIRECTIONS[chain], *count)
            for (chain, rule), count in sorted(self._counts.items())
            if count[0] and chain in _DIRECTIONS
        )

    async def disturbed(self) -> str:
        """What somebody else has done to the table since it was loaded; empty: nothing. FirewallError."""

        def work() -> str:
            if self._loaded is None:
                return ""
            try:
                found = self._access.read()
            except OSError as error:
                raise FirewallError(f"nftables cannot be read: {error}", enforced=False) from error
            if found is None:
                return "the firewall's table has been removed"
            return "" if found == self._loaded.table else "the firewall's table has been changed"

        return await self._run(work)

    async def close(self) -> None:
        """End the worker thread; the rules stay."""
        if self._idle is not None:
            self._idle.cancel()
        self._worker.submit(self._access.close)
        self._worker.submit(self._counters.close)
        self._worker.shutdown(wait=False)

    async def _run(self, job: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(JOB_SECONDS):
                return await asyncio.get_running_loop().run_in_executor(self._worker, job)
        except TimeoutError:
            message = f"nftables did not answer within {JOB_SECONDS:.0f} s"
            raise FirewallError(message, enforced=False) from None


def _blocked(access: Access) -> _Counts:
    """The counters of our table; none if they cannot be read: nothing that is enforced depends on them."""
    try:
        return apply.blocked(access)
    except OSError as error:
        log.debug("the firewall's counters cannot be read: %s", error)
        return {}


def _sum(one: _Counts, other: _Counts) -> _Counts:
    both = dict(one)
    for key, (packets, octets) in other.items():
        before = both.get(key, (0, 0))
        both[key] = before[0] + packets, before[1] + octets
    return both
