"""`Service`: the one session of the daemon's life, and all that a client can ask of it.

What the user has decided (settings, tunnels, relays) is on disk before it is put in force, and in force before the
answer. Changes wait for each other; `disconnect` waits for nobody. What only reads is answered at once.

* connect: the target is written -> out of an open Disconnected, host names are looked up (engine/daemon/names.py) ->
  a plan is made -> the session connects. A disconnect meanwhile ends it at whatever point it is.
* a change: checked -> written -> planned anew -> `Session.change`, which leaves a tunnel alone that still fits.

Everything on disk is read and written in one thread, in order; the event loop, which also keeps the tunnel alive, never
waits for a disk.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ParamSpec, TypeVar

import msgspec

from engine.daemon import lifecycle, names, relays, store
from engine.daemon import settings as settings_file
from engine.daemon.lifecycle import Stop, Target
from engine.daemon.plan import Known, host_names, plan
from engine.daemon.rpc import Refused
from engine.daemon.store import Unreadable
from engine.daemon.tunnels import Tunnels
from engine.management.schema import (
    Bridge,
    ErrorCode,
    Event,
    Imported,
    RelayChoice,
    RelayList,
    RelaysEvent,
    Settings,
    SettingsEvent,
    SettingsPatch,
    TunnelChoice,
    TunnelInfo,
    TunnelsEvent,
)
from engine.policy import State
from engine.service import Configuration, Session, SessionStatus

log = logging.getLogger(__name__)

_PASSWORD = "bridge-password"
_LAST_CHANGE_SECONDS = 5.0  # for a change that is on its way when the service stops

P = ParamSpec("P")
R = TypeVar("R")

MakeSession = Callable[[tuple[Configuration, ...]], Session]


class Service:
    """See the head of this module.

    `base`: interface and mode; `publish` is told what clients subscribe to; `spare`: a folder in memory.
    """

    def __init__(
        self,
        folder: Path,
        base: Configuration,
        make_session: MakeSession,
        publish: Callable[[Event], None],
        spare: Path,
    ) -> None:
        self._folder, self._base = folder, base
        self._target_folders = (folder, spare)
        self._make_session, self._publish = make_session, publish
        self._disk = ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk")
        self._changing = asyncio.Lock()
        self._beginning: asyncio.Task[None] | None = None  # a connect on its way
        self._target = Target.UNSECURED
        self._notices: dict[str, str] = {}
        self._planned: tuple[Configuration, ...] = ()
        self._known = Known(Settings(), Tunnels(folder), RelayList(), {}, secrets.token_bytes(16))
        self.session: Session
        self.stopping = False

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self._known.settings

    @property
    def relays(self) -> RelayList:
        """The relay list."""
        return self._known.relays

    @property
    def notices(self) -> tuple[str, ...]:
        """What the user should know."""
        return tuple(self._notices.values())

    def notice(self, about: str, text: str = "") -> None:
        """From now on say this about something; empty: nothing any more."""
        if text:
            log.warning("%s", text)
            self._notices[about] = text
        else:
            self._notices.pop(about, None)

    # Begin and end

    async def start(self) -> None:
        """Read what is on disk, and start the session; START-1. Raises engine.service.Unavailable."""
        await self._on_disk(self._load)
        connecting = lifecycle.connects(await self._on_disk(lifecycle.load, *self._target_folders), self.settings)
        planned = self._planned = await self._on_disk(plan, self._known, self._base)
        if connecting:
            # Until it connects it blocks as with "always require VPN": what a killed run left is taken over, without
            # a gap, and what cannot be put in force is told and tried again like any other failure.
            planned = tuple(replace(each, always_require_vpn=True) for each in planned)
        self.session = self._make_session(planned)
        await self.session.start(connecting=False)
        if connecting:
            await self._set_target(Target.SECURED)
            self.session.connect()
            self.session.change(*self._planned)

    def _load(self) -> None:
        self._folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        loaded = settings_file.load(self._folder)
        self.notice("settings", loaded.notice)
        found = RelayList()
        try:
            found = relays.load(self._folder)
        except Unreadable as error:
            self.notice("relays", f"{error}: there are no relays")
        addresses = names.load(self._folder)
        password = b""
        try:
            password = store.read(self._folder / _PASSWORD) or b""
        except Unreadable as error:
            self.notice("bridge", f"{error}: the bridge has no password")
        self._known = replace(
            self._known,
            settings=loaded.settings,
            relays=found,
            addresses=addresses,
            password=password.decode(errors="replace"),
        )

    async def stop(self, why: Stop) -> SessionStatus:
        """The end (EXIT-1); what is enforced then is in the status. Changes that come now are refused."""
        self.stopping = True
        self._end_beginning()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_CHANGE_SECONDS):
                await self._changing.acquire()  # for good: the leaving below is the last change
        keep = lifecycle.keeps_block(why, self.session.machine_state, self._target, self.settings)
        log.info("%s: the block %s", why.value, "stays" if keep else "is removed")
        status = await self.session.leave(keep)
        await self._set_target(lifecycle.target_left(why, self._target))
        self._disk.shutdown(wait=False)
        return status

    # Connecting

    async def connect(self) -> None:
        """Connect; if it is connected, or on its way, nothing changes."""
        beginning = self._beginning
        if beginning is None:
            if self._target is Target.SECURED and self.session.status.state not in (State.ERROR, State.DISCONNECTED):
                return
            beginning = self._beginning = asyncio.create_task(self._begin(), name="connect")
        await asyncio.wait({beginning})  # it goes on if who asked for it goes away
        if not beginning.cancelled():
            beginning.result()

    async def _begin(self) -> None:
        try:
            await self._set_target(Target.SECURED)
            async with self._changing:  # the look-up, too: it is of the tunnel that is chosen now
                if not self.session.status.blocks:
                    await self._look_up(host_names)
                await self._plan_anew()
                self.session.connect()
            await self.session.settled()
        finally:
            if self._beginning is asyncio.current_task():
                self._beginning = None

    def _end_beginning(self) -> None:
        beginning, self._beginning = self._beginning, None  # who connects from now on begins anew
        if beginning is not None:
            beginning.cancel()

    async def disconnect(self) -> None:
        """The explicit disconnect (KS-1)."""
        self._end_beginning()
        self.session.disconnect()
        await self._set_target(Target.UNSECURED)
        await self.session.settled()

    async def reconnect(self) -> None:
        """Connect anew, perhaps to another relay. Refused while disconnected."""
        self._must_be_secured("there is nothing to connect anew: molehill connect")
        async with self._changing:
            await self._plan_anew()
            self._must_be_secured("it was disconnected meanwhile")
            self.session.connect()
        await self.session.settled()

    async def block(self, detail: str) -> None:
        """Go to Error on purpose."""
        self.session.block(detail)
        await self.session.settled()

    def _must_be_secured(self, sentence: str) -> None:
        if self._target is Target.UNSECURED:
            raise Refused(ErrorCode.WRONG_STATE, sentence)

    async def _set_target(self, target: Target) -> None:
        """What the user wants from now on; a disk that cannot take it is no reason not to do it."""
        self._target = target
        try:
            await self._on_disk(lifecycle.save, target, *self._target_folders)
            self.notice("target")
        except OSError as error:
            wrong = "will not connect again" if target is Target.SECURED else "will connect again"
            self.notice("target", f"the target state cannot be written ({error.strerror}): after a crash it {wrong}")

    async def _plan_anew(self) -> None:
        """A new draw of relays, and whatever host names are known now."""
        self._known = replace(self._known, seed=secrets.token_bytes(16))
        await self._plan()

    async def _plan(self) -> None:
        planned = await self._on_disk(plan, self._known, self._base)
        if planned != self._planned:
            self._planned = planned
            self.session.change(*planned)

    async def _look_up(self, wanted: Callable[[Known], frozenset[str]]) -> None:
        """Look host names up, and remember what was found."""
        found = await names.look_up(await self._on_disk(wanted, self._known))
        if any(self._known.addresses.get(name) != address for name, address in found.items()):
            self._known = replace(self._known, addresses={**self._known.addresses, **found})
            try:
                await self._on_disk(names.save, self._folder, self._known.addresses)
            except OSError as error:
                log.warning("the addresses of host names cannot be written: %s", error.strerror)

    # Settings

    async def set_settings(self, patch: SettingsPatch) -> Settings:
        """Change settings, all or nothing. Refused."""
        async with self._changing:
            try:
                await self._take(settings_file.patched(self.settings, patch))
            except ValueError as error:
                raise Refused(ErrorCode.BAD_INPUT, str(error)) from None
        return self.settings

    async def reset_settings(self) -> Settings:
        """The default settings; tunnels and relays stay."""
        async with self._changing:
            await self._take(Settings())
            await self._set_password("")
        return self.settings

    async def set_bridge(self, bridge: Bridge | None, password: str | None) -> Settings:
        """Set or remove the bridge, with its password. Refused."""
        async with self._changing:
            try:
                if bridge is not None:
                    settings_file.check_bridge(bridge, password or "")
            except ValueError as error:
                raise Refused(ErrorCode.BAD_INPUT, str(error)) from None
            former = self._known.password
            try:
                await self._set_password(password or "")
                await self._take(msgspec.structs.replace(self.settings, bridge=bridge))
            except Refused:
                with suppress(Refused):
                    await self._set_password(former)
                raise
        return self.settings

    async def _set_password(self, password: str) -> None:
        """The bridge's password from now on; empty: none. Refused."""
        path = self._folder / _PASSWORD
        if password:
            await self._write(store.write, path, password.encode())
        else:
            await self._write(store.remove, path)
        self._known = replace(self._known, password=password)

    async def _take(self, settings: Settings) -> None:
        """Put settings on disk, then in force, and tell. Refused."""
        chosen = _chosen(settings)
        if chosen is not None and chosen != _chosen(self.settings) and chosen not in self._known.tunnels.names():
            raise Refused(ErrorCode.NOT_FOUND, f"there is no tunnel {chosen!r}")
        await self._write(settings_file.save, self._folder, settings)
        self.notice("settings")
        self._known = replace(self._known, settings=settings)
        await self._plan()
        await self.session.settled()
        self._publish(SettingsEvent(settings))

    # Tunnels and relays

    async def tunnels(self) -> tuple[TunnelInfo, ...]:
        """The imported tunnels."""
        return await self._on_disk(self._known.tunnels.list)

    async def import_tunnel(self, name: str, conf: str, replace_it: bool) -> Imported:
        """Import a .conf file's text; the first one is chosen. Refused."""
        async with self._changing:
            try:
                imported: Imported = await self._write(self._known.tunnels.add, name, conf, replace_it)
            except ValueError as error:
                raise Refused(ErrorCode.BAD_INPUT, str(error)) from None
            if not self.session.status.blocks:
                await self._look_up(lambda known: known.tunnels.host_names(name))
            if self.settings.choice is None:
                await self._take(msgspec.structs.replace(self.settings, choice=TunnelChoice(name)))
            else:
                await self._plan()
                await self.session.settled()
        self._publish(TunnelsEvent(await self.tunnels()))
        return imported

    async def remove_tunnel(self, name: str) -> tuple[TunnelInfo, ...]:
        """Remove an imported tunnel. Refused while it is in use."""
        async with self._changing:
            chosen = _chosen(self.settings) == name
            if chosen and self._target is Target.SECURED:
                raise Refused(ErrorCode.WRONG_STATE, f"the tunnel {name} is in use: disconnect or choose another first")
            try:
                await self._write(self._known.tunnels.remove, name)
            except KeyError:
                raise Refused(ErrorCode.NOT_FOUND, f"there is no tunnel {name!r}") from None
            if chosen:
                await self._take(msgspec.structs.replace(self.settings, choice=None))
        left = await self.tunnels()
        self._publish(TunnelsEvent(left))
        return left

    async def load_relays(self, found: RelayList) -> RelayList:
        """Replace the relay list. Refused."""
        try:
            relays.check(found)
        except ValueError as error:
            raise Refused(ErrorCode.BAD_INPUT, str(error)) from None
        async with self._changing:
            await self._write(relays.save, self._folder, found)
            self.notice("relays")
            self._known = replace(self._known, relays=found)
            await self._plan()
            await self.session.settled()
        self._publish(RelaysEvent(len(found.relays)))
        return found

    # The disk

    async def _on_disk(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._disk, lambda: job(*args, **kwargs))

    async def _write(self, job: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Write something that the user asked for. Refused when the disk does not take it."""
        try:
            return await self._on_disk(job, *args, **kwargs)
        except OSError as error:
            raise Refused(
                ErrorCode.FAILED, f"{self._folder} cannot be written ({error.strerror}): nothing is changed"
            ) from None


def _chosen(settings: Settings) -> str | None:
    """The tunnel that the choice needs."""
    match settings.choice:
        case TunnelChoice(name):
            return name
        case RelayChoice(identity):
            return identity
    return None
