"""A private bus, and on it doubles of systemd-resolved and NetworkManager that keep what they are told."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dbus_fast import DBusError, PropertyAccess, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.service import ServiceInterface, dbus_property, method

_CONFIG = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig><type>session</type><listen>unix:path={path}</listen><auth>EXTERNAL</auth>
<policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>
</policy>
</busconfig>"""


def missing() -> str:
    """Why there can be no private bus; empty: there can."""
    return "" if shutil.which("dbus-daemon") else "the program dbus-daemon is missing (Debian package dbus-daemon)"


@contextmanager
def private_bus(folder: Path) -> Iterator[str]:
    """A dbus-daemon of our own; its address."""
    config, path = folder / "bus.conf", folder / "bus"
    config.write_text(_CONFIG.format(path=path))
    daemon = subprocess.Popen(
        ["dbus-daemon", f"--config-file={config}", "--nofork", "--print-address"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert daemon.stdout is not None
        assert daemon.stdout.readline()
        yield f"unix:path={path}"
    finally:
        daemon.terminate()
        daemon.wait(5)
        assert daemon.stdout is not None
        daemon.stdout.close()


class FakeResolved(ServiceInterface):
    """org.freedesktop.resolve1.Manager: what each link has, and every call's name in order."""

    def __init__(self) -> None:
        super().__init__("org.freedesktop.resolve1.Manager")
        self.links: dict[int, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.refuses = ""

    def _note(self, name: str) -> None:
        self.calls.append(name)
        if name == self.refuses:
            raise DBusError("org.freedesktop.DBus.Error.AccessDenied", "not for you")

    @method()
    def SetLinkDNS(self, index: "i", addresses: "a(iay)") -> None:  # type: ignore[valid-type, name-defined]  # noqa: F821
        self._note("SetLinkDNS")
        self.links.setdefault(index, {})["dns"] = [(family, bytes(raw)) for family, raw in addresses]

    @method()
    def SetLinkDomains(self, index: "i", domains: "a(sb)") -> None:  # type: ignore[valid-type, name-defined]  # noqa: F821
        self._note("SetLinkDomains")
        self.links.setdefault(index, {})["domains"] = [tuple(domain) for domain in domains]

    @method()
    def SetLinkDefaultRoute(self, index: "i", enable: "b") -> None:  # type: ignore[valid-type, name-defined]  # noqa: F821
        self._note("SetLinkDefaultRoute")
        self.links.setdefault(index, {})["default"] = enable

    @method()
    def RevertLink(self, index: "i") -> None:  # type: ignore[valid-type, name-defined]  # noqa: F821
        self._note("RevertLink")
        self.links.pop(index, None)

    @method()
    def FlushCaches(self) -> None:
        self._note("FlushCaches")


class FakeNetworkManager(ServiceInterface):
    """org.freedesktop.NetworkManager: one device."""

    def __init__(self, interface: str) -> None:
        super().__init__("org.freedesktop.NetworkManager")
        self._interface = interface

    @method()
    def GetDeviceByIpIface(self, name: "s") -> "o":  # type: ignore[valid-type, name-defined]  # noqa: F821
        if name != self._interface:
            raise DBusError("org.freedesktop.NetworkManager.UnknownDevice", f"No device found for {name}")
        return "/org/freedesktop/NetworkManager/Devices/7"


class FakeDevice(ServiceInterface):
    """Its device: what is applied, as NetworkManager answers it, deprecated properties included."""

    def __init__(self) -> None:
        super().__init__("org.freedesktop.NetworkManager.Device")
        self.applied: dict[str, dict[str, Any]] = {
            "connection": {"id": Variant("s", "mh0"), "type": Variant("s", "tun")},
            "ipv4": {
                "method": Variant("s", "manual"),
                "dns": Variant("au", []),
                "addresses": Variant("aau", [[0x0200400A, 32, 0]]),
                "address-data": Variant("aa{sv}", [{"address": Variant("s", "10.64.0.2"), "prefix": Variant("u", 32)}]),
            },
            "ipv6": {"method": Variant("s", "manual"), "dns": Variant("aay", [])},
        }
        self.version = 3
        self.reapplied: list[tuple[int, int]] = []

    @method()
    def GetAppliedConnection(self, flags: "u") -> "a{sa{sv}}t":  # type: ignore[valid-type, name-defined]  # noqa: F722, F821
        return [self.applied, self.version]

    @method()
    def Reapply(self, connection: "a{sa{sv}}", version: "t", flags: "u") -> None:  # type: ignore[valid-type, name-defined]  # noqa: F722, F821
        if version not in (0, self.version):
            raise DBusError("org.freedesktop.NetworkManager.Device.VersionIdMismatch", "the version is another")
        self.reapplied.append((version, flags))
        self.applied, self.version = connection, self.version + 1


class FakeDnsManager(ServiceInterface):
    """org.freedesktop.NetworkManager.DnsManager."""

    def __init__(self, mode: str = "symlink") -> None:
        super().__init__("org.freedesktop.NetworkManager.DnsManager")
        self._mode = mode

    @dbus_property(access=PropertyAccess.READ)
    def RcManager(self) -> "s":  # type: ignore[valid-type, name-defined]  # noqa: F821
        return self._mode


async def serve(address: str, name: str, **interfaces: tuple[str, ServiceInterface]) -> MessageBus:
    """Export the interfaces at their paths and take the name; `disconnect()` ends it."""
    bus = await MessageBus(address).connect()
    for path, interface in interfaces.values():
        bus.export(path, interface)
    await bus.request_name(name)
    return bus
