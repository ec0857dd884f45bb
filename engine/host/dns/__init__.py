"""The system's resolvers while Connected: set, and restored exactly. What DNS may *leave* is the filter's business."""

from engine.host.dns.manager import DnsError
from engine.host.dns.system import SystemDns
from engine.host.dns.watch import ResolversWatch

__all__ = ["DnsError", "ResolversWatch", "SystemDns"]
