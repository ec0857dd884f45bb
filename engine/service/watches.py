"""What a session watches besides its tunnel: the way out, sleep, and whether somebody else changes what enforces.

Each watch takes the kernel's notes as a hint and then asks (engine/host/notes.py); what comes of it are events for the
state machine. Each disturbance is answered; many in a short time also lead to Error, and the user is told why
(engine/service/repairs.py). A double in place of the machine's parts is not watched.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from engine import state
from engine.firewall.nftables.kernel import GROUP_NFTABLES, NETLINK_NETFILTER
from engine.host import CaptureWatch, Disturbance, Host, Notes, OfflineMonitor, ResolversWatch, ResumeWatch, SystemDns
from engine.policy import MARK
from engine.service.firewall import Nftables
from engine.service.ports import DnsPort, FirewallPort, HostPort
from engine.service.repairs import Repairs
from engine.state import Candidate, Cause, CauseKind

log = logging.getLogger(__name__)

SETTLE_SECONDS, MOST = 0.02, 10  # a transaction of nftables is a burst of notes


@contextmanager
def _optional(what: str) -> Iterator[None]:
    """For a watch on which nothing depends that blocks: it may be missing where the kernel has no more to give."""
    try:
        yield
    except OSError as error:
        log.error("%s cannot be watched: %s", what, error.strerror)


class Watches:
    """Begins to watch when made, on the event loop's thread.

    `lost` is called before a DeviceLost is posted, `resumed` when the machine has slept.
    """

    def __init__(
        self,
        host: HostPort,
        firewall: FirewallPort | None,
        dns: DnsPort | None,
        post: Callable[[state.Event], None],
        lost: Callable[[], None],
        resumed: Callable[[], None],
    ) -> None:
        self._post, self._lost = post, lost
        self._repairs = Repairs()
        self._offline: OfflineMonitor | None = None
        self._capture: CaptureWatch | None = None
        self._table: Notes | None = None
        self._resume: ResumeWatch | None = None
        self._resolvers: ResolversWatch | None = None
        if isinstance(host, Host):
            self._offline = OfflineMonitor(host, MARK, self._online_changed)
            self._capture = CaptureWatch(host, self._disturbed)
            with _optional("whether the machine has slept"):
                self._resume = ResumeWatch(resumed)
        if isinstance(dns, SystemDns):
            with _optional("/etc/resolv.conf"):
                self._resolvers = ResolversWatch(dns, self._answer)
        if isinstance(firewall, Nftables):
            self._nftables = firewall
            self._table = Notes(NETLINK_NETFILTER, (GROUP_NFTABLES,), self._ask_for_the_table, SETTLE_SECONDS, MOST)

    def ways_out(self, candidates: tuple[Candidate, ...]) -> None:
        """Online is the machine from which any candidate's first hop can be reached."""
        hops = (candidate.bridge or candidate.peer for candidate in candidates)
        if self._offline is not None:
            self._offline.watch(*(hop.ip for hop in hops if hop is not None))

    def close(self) -> None:
        """Stop."""
        for watch in (self._offline, self._capture, self._table, self._resume, self._resolvers):
            if watch is not None:
                watch.close()

    def _online_changed(self, online: bool) -> None:
        self._post(state.Online() if online else state.Offline())

    def _disturbed(self, found: Disturbance) -> None:
        if found.lost:
            self._lost()
            self._post(state.DeviceLost(found.what))
        else:
            self._answer(found.what)

    def _answer(self, what: str) -> None:
        self._post(state.Disturbed(what))
        if self._repairs.another(asyncio.get_running_loop().time()):
            log.error("somebody changes again and again what enforces, last: %s", what)
            self._post(state.Block(Cause(CauseKind.DISTURBED, what)))

    async def _ask_for_the_table(self) -> None:
        if what := await self._nftables.disturbed():
            self._answer(what)
