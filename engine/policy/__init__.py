"""What the security document says, as data: the frozen `Policy` and the rules it stands for."""

from engine.policy.model import Hop, Platform, Policy, Protocol, State, Tunnel
from engine.policy.nets import MARK, IPAddress, IPNetwork
from engine.policy.rule import App, Direction, Interface, Rule
from engine.policy.rules import P0, rules_for

__all__ = [
    "MARK",
    "P0",
    "App",
    "Direction",
    "Hop",
    "IPAddress",
    "IPNetwork",
    "Interface",
    "Platform",
    "Policy",
    "Protocol",
    "Rule",
    "State",
    "Tunnel",
    "rules_for",
]
