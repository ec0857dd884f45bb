"""`molehill run CONF`: the VPN service in the foreground. Ctrl-C is the explicit disconnect."""

from __future__ import annotations

import json
import logging
import signal
import sys
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from engine.cli.main import BAD_INPUT, FAILED, OK, Fault
from engine.cli.require import threads_option

if TYPE_CHECKING:
    from engine.bridge import BridgeSettings
    from engine.host import SystemDns
    from engine.service import Builder, Session
    from engine.wg.conf import Conf
    from engine.wg.config import DeviceConfig

_COLOURS = {"connected": "green", "connecting": "yellow", "disconnecting": "yellow", "error": "red"}


class _Address(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.2
    """An IP address on the command line."""

    name = "IP"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> IPv4Address | IPv6Address:
        try:
            return ip_address(value)
        except ValueError:
            self.fail(f"{value!r} is no IP address", param, ctx)


@click.command("run")
@click.argument("conf", type=click.Path(path_type=Path))
@click.option(
    "--profile", default="linux", show_default=True, metavar="NAME", help="Whose rules: see molehill profile."
)
@click.option("--allow-lan", is_flag=True, help="Let the local network be reached (never its DNS).")
@click.option("--dns", multiple=True, type=_Address(), help="A custom DNS server, may be repeated; then only these.")
@click.option("--gateway", type=_Address(), help="The relay's address in the tunnel: pinged to verify it. "
              "Default: the first DNS server of CONF.")  # fmt: skip
@click.option("--always-require-vpn", is_flag=True, help="Go on blocking after the disconnect, until molehill unblock.")
@click.option("--firewall", is_flag=True, help="Enforce by nftables too: inbound packets, sockets bound to a device, "
              "multicast. Without it: at the TUN alone.")  # fmt: skip
@click.option("--bridge", metavar="KIND:ADDR:PORT", help="Reach the server by way of a bridge: udp-over-tcp:ADDR:PORT "
              "or shadowsocks:ADDR:PORT.")  # fmt: skip
@click.option("--bridge-password-file", type=click.Path(path_type=Path), metavar="FILE",
              help="The Shadowsocks bridge's password, in a file that its owner alone can read.")  # fmt: skip
@click.option("--bridge-cipher", metavar="NAME", default="chacha20-ietf-poly1305", show_default=True,
              help="The Shadowsocks bridge's cipher: this one or aes-256-gcm.")  # fmt: skip
@click.option("--interface", metavar="NAME", help="The TUN's name. Default: CONF's name without .conf.")
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Tell each change of state as a line of JSON.")
@click.option("--verbose", "-v", is_flag=True, help="Tell what happens inside, on standard error.")
def command(
    conf: Path,
    profile: str,
    allow_lan: bool,
    dns: tuple[IPv4Address | IPv6Address, ...],
    gateway: IPv4Address | IPv6Address | None,
    always_require_vpn: bool,
    firewall: bool,
    bridge: str | None,
    bridge_password_file: Path | None,
    bridge_cipher: str,
    interface: str | None,
    threads: int | None,
    as_json: bool,
    verbose: bool,
) -> None:
    """Connect by the WireGuard configuration CONF and stay in the foreground.

    From the start until you disconnect, no packet leaves but as the current state permits: a lost tunnel, another
    server, even a crash do not open it. Ctrl-C (or SIGTERM) is the disconnect, and removes everything.

    While connected, the system asks the tunnel's DNS servers. MOLEHILL_DNS=resolved|networkmanager|resolvconf|file says
    by whom they are set (default: by who manages them here), MOLEHILL_DNS=none leaves the system's own.

    \b
    Examples:
      sudo molehill run /etc/wireguard/se1.conf
      sudo molehill run se1.conf --firewall
      sudo molehill run se1.conf --dns 9.9.9.9 --gateway 10.64.0.1
      sudo molehill run se1.conf --bridge udp-over-tcp:203.0.113.9:443
      sudo molehill run se1.conf --json | jq -r .state
    """
    from engine.cli.require import require_firewall, require_privilege, require_threads
    from engine.service import PROFILES
    from engine.service.quick import not_followed

    require_threads(threads)
    if profile not in PROFILES:
        raise Fault(f"there is no profile {profile!r}: use one of {', '.join(PROFILES)}", BAD_INPUT)
    parsed = _read(conf)
    builder = _builder(conf, parsed, profile, interface or conf.name.removesuffix(".conf"))
    for server in dns:
        builder.add_dns_server(server)
    for inside in dict.fromkeys((*([gateway] if gateway else []), *parsed.dns)):
        builder.add_gateway(inside)
    if bridge is None and bridge_password_file is not None:
        raise click.UsageError("--bridge-password-file belongs to --bridge")
    if bridge is not None:
        builder.set_bridge(_bridge(bridge, bridge_password_file, bridge_cipher))
    builder.set_allow_lan(allow_lan).set_always_require_vpn(always_require_vpn).set_firewall(firewall)
    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="molehill: %(message)s")
    require_privilege()
    if firewall:
        require_firewall()
    one_peer = "bridge" if bridge is not None else "firewall" if firewall else ""
    for notice in not_followed(parsed, one_peer=one_peer):
        click.echo(f"molehill: {conf}: {notice}", err=True)

    import uvloop

    from engine.host import SystemDns

    try:
        system_dns = SystemDns()
    except ValueError as error:
        raise Fault(str(error), BAD_INPUT) from None
    sys.exit(uvloop.run(_run(conf, parsed, builder, system_dns, as_json)))


def _read(path: Path) -> Conf:
    from engine.wg.conf import MAX_SIZE, ConfError, parse_conf

    try:
        with path.open("rb") as file:
            return parse_conf(file.read(MAX_SIZE + 1))
    except OSError as error:
        raise Fault(f"{path}: {error.strerror}", BAD_INPUT) from None
    except ConfError as error:
        raise Fault(f"{path}: {error}", BAD_INPUT) from None


def _builder(path: Path, conf: Conf, profile: str, interface: str) -> Builder:
    """A builder with all but the endpoints, which are looked up last."""
    from engine.service.quick import check_peers, interface_of

    try:
        builder = interface_of(conf, profile).set_interface(interface).set_session(path.name)
        check_peers(conf)
        return builder
    except ValueError as error:
        raise Fault(f"{path}: {error}", BAD_INPUT) from None


def _bridge(text: str, password_file: Path | None, cipher: str) -> BridgeSettings:
    from engine.bridge import BridgeSettings, Cipher
    from engine.cli.bridge import read_password

    if cipher not in list(Cipher):
        raise Fault(f"there is no cipher {cipher!r}: use {' or '.join(Cipher)}", BAD_INPUT)
    password = read_password(password_file) if password_file is not None else ""
    try:
        return BridgeSettings.parse(text, password, Cipher(cipher))
    except ValueError as error:
        raise Fault(f"--bridge: {error}", BAD_INPUT) from None


async def _resolved(config: DeviceConfig) -> DeviceConfig:
    """The same with addresses for the endpoints' names: from now on DNS is blocked."""
    from engine.tunnel.resolve import ResolveError, resolve
    from engine.wg.config import HostPort

    found: dict[bytes, HostPort | None] = {}
    for peer in config.peers:
        if peer.endpoint is not None and peer.endpoint.address is None:
            try:
                endpoint = await resolve(peer.endpoint.host, peer.endpoint.port)
            except ResolveError as error:
                raise Fault(f"{error}; if an earlier run still blocks, molehill unblock opens it") from None
            found[peer.public_key] = HostPort(str(endpoint.host), endpoint.port)
    return config.with_endpoints(found)


async def _run(path: Path, conf: Conf, builder: Builder, system_dns: SystemDns, as_json: bool) -> int:
    import asyncio

    from engine.host import DnsError
    from engine.service import Session, State, Unavailable
    from engine.service.control import StatusServer

    try:
        await system_dns.recover()  # the endpoints' names are looked up next, by the machine's own servers
    except DnsError as error:
        click.echo(f"molehill: {error}", err=True)
    try:
        configuration = builder.set_wireguard(await _resolved(conf.device)).configuration()
    except ValueError as error:
        raise Fault(f"{path}: {error}", BAD_INPUT) from None
    session = Session(configuration, dns=system_dns)
    asked = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # before anything is enforced: to die of one would leave it blocked
        asyncio.get_running_loop().add_signal_handler(number, asked.set)
    try:
        await session.start()
    except Unavailable as error:
        raise Fault(str(error)) from None
    server = StatusServer(session)
    try:
        await server.start()
    except OSError as error:
        click.echo(f"molehill: there will be no status: {server.path}: {error.strerror}", err=True)
    session.connect()
    telling = asyncio.create_task(_tell(session, as_json))
    await asked.wait()
    await session.stop()
    telling.cancel()
    await server.close()
    if session.status.machine.enforced and session.status.state is State.DISCONNECTED:
        if session.status.blocks:
            click.echo("molehill: everything stays blocked, as asked; molehill unblock opens it", err=True)
        return OK
    click.echo(f"molehill: {session.status.line()}", err=True)
    return FAILED


async def _tell(session: Session, as_json: bool) -> None:
    """A line on standard output for each change."""
    last = ""
    async for status in session.watch():
        if as_json:
            click.echo(json.dumps(session.details()))
            sys.stdout.flush()
            continue
        line = status.line()
        if line != last:
            last = line
            click.echo(click.style(f"{status.state:13} ", fg=_COLOURS.get(status.state)) + line)
            sys.stdout.flush()
