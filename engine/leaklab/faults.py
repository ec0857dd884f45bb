"""What happens to a device: processes die, others meddle, networks change, disks fill, clocks jump; in every state.

While it lasts, and after it, nothing may leave but what the state permits. When it is over, Connected has to work
again.
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import replace
from glob import glob
from pathlib import Path
from typing import Iterator  # noqa: UP035

from engine.leaklab import world
from engine.leaklab.arena import Arena, Condition
from engine.leaklab.cells import Do, Findings, NotHere, Test, inside
from engine.leaklab.drivers import FORMER_RESOLV_CONF, Daemon
from engine.leaklab.namespaces import Namespace, wait_until
from engine.leaklab.probes import Probe, udp
from engine.leaklab.relay import Liar
from engine.management.client import ManagementError

GROUP = "faults"
STATES = tuple(Condition(state) for state in ("connecting", "connected", "error", "lockdown"))
CONNECTED = (Condition("connected"),)
_WATCHED = 1.0  # seconds
_NOTICES = 30.0  # seconds in which a lost tunnel is noticed and made anew
_TRY = Probe("UDP", "", udp(world.WEB4))
_NOTICED = 1.0  # seconds in which a meddler's work has to be undone


def _works_again(arena: Arena, condition: Condition, findings: Findings, patience: float = _NOTICES) -> None:
    """Connected is Connected, and what it permits gets through, after a while: a lost tunnel takes 20 s to notice."""
    if condition.state != "connected":
        return
    driver = arena.driver
    if driver.status().state == "error" and driver.live:  # only the user leaves it (ERR-2)
        driver.connect()
    try:
        driver.wait_for("connected", patience)
        wait_until(lambda: bool(arena.probe([_TRY])[0][0].source), patience, "the tunnel works")
    except TimeoutError as error:
        findings.missed(f"not connected again: {str(error)[:300]}")
        return
    inside(arena, findings, "afterwards")


def _start_again(arena: Arena, condition: Condition, findings: Findings) -> None:
    """Start the daemon after its end: what was secured connects again."""
    if condition.state != "lockdown":
        arena.watch(replace(condition, state="connected" if condition.state != "connecting" else "connecting"))
    arena.driver.start()
    _works_again(arena, condition, findings)


# Of the process


def _killed(arena: Arena, condition: Condition, findings: Findings) -> None:
    arena.driver.kill()
    time.sleep(_WATCHED)
    _start_again(arena, condition, findings)


def _stopped(arena: Arena, condition: Condition, findings: Findings) -> None:
    arena.driver.signal(signal.SIGSTOP)
    time.sleep(2 * _WATCHED)
    arena.driver.signal(signal.SIGCONT)
    _works_again(arena, condition, findings)


def _out_of_memory(arena: Arena, condition: Condition, findings: Findings) -> None:
    process = arena.driver.process
    assert process is not None
    with _memory_group(f"leaklab-{os.getpid()}") as (limit, members):
        members.write_text(str(process.pid))
        with suppress(OSError):  # it uses more already
            limit.write_text("65536")
        begin = time.monotonic()
        while process.running and time.monotonic() < begin + 5:
            with suppress(ManagementError, OSError):
                arena.driver.settings(mtu=1300 + int(time.monotonic() * 50) % 80)
        if process.running:
            raise NotHere("the kernel does not kill what has no memory left")
        time.sleep(_WATCHED)
    _start_again(arena, condition, findings)


@contextmanager
def _memory_group(name: str) -> Iterator[tuple[Path, Path]]:
    """A group whose memory can be limited: the files of its limit and of its members."""
    for root, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = root / name
        with suppress(OSError):
            if limit == "memory.max":
                (root / "cgroup.subtree_control").write_text("+memory")
            group.mkdir()
            if (group / limit).exists():
                break
            group.rmdir()
    else:
        raise NotHere("no memory group (cgroup) can be made here")
    try:
        yield group / limit, group / "cgroup.procs"
    finally:
        with suppress(OSError):
            (group / limit).write_text("-1" if limit != "memory.max" else "max")
        for _ in range(50):
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def _terminated(arena: Arena, condition: Condition, findings: Findings) -> None:
    """SIGTERM where no systemd says that the machine stays up: a shutdown, at which the block stays (EXIT-1)."""
    assert isinstance(arena.driver, Daemon)
    arena.driver.stop()
    time.sleep(_WATCHED)


def _restarted(arena: Arena, condition: Condition, findings: Findings) -> None:
    """SIGUSR1, the unit's restart; so is the package's upgrade."""
    process = arena.driver.process
    assert process is not None
    arena.driver.signal(signal.SIGUSR1)
    process.popen.wait(20)
    time.sleep(_WATCHED / 2)
    _start_again(arena, condition, findings)


def _settings_reset(arena: Arena, condition: Condition, findings: Findings) -> None:
    """`reset-settings`: no tunnel is chosen any more, so nothing can be connected to; it stays blocked."""
    assert isinstance(arena.driver, Daemon)
    if condition.state == "lockdown":  # the user says that Disconnected is open
        arena.unwatch()
    arena.driver.reset_settings()
    time.sleep(_WATCHED)


def _no_descriptors(arena: Arena, condition: Condition, findings: Findings) -> None:
    """Not one more descriptor for the process, while settings change and it connects anew."""
    process = arena.driver.process
    assert process is not None
    before = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
    used = len(os.listdir(f"/proc/{process.pid}/fd"))
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (used, before[1]))
    _press(arena)
    time.sleep(_WATCHED)
    resource.prlimit(process.pid, resource.RLIMIT_NOFILE, before)
    _works_again(arena, condition, findings)


def _press(arena: Arena) -> None:
    """Ask for changes that may well fail."""
    for change in ({"mtu": 1300}, {"dns": (world.RESOLVER4,)}, {"dns": ()}, {"mtu": None}):
        with suppress(ManagementError, OSError):
            arena.driver.settings(**change)
    assert isinstance(arena.driver, Daemon)
    with suppress(ManagementError, OSError):
        if arena.condition.state == "connected":
            arena.driver.reconnect()


# Of the machine


def _disk_full(arena: Arena, condition: Condition, findings: Findings) -> None:
    """No block is left where settings and target live; then it is killed, and starts so."""
    arena.home.sh("sh", "-c", "cat /dev/zero > /var/lib/filler 2>/dev/null || true")
    try:
        arena.driver.settings(allow_lan=True)
        findings.missed("a setting was taken that cannot be kept")
    except ManagementError:
        pass
    _press(arena)
    arena.driver.kill()
    time.sleep(_WATCHED / 2)
    _start_again(arena, condition, findings)
    arena.home.sh("rm", "-f", "/var/lib/filler")


def _socket_removed(arena: Arena, condition: Condition, findings: Findings) -> None:
    path = arena.lab.dir / "run" / "management.socket"
    path.unlink()
    try:
        wait_until(lambda: arena.driver.status().state != "", 5, "a management socket again")
    except TimeoutError:
        findings.missed("the management socket does not come back")
    time.sleep(_WATCHED / 2)
    _works_again(arena, condition, findings)


def _with_a_false_clock(arena: Arena, condition: Condition, findings: Findings) -> None:
    """The daemon anew, with a wall clock that the lab sets (libfaketime; a time namespace has no wall clock)."""
    found = glob("/usr/lib/*/faketime/libfaketime.so.1")
    if not found:
        raise NotHere("libfaketime is not installed (Debian: faketime)")
    arena.driver.kill()
    clock = arena.lab.dir / "clock"
    clock.write_text("+0\n")
    false = {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
    arena.driver.env.update({**false, "FAKETIME_DONT_FAKE_MONOTONIC": "1"})
    arena.driver.start()


def _clock_jumps(offset: int) -> Do:
    """The wall clock is that many seconds off, with a handshake meanwhile, and then right again."""

    def do(arena: Arena, condition: Condition, findings: Findings) -> None:
        clock = arena.lab.dir / "clock"
        clock.write_text(f"{offset:+d}\n")
        time.sleep(_WATCHED)
        if isinstance(arena.driver, Daemon) and condition.state == "connected":
            arena.driver.reconnect()
        time.sleep(_WATCHED)
        clock.write_text("+0\n")
        if isinstance(arena.driver, Daemon) and condition.state == "connected":
            arena.driver.reconnect()
        time.sleep(_WATCHED)
        # A relay that has seen a later time takes no earlier one again: waiting longer would not help.
        _works_again(arena, condition, findings, 6.0 if offset > 0 else _NOTICES)
        arena.driver.kill()
        for name in [name for name in arena.driver.env if name.startswith(("LD_", "FAKETIME"))]:
            del arena.driver.env[name]

    return do


def _resolv_conf_overwritten(arena: Arena, condition: Condition, findings: Findings) -> None:
    """A DHCP client names the provider's resolver; every program asks it from now on."""
    arena.home.sh("sh", "-c", f"echo 'nameserver {world.ISP4}' > /etc/resolv.conf")
    for _ in range(2):
        with suppress(RuntimeError):
            arena.home.sh("timeout", "1", "getent", "ahostsv4", "overwritten.test")
    time.sleep(_WATCHED / 2)
    arena.home.sh("sh", "-c", f"printf '{FORMER_RESOLV_CONF}' > /etc/resolv.conf")


# Of the firewall and the routes, by others


def _table(device: Namespace) -> str:
    try:
        return device.sh("nft", "-s", "list", "table", "inet", "molehill")
    except RuntimeError:
        return ""


def _wrong_for(right: Callable[[], bool]) -> float:
    """Look until it is right, for six seconds: when the last look began that found it wrong, in seconds from now."""
    begin = last = time.monotonic()
    while (looked := time.monotonic()) < begin + 6 and not right():
        last = looked
    return last - begin


def _meddle(*commands: str) -> Do:
    """Somebody changes what enforces; within a second it has to be as it was."""

    def do(arena: Arena, condition: Condition, findings: Findings) -> None:
        if commands[0].startswith("nft") and not arena.firewall:
            raise NotHere("there is no table in this mode")
        device = arena.lab["device"]
        before = _enforcers(device)
        for command in commands:
            words = command.format(tun=arena.driver.iface, table=world.MARK).split()
            with suppress(RuntimeError):  # where there is nothing to take away: no tunnel's route in lockdown
                device.sh(*words)
        if (took := _wrong_for(lambda: _enforcers(device) == before)) > _NOTICED:
            findings.missed(f"what enforces was not as before after {took:.1f} s")
        if commands[0] == "nft flush ruleset":
            device.sh("nft", "-f", "-", stdin=world.GUEST_NAT)
        time.sleep(_WATCHED / 2)
        _works_again(arena, condition, findings)

    return do


def _foreign_rule_first(arena: Arena, condition: Condition, findings: Findings) -> None:
    """Another VPN's rule, or an administrator's, is asked before ours; within a second ours come first again.

    The control is the moment before: where the TUN alone enforces, the witnesses see packets leave (LNX-8).
    """
    device, families = arena.lab["device"], ("", "-6 ")
    for family in families:
        device.ip(f"{family}rule add pref 99 lookup main")
    try:
        if (took := _wrong_for(lambda: all(_ours_are_first(device, family) for family in families))) > _NOTICED:
            findings.missed(f"a foreign rule was asked before ours for {took:.1f} s")
        time.sleep(_WATCHED / 2)
        _works_again(arena, condition, findings)
    finally:
        for family in families:
            device.ip(f"{family}rule del pref 99 lookup main")


def _ours_are_first(device: Namespace, family: str) -> bool:
    rules = [line for line in device.ip(f"{family}rule show").splitlines() if "lookup local" not in line]
    ours = ["proto 109" in line for line in rules]
    return ours[:1] == [True] and ours == sorted(ours, reverse=True)


def _enforcers(device: Namespace) -> tuple[str, list[str], list[str]]:
    """Our table, our rules and our routes, as the kernel tells them, but not in which order it lists equal ones."""
    rules = "".join(device.ip(f"{family}rule show proto 109") for family in ("", "-6 "))
    routes = "".join(device.ip(f"{family}route show table {world.MARK}") for family in ("", "-6 "))
    return _table(device), sorted(rules.splitlines()), sorted(routes.replace(" linkdown", "").splitlines())


# Of the network


def _restore_uplink(device: Namespace) -> None:
    """As a network manager does it when the link is back."""
    for address in (f"{world.DEVICE4}/24", f"{world.DEVICE6}/64", "fd77::2/64"):
        device.ip(f"addr replace {address} dev eth0{' nodad' if ':' in address else ''}")
    device.ip(f"route replace default via {world.ISP4}")
    device.ip(f"-6 route replace default via {world.ISP6}")


def _network(*steps: Callable[[Namespace], None] | str) -> Do:
    """Change the network step by step, watch after each; at the end it is as before, and has to work again."""

    def do(arena: Arena, condition: Condition, findings: Findings) -> None:
        device = arena.lab["device"]
        for step in steps:
            if isinstance(step, str):
                device.ip(step)
            else:
                step(device)
            time.sleep(_WATCHED / 2)
        _works_again(arena, condition, findings)

    return do


def _moved_to_the_second_wire(arena: Arena, condition: Condition, findings: Findings) -> None:
    """Another network appears and takes the default route; then the first one goes."""
    device = arena.lab["device"]
    device.ip("link set eth1 up")
    device.ip(f"addr add {world.SECOND4}/24 dev eth1")
    device.ip(f"route replace default via {world.SECOND_ISP4} dev eth1")
    time.sleep(_WATCHED / 2)
    device.ip("link set eth0 down")
    time.sleep(_WATCHED / 2)
    _works_again(arena, condition, findings)
    device.ip("link set eth0 up")
    _restore_uplink(device)
    device.ip(f"addr del {world.SECOND4}/24 dev eth1")
    device.ip("link set eth1 down")
    _works_again(arena, condition, findings)


def _relay_lies(arena: Arena, condition: Condition, findings: Findings) -> None:
    """In the relay's place somebody answers with noise."""
    relay = arena.relays[0]
    relay.stop()
    with Liar(relay) as liar:
        arena.cut_relays(False)
        if condition.state == "connecting":
            with suppress(TimeoutError):
                wait_until(lambda: liar.answered > 0, 10, "an initiation")
        time.sleep(_WATCHED)
        if isinstance(arena.driver, Daemon) and condition.state == "connected":
            arena.driver.reconnect()
        time.sleep(_WATCHED)
        findings.sent += liar.answered
        if condition.state in ("connecting", "connected") and not liar.answered:
            findings.missed("nobody asked the false relay: the test says nothing")
    relay.start()
    _works_again(arena, condition, findings)


_TESTS: tuple[tuple[str, Do, tuple[Condition, ...], dict[str, object]], ...] = (
    ("SIGKILL, then started again", _killed, STATES, {"needs_daemon": True}),
    ("SIGSTOP for two seconds", _stopped, STATES, {}),
    ("out of memory", _out_of_memory, STATES, {"needs_daemon": True}),
    ("SIGTERM, as by a shutdown", _terminated, STATES, {"needs_daemon": True}),
    ("SIGUSR1, as by a restart", _restarted, STATES, {"needs_daemon": True}),
    ("no file descriptors left", _no_descriptors, STATES, {"needs_daemon": True}),
    ("a full disk, then killed and started", _disk_full, STATES, {"needs_daemon": True}),
    ("the clock a day ahead, then right", _clock_jumps(86400), STATES,
     {"needs_daemon": True, "before": _with_a_false_clock, "lost": "WG-1"}),
    ("the clock a day behind, then right", _clock_jumps(-86400), STATES,
     {"needs_daemon": True, "before": _with_a_false_clock}),
    ("the management socket removed", _socket_removed, STATES, {"needs_daemon": True}),
    ("the settings reset", _settings_reset, STATES, {"needs_daemon": True}),
    ("resolv.conf overwritten", _resolv_conf_overwritten, STATES, {}),
    ("nft flush ruleset", _meddle("nft flush ruleset"), STATES, {"known": "NFT-2"}),
    ("our table deleted", _meddle("nft delete table inet molehill"), STATES, {"known": "NFT-2"}),
    ("our output chain emptied", _meddle("nft flush chain inet molehill output"), STATES, {}),
    ("our rules deleted", _meddle(*(f"ip {family}rule del pref {priority}" for family in ("", "-6 ")
                                    for priority in (190, 130, 195))), STATES,
     {"gap": "LNX-8"}),
    ("a foreign rule before ours", _foreign_rule_first, STATES, {"gap": "LNX-8"}),
    ("our routes deleted", _meddle("ip route flush table {table}", "ip -6 route flush table {table}"), STATES, {}),
    ("the TUN deleted", _meddle("ip link del {tun}"), STATES, {}),
    ("the TUN set down", _meddle("ip link set {tun} down"), STATES, {}),
    ("the TUN's addresses removed", _meddle("ip addr flush dev {tun}"), STATES, {}),
    ("the interface down and up", _network("link set eth0 down", "link set eth0 up", _restore_uplink), STATES, {}),
    ("the interface renamed", _network("link set eth0 down", "link set eth0 name wan0", "link set wan0 up",
                                       "link set wan0 down", "link set wan0 name eth0", "link set eth0 up",
                                       _restore_uplink), STATES, {}),
    ("the address changed", _network(f"addr add {world.LAN4}3/24 dev eth0", f"addr del {world.DEVICE4}/24 dev eth0",
                                     f"route replace default via {world.ISP4}", f"addr add {world.DEVICE4}/24 dev eth0",
                                     f"addr del {world.LAN4}3/24 dev eth0", _restore_uplink), STATES, {}),
    ("the default routes removed", _network("route del default", "-6 route del default", _restore_uplink), STATES, {}),
    ("another network, and the first one gone", _moved_to_the_second_wire, STATES, {}),
    ("the relay answers noise", _relay_lies, STATES, {"needs_daemon": True}),
)  # fmt: skip
TESTS = tuple(Test(GROUP, name, do, states, **more) for name, do, states, more in _TESTS)  # type: ignore[arg-type]
