"""What a command needs of the machine, told in one sentence before anything is changed."""

from __future__ import annotations

import click

from engine.cli.main import BAD_INPUT, MISSING, Fault

threads_option = click.option("--threads", type=click.IntRange(1, 16), metavar="N",
                              help="How many threads carry packets, 1 to 16; each flow keeps to one of them. "
                              "Default: MOLEHILL_THREADS, or 1.")  # fmt: skip


def require_firewall() -> None:
    """Raise Fault with exit code 3 when this machine's nftables cannot carry our rules."""
    from engine.firewall.nftables.apply import missing

    problems = missing()
    if problems:
        raise Fault("; ".join(problems), MISSING)


def require_threads(number: int | None) -> None:
    """Let `number` threads (None: as many as MOLEHILL_THREADS says) carry packets. Fault: it says no such number."""
    from engine.tunnel.threads import set_threads, threads
    from tun import TunError

    if number is not None:
        set_threads(number)
    try:
        threads()
    except TunError as error:
        raise Fault(str(error), BAD_INPUT) from None


def require_privilege() -> None:
    """Raise Fault with exit code 3 when a privilege or a kernel feature is missing."""
    from engine.host import capabilities

    problems = capabilities.missing()
    if problems:
        raise Fault("; ".join(problems), MISSING)
