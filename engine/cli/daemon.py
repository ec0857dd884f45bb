"""`molehill daemon`: the system service, as systemd runs it."""

from __future__ import annotations

import sys

import click

from engine.cli.main import BAD_INPUT, FAILED, Fault
from engine.cli.require import threads_option

_MODES = {"auto": None, "firewall": True, "vpn-service": False}


@click.command("daemon")
@click.option("--mode", type=click.Choice(list(_MODES)), default="auto", show_default=True,
              help="What enforces: the TUN and nftables (firewall), or the TUN alone (vpn-service). "
              "auto: the firewall, where the machine can.")  # fmt: skip
@click.option("--interface", default="molehill0", show_default=True, metavar="NAME", help="The TUN's name.")
@click.option("--socket-group", metavar="GROUP", help="Only root and this group may use the management socket. "
              "Default: every local user may.")  # fmt: skip
@click.option("--early-boot-blocking", is_flag=True, help="Block everything and end: for the time in the boot before "
              "the daemon can run.")  # fmt: skip
@threads_option
@click.option("--verbose", "-v", is_flag=True, help="Log more.")
def command(
    mode: str,
    interface: str,
    socket_group: str | None,
    early_boot_blocking: bool,
    threads: int | None,
    verbose: bool,
) -> None:
    """Run the service that the other commands talk to. systemctl start molehill does this.

    Settings and tunnels are in /var/lib/molehill (MOLEHILL_STATE_DIR), the socket in /run/molehill
    (MOLEHILL_RUN_DIR).

    A connect holds until the disconnect: killed or restarted, the daemon leaves everything blocked, and connects again
    at its next start. SIGTERM, SIGINT and SIGHUP are the user's stop, which opens, if systemd says that the machine is
    not going down; otherwise, and where there is no systemd to ask, what was blocked stays blocked. SIGUSR1 is a
    restart.
    """
    from engine.cli.require import require_firewall, require_privilege, require_threads

    require_threads(threads)
    require_privilege()
    if _MODES[mode]:
        require_firewall()

    import uvloop

    from engine.daemon import logs, main
    from engine.management.client import default_path
    from engine.service import Unavailable

    options = main.Options(interface, _MODES[mode], default_path(), socket_group)
    ring = logs.begin(verbose)
    try:
        code = uvloop.run(main.block_early(options) if early_boot_blocking else main.run(options, ring))
    except Unavailable as error:
        raise Fault(str(error), FAILED) from None
    except OSError as error:
        raise Fault(str(error), FAILED) from None
    except ValueError as error:
        raise Fault(str(error), BAD_INPUT) from None
    sys.exit(code)
