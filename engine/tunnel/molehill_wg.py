"""`molehill-wg [-f] INTERFACE`: a plain WireGuard interface in userspace, in place of the wireguard-go command.

Order of events: create the TUN (so that a missing privilege is told at once), go to the background unless asked not
to, open the configuration socket, tell the waiting parent that all is ready, run until the interface or the socket is
deleted or a signal asks to stop.
"""

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence

import uvloop

from engine import __version__
from engine.filter import PASS_ALL, PASS_ALL_RULES
from engine.tunnel.events import Stopped, TunnelEvent
from engine.tunnel.threads import MOST, set_threads, threads
from engine.tunnel.tunnel import Tunnel
from engine.tunnel.uapi_server import UapiServer
from tun.device import TunError
from tun.linux import LinuxTun

DESCRIPTION = """\
A userspace WireGuard interface, configured by the ordinary wg and wg-quick commands.

NO POLICY IS APPLIED in this mode: every packet passes, as with any plain WireGuard interface.
The tunnel that fails closed is `molehill run`."""

EPILOG = """\
examples:
  molehill-wg wg0                      create wg0 and go to the background
  molehill-wg -f wg0                   stay in the foreground
  wg setconf wg0 /etc/wireguard/x.conf configure it with the unmodified wg
  WG_QUICK_USERSPACE_IMPLEMENTATION=molehill-wg wg-quick up wg0

It ends when the interface is deleted (ip link del wg0), when /var/run/wireguard/wg0.sock is deleted, or on
SIGINT/SIGTERM. LOG_LEVEL=debug|info|error sets how much is told on standard error.

exit codes: 0 ended as asked, 1 could not start or the interface failed, 2 bad arguments"""

_PASS_ALL_IDS = tuple(rule.id for rule in PASS_ALL_RULES)

LOG_LEVELS = {
    "silent": logging.CRITICAL,
    "error": logging.ERROR,
    "info": logging.INFO,
    "verbose": logging.DEBUG,
    "debug": logging.DEBUG,
}


def main(code: bytes = PASS_ALL, rules: Sequence[str] = _PASS_ALL_IDS) -> None:
    """Console entry point. `code` is the program that packets are judged by, `rules` are its rule ids."""
    parser = argparse.ArgumentParser(
        "molehill-wg", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="do not go to the background")
    parser.add_argument("--no-offload", action="store_true", help="one packet a system call (to compare, or to debug)")
    parser.add_argument(
        "--threads", type=int, choices=range(1, MOST + 1), metavar="N",
        help=f"how many threads carry packets, 1 to {MOST}; each flow keeps to one (default: MOLEHILL_THREADS, or 1)",
    )  # fmt: skip
    parser.add_argument("--version", action="version", version=f"molehill-wg {__version__}")
    parser.add_argument("interface", metavar="INTERFACE", help="name of the interface to create, such as wg0")
    arguments = parser.parse_args()
    if arguments.threads is not None:
        set_threads(arguments.threads)
    level = os.environ.get("LOG_LEVEL", "error").lower()
    logging.basicConfig(level=LOG_LEVELS.get(level, logging.ERROR), format="molehill-wg: %(message)s")
    foreground = arguments.foreground or os.environ.get("WG_PROCESS_FOREGROUND") == "1"
    try:
        device = LinuxTun(arguments.interface, queues=threads(), offload=not arguments.no_offload)
    except TunError as error:
        sys.exit(f"molehill-wg: {error}")
    ready = -1 if foreground else _background()
    try:
        sys.exit(uvloop.run(_run(device, ready, arguments.no_offload, code, rules)))
    except OSError as error:
        sys.exit(f"molehill-wg: {error}")


def _background() -> int:
    """Fork; the parent waits for the child's word and exits. Returns the pipe's end on which to give it."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        os.setsid()
        return writer
    os.close(writer)
    started = os.read(reader, 1) == b"1"
    os._exit(0 if started else 1)  # the TUN belongs to the child now: no clean-up here


def _tell_ready(ready: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.close(null)
    os.write(ready, b"1")
    os.close(ready)


async def _run(device: LinuxTun, ready: int, no_offload: bool, code: bytes, rules: Sequence[str]) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(code: int, why: str) -> None:
        if not ended.done():
            logging.info(why)
            ended.set_result(code)

    def on_event(event: TunnelEvent) -> None:
        if isinstance(event, Stopped):
            end(0, f"the interface is gone ({os.strerror(event.error)})")

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end, 0, "asked to stop")
    tunnel = Tunnel(device, offload=not no_offload, on_event=on_event)
    await tunnel.start()
    tunnel.apply(code, rules)
    server = UapiServer(
        device.name,
        tunnel.uapi,
        lambda: end(0, "the configuration socket was deleted"),
    )
    await server.start()
    if ready >= 0:
        _tell_ready(ready)
    try:
        return await ended
    finally:
        await server.close()
        await tunnel.close()
        device.close()


if __name__ == "__main__":
    main()
