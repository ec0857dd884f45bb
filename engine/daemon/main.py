"""`molehill daemon`: one process, from its start to its end.

    descriptors that systemd kept -> log -> the session, open or blocked (START-1) -> management socket -> READY=1
    -> ... -> a signal: why? -> STOPPING=1 -> the session leaves, open or blocked (EXIT-1) -> the socket goes

Meanwhile one task a second sees to what others may have taken away (the socket), and feeds the watchdog.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from engine.daemon import settings as settings_file
from engine.daemon import store, systemd
from engine.daemon.lifecycle import Stop
from engine.daemon.logs import Ring
from engine.daemon.methods import Methods, status_of
from engine.daemon.server import Server
from engine.daemon.service import Service
from engine.firewall.nftables import apply as nftables
from engine.host import SystemDns
from engine.management.schema import Event, LogEvent, StatusEvent
from engine.service import Configuration, Session
from engine.service.device import adopting, open_tun
from engine.tunnel.clock import now

log = logging.getLogger(__name__)

CHECK_SECONDS = 1.0
_STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_RESTARTS = (signal.SIGUSR1,)


@dataclass(frozen=True)
class Options:
    """What the command line says. `firewall` None: if the machine can."""

    interface: str
    firewall: bool | None
    socket: Path
    group: str | None = None


def chosen_mode(options: Options) -> tuple[bool, str]:
    """Whether nftables enforces too, and what the user should know of that."""
    if options.firewall is not None:
        return options.firewall, ""
    missing = nftables.missing()
    if not missing:
        return True, ""
    return False, f"nftables cannot be used here, the TUN alone enforces: {'; '.join(missing)}"


async def run(options: Options, ring: Ring) -> int:
    """Serve until a signal; the exit code. Raises Unavailable, OSError or ValueError when it cannot begin."""
    return await _Daemon(options, ring).run()


class _Daemon:
    def __init__(self, options: Options, ring: Ring) -> None:
        self._options, self._ring = options, ring
        self._notify = systemd.Notify()
        self._asked: asyncio.Future[signal.Signals] = asyncio.get_running_loop().create_future()
        firewall, notice = chosen_mode(options)
        base = Configuration(interface=options.interface, firewall=firewall)
        self._service = Service(store.state_folder(), base, self._session, self._publish, options.socket.parent)
        if notice:
            self._service.notice("mode", notice)
        self._server = Server(options.socket, Methods(self._service, ring), options.group)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (*_STOPS, *_RESTARTS):
            loop.add_signal_handler(number, self._ask, number)
        await self._service.start()
        try:
            await self._server.start()
        except OSError:
            await self._service.session.close()  # what blocks goes on blocking
            raise
        tasks = [asyncio.create_task(self._tell_changes()), asyncio.create_task(self._look_after())]
        try:
            self._ring.on_line = lambda line: _soon(loop, self._publish, line)
            self._notify.say("READY=1")
            number = await self._asked
            why = await _why(number)
            self._notify.say("STOPPING=1")
            status = await self._service.stop(why)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._ring.on_line = lambda line: None
            await self._server.close()
            self._notify.close()
        log.info("the end: %s", status.line())
        return 0 if status.machine.enforced else 1

    def _session(self, configurations: tuple[Configuration, ...]) -> Session:
        fd = systemd.kept(self._options.interface)
        return Session(
            *configurations,
            dns=SystemDns(),
            open_tun=open_tun if fd is None else adopting(fd),
            on_tun=self._notify.keep,
        )

    def _ask(self, number: signal.Signals) -> None:
        if not self._asked.done():
            self._asked.set_result(number)

    def _publish(self, happened: Event) -> None:
        self._server.publish(happened)

    async def _tell_changes(self) -> None:
        """Tell each change of state to the subscribers and to systemd."""
        async for status in self._service.session.watch():
            try:
                self._publish(StatusEvent(status_of(self._service)))
                self._notify.say(f"STATUS={status.line()}")
            except Exception:  # the next change is told all the same
                log.exception("a change of state could not be told")

    async def _look_after(self) -> None:
        watchdog = systemd.Watchdog(self._notify, self._service.session.turns, now)
        while True:
            watchdog.look()
            await self._server.check()
            await asyncio.sleep(CHECK_SECONDS)


async def _why(number: signal.Signals) -> Stop:
    """Why the service ends."""
    if number in _RESTARTS:
        return Stop.RESTART
    return Stop.USER if await systemd.machine_runs() else Stop.SHUTDOWN


def _soon(loop: asyncio.AbstractEventLoop, publish: Callable[[Event], None], line: LogEvent) -> None:
    with suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(publish, line)


async def block_early(options: Options) -> int:
    """BOOT-1: block until the daemon takes over, and end. The exit code.

    It blocks whatever the settings are, as the security document has it: what the user wants is the daemon's to
    know. Error's policy, with LAN if the settings allow it and can be read, and without the API.
    """
    loaded = settings_file.load(store.state_folder())
    firewall, notice = chosen_mode(options)
    if notice:
        log.warning("%s", notice)
    base = Configuration(interface=options.interface, firewall=firewall, always_require_vpn=True)
    session = Session(replace(base, allow_lan=loaded.settings.allow_lan))
    await session.start(connecting=False)
    status = session.status
    await session.close()
    log.info("%s", status.line())
    return 0 if status.machine.enforced else 1
