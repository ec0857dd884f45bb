"""The system's resolvers as a session sets them. A failure to set them is an Error; nothing else here is one."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from typing import Any

from engine import state
from engine.host import DnsError
from engine.policy import IPAddress, Platform, State, nets
from engine.service.builder import Configuration
from engine.service.enforcement import Failed, within
from engine.service.ports import DnsPort
from engine.state import Cause, CauseKind

log = logging.getLogger(__name__)


class Resolvers:
    """`dns` None: the system's resolvers are left alone."""

    def __init__(self, dns: DnsPort | None) -> None:
        self._dns = dns

    def describe(self) -> str:
        """What is set, in a few words."""
        return self._dns.describe() if self._dns is not None else ""

    async def set(self, servers: tuple[IPAddress, ...], configuration: Configuration) -> None:
        """Let the system ask these servers, of which custom local ones are outside the tunnel (DNS-2). Failed."""
        if self._dns is None:
            return
        outside = frozenset(server for server in configuration.dns if nets.is_local(server))
        try:
            await within("the resolvers", self._dns.set(configuration.interface, servers, outside))
        except (DnsError, TimeoutError) as error:
            raise Failed(state.Fatal(Cause(CauseKind.SET_DNS, str(error)))) from error

    async def block(self, now: State, configuration: Configuration) -> None:
        """Android's system has a resolver that nobody is while it is blocked; a failure opens nothing."""
        if configuration.profile.platform is Platform.ANDROID:
            try:
                await self.set(configuration.resolvers(now), configuration)
            except Failed as failure:
                log.error("%s", failure)

    async def reset(self) -> None:
        """Give the system its own back. A failure is told: the machine must go on leaving the state."""
        if self._dns is not None:
            await _told(self._dns.reset())

    async def recover(self) -> None:
        """Put back what a killed run left. A failure is told; if it is a reason not to be Connected, `set` says so."""
        if self._dns is not None:
            await _told(self._dns.recover())

    async def close(self) -> None:
        """End; what is set stays set."""
        if self._dns is not None:
            await _told(self._dns.close())


async def _told(work: Coroutine[Any, Any, None]) -> None:
    try:
        await within("the resolvers", work)
    except Exception as error:  # whatever it was: what comes after it must be done
        log.error("%s", error, exc_info=not isinstance(error, DnsError | TimeoutError))
