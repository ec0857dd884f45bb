"""The machine: routes, rules, addresses, resolvers, capabilities."""

from engine.host.capture import DEFAULT_ROUTES, Capture, Endpoint
from engine.host.dns import DnsError, ResolversWatch, SystemDns
from engine.host.netlink import Disturbance, Host, HostError, InterfaceGone, is_captured
from engine.host.notes import Notes
from engine.host.offline import OfflineMonitor
from engine.host.resume import ResumeWatch
from engine.host.watch import CaptureWatch

__all__ = [
    "DEFAULT_ROUTES",
    "Capture",
    "CaptureWatch",
    "Disturbance",
    "DnsError",
    "Endpoint",
    "Host",
    "HostError",
    "InterfaceGone",
    "Notes",
    "OfflineMonitor",
    "ResolversWatch",
    "ResumeWatch",
    "SystemDns",
    "is_captured",
]
