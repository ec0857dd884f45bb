"""Desktop firewall backends: the same `Policy` rendered for nftables, PF and WFP.

Each backend has a pure half (`render` or `filters`: policy in, artefact out) and an I/O half (`apply`). PF and WFP
cannot be loaded on Linux, so each has an `evaluate` with the documented semantics of its platform, which tests and
proofs hold the artefact against. `assumptions` names what a platform cannot express.
"""

from engine.firewall.errors import FirewallError

__all__ = ["FirewallError"]
