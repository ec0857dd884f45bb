"""Calls on the system bus. dbus-fast is imported when the first one is made: most machines' help needs none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from engine.host.dns.manager import DnsError

if TYPE_CHECKING:
    from dbus_fast import Message
    from dbus_fast.aio import MessageBus

_DBUS = "org.freedesktop.DBus"


class Bus:
    """A connection to the system bus, or to the bus at `address` (a D-Bus server address)."""

    def __init__(self, connection: MessageBus) -> None:
        self._connection = connection
        self._followed: set[str] = set()

    @staticmethod
    async def connect(address: str | None) -> Bus | None:
        """The bus, or None where there is none."""
        from dbus_fast import BusType, DBusError
        from dbus_fast.aio import MessageBus
        from dbus_fast.errors import AuthError, InvalidAddressError

        try:
            connection = MessageBus(address) if address else MessageBus(bus_type=BusType.SYSTEM)
            return Bus(await connection.connect())
        except (OSError, EOFError, DBusError, AuthError, InvalidAddressError):
            return None

    async def call(
        self, service: str, path: str, interface: str, method: str, signature: str = "", *body: object
    ) -> list[Any]:
        """Call a method and return the body of its answer; DnsError with the service's own words."""
        from dbus_fast import Message, MessageType

        if not self.alive:  # a call would take its former descriptor, whosever that is by now, from the event loop
            raise DnsError("the system bus is gone")
        message = Message(
            destination=service, path=path, interface=interface, member=method, signature=signature, body=list(body)
        )
        try:
            reply = await self._connection.call(message)
        except (OSError, EOFError) as error:
            raise DnsError(f"the system bus is gone ({error})") from error
        if reply is None:
            raise DnsError(f"{service} gave no answer to {method}")
        if reply.message_type is MessageType.ERROR:
            words = reply.body[0] if reply.body else reply.error_name
            raise DnsError(f"{service} refused {method}: {words}")
        return list(reply.body)

    @property
    def alive(self) -> bool:
        """Whether it is still connected; once it is not, it never is again."""
        return bool(self._connection.connected)

    async def get(self, service: str, path: str, interface: str, name: str) -> object:
        """A property's value."""
        (variant,) = await self.call(service, path, f"{_DBUS}.Properties", "Get", "ss", interface, name)
        value: object = variant.value
        return value

    async def has(self, service: str) -> bool:
        """Whether the service runs."""
        (there,) = await self.call(_DBUS, "/org/freedesktop/DBus", _DBUS, "NameHasOwner", "s", service)
        return bool(there)

    async def follow(self, service: str, begun: Callable[[], None]) -> None:
        """Call `begun` (the first one given) whenever the service begins anew, having forgotten what it was told."""
        if service in self._followed:
            return
        self._followed.add(service)
        rule = f"type='signal',sender='{_DBUS}',interface='{_DBUS}',member='NameOwnerChanged',arg0='{service}'"
        await self.call(_DBUS, "/org/freedesktop/DBus", _DBUS, "AddMatch", "s", rule)

        def heard(message: Message) -> None:
            if message.member == "NameOwnerChanged" and message.body[0] == service and message.body[2]:
                begun()

        self._connection.add_message_handler(heard)

    async def close(self) -> None:
        """Disconnect."""
        self._connection.disconnect()
        await asyncio.sleep(0)  # its socket is closed by the event loop
