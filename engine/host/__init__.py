"""The machine: routes, rules, addresses, capabilities."""

from engine.host.capture import DEFAULT_ROUTES, Capture
from engine.host.netlink import Host, HostError
from engine.host.offline import OfflineMonitor

__all__ = ["DEFAULT_ROUTES", "Capture", "Host", "HostError", "OfflineMonitor"]
