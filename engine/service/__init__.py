"""The VPN-service model: `Builder`, `establish()`, profiles."""

from engine.host import DnsError, HostError
from engine.policy import State
from engine.service.builder import Builder, Configuration
from engine.service.place import Unavailable
from engine.service.profiles import PROFILES, Gap, Profile
from engine.service.session import Session
from engine.service.status import SessionStatus
from engine.service.unblock import remove_block

__all__ = [
    "PROFILES",
    "Builder",
    "Configuration",
    "DnsError",
    "Gap",
    "HostError",
    "Profile",
    "Session",
    "SessionStatus",
    "State",
    "Unavailable",
    "remove_block",
]
