"""What a command needs of the machine, told in one sentence before anything is changed."""

from __future__ import annotations

from engine.cli.main import MISSING, Fault


def require_firewall() -> None:
    """Raise Fault with exit code 3 when this machine's nftables cannot carry our rules."""
    from engine.firewall.nftables.apply import missing

    problems = missing()
    if problems:
        raise Fault("; ".join(problems), MISSING)


def require_privilege() -> None:
    """Raise Fault with exit code 3 when a privilege or a kernel feature is missing."""
    from engine.host import capabilities

    problems = capabilities.missing()
    if problems:
        raise Fault("; ".join(problems), MISSING)
