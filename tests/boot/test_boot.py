"""The service's life on a real systemd: boot, crash, hang, restart, upgrade, stop, shutdown, removal.

EXIT-1, START-1, BOOT-1 as a capture on the provider's side sees them, a drizzle of datagrams trying all the time.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.device import RESOLV_CONF, Device, device
from tests.netns.lab import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.netns]


def kill(laptop: Device, how: signal.Signals) -> None:
    """A signal to the daemon's process; for systemd it comes as from anybody."""
    laptop.machine.run("systemctl", "kill", "--kill-whom=main", f"--signal={how.name}", "molehill.service")


def wait_for_another(laptop: Device, former: int) -> None:
    """Wait until another process serves, and is connected."""
    wait_until(lambda: laptop.machine.main_pid() not in (0, former), 60, "another daemon")
    laptop.wait_for("connected")


@pytest.fixture
def late(installed: Path) -> Iterator[Device]:
    """A device whose daemon starts a second late, not booted yet: time in which only the early unit can block."""
    with device(installed) as made:
        made.machine.write("etc/systemd/system/molehill.service.d/late.conf", "[Service]\nExecStartPre=sleep 1\n")
        yield made


def moment(laptop: Device, unit: str) -> float:
    """When a unit's process was started in this boot, in monotonic seconds."""
    return int(laptop.machine.show(unit, "ExecMainStartTimestampMonotonic")) / 1e6


def test_boot1_nothing_leaves_between_the_network_and_the_daemon(late: Device) -> None:
    before = time.monotonic()
    late.boot()
    assert 0 < moment(late, "lab-network.service") < moment(late, "molehill.service") - 0.5
    assert late.status()["state"] == "disconnected"
    assert late.is_open()
    assert min(late.frames_in_clear(before)) > moment(late, "molehill.service")


def test_boot1_without_the_early_unit_the_same_boot_leaks(late: Device) -> None:
    late.machine.write("etc/systemd/system/molehill-early-boot-blocking.service.d/off.conf",
                       "[Unit]\nConditionPathExists=/none\n")  # fmt: skip
    before = time.monotonic()
    late.boot()
    assert min(late.frames_in_clear(before)) < moment(late, "molehill.service")


def test_start1_with_auto_connect_not_a_frame_leaves_in_clear_in_the_whole_boot(laptop: Device) -> None:
    laptop.import_tunnel()
    laptop.machine.run("molehill", "auto-connect", "set", "on")
    laptop.machine.shut_down()
    before = time.monotonic()
    laptop.boot()
    laptop.wait_for("connected")
    assert laptop.frames_in_clear(before) == []


def test_exit1_a_crash_opens_nothing_and_keeps_the_tun(laptop: Device) -> None:
    laptop.connect()
    former, tun = laptop.machine.main_pid(), laptop.interface_index()
    kill(laptop, signal.SIGKILL)
    wait_for_another(laptop, former)
    assert laptop.interface_index() == tun
    assert laptop.walk.leaks() == []


def test_exit1_a_daemon_that_hangs_is_replaced_and_opens_nothing(installed: Path) -> None:
    with device(installed) as laptop:
        laptop.machine.write("etc/systemd/system/molehill.service.d/soon.conf", "[Service]\nWatchdogSec=4\n")
        laptop.boot()
        laptop.connect()
        former = laptop.machine.main_pid()
        time.sleep(10)
        assert laptop.machine.main_pid() == former, "one that sits idle is not taken for one that hangs"
        kill(laptop, signal.SIGSTOP)
        wait_for_another(laptop, former)
        assert laptop.walk.leaks() == []


def test_exit1_a_restart_opens_nothing(laptop: Device) -> None:
    laptop.connect()
    former, tun = laptop.machine.main_pid(), laptop.interface_index()
    laptop.machine.run("systemctl", "restart", "molehill.service")
    wait_for_another(laptop, former)
    assert laptop.interface_index() == tun
    assert laptop.walk.leaks() == []


def test_exit1_an_upgrade_opens_nothing_and_keeps_the_settings(laptop: Device, newer_package: Path) -> None:
    laptop.connect()
    laptop.machine.run("molehill", "mtu", "set", "1300")
    former = laptop.machine.main_pid()
    laptop.machine.write("root/newer.deb", newer_package.read_bytes())
    laptop.machine.run("dpkg", "-i", "/root/newer.deb")
    wait_for_another(laptop, former)
    assert laptop.machine.run("dpkg-query", "-Wf", "${Version}", "molehill") == "9-1"
    assert laptop.status()["mtu"] == 1300
    assert laptop.walk.leaks() == []


def test_exit1_an_upgrade_to_a_broken_version_opens_nothing_and_says_so(laptop: Device, broken_package: Path) -> None:
    laptop.connect()
    laptop.machine.write("root/broken.deb", broken_package.read_bytes())
    done = laptop.machine.try_run("dpkg", "-i", "/root/broken.deb")
    assert "the daemon did not start, what it blocked stays blocked" in done.stderr
    assert laptop.status() == {}
    assert not laptop.is_open()
    laptop.machine.run("dpkg", "-i", "/root/molehill.deb")  # back to the one that works
    laptop.wait_for("connected")
    assert laptop.walk.leaks() == []


def test_exit1_the_users_stop_opens(laptop: Device) -> None:
    laptop.connect()
    assert not laptop.is_open()
    laptop.machine.run("systemctl", "stop", "molehill.service")
    assert laptop.is_open()
    assert "molehill" not in laptop.table()
    assert (laptop.machine.run("cat", "/etc/resolv.conf")) == RESOLV_CONF


def test_exit1_the_users_stop_opens_nothing_while_vpn_is_always_required(laptop: Device) -> None:
    laptop.connect()
    laptop.machine.run("molehill", "lockdown", "set", "on")
    laptop.machine.run("systemctl", "stop", "molehill.service")
    assert laptop.machine.main_pid() == 0
    assert not laptop.is_open()
    assert laptop.walk.leaks() == []


def test_exit1_a_shutdown_keeps_the_block_to_its_end(laptop: Device) -> None:
    laptop.connect()
    laptop.machine.shut_down()
    assert not laptop.is_open()
    assert laptop.walk.leaks() == []
    assert "molehill" in laptop.table()


def test_exit1_a_shutdown_while_disconnected_leaves_everything_open(laptop: Device) -> None:
    assert laptop.is_open()
    laptop.machine.shut_down()
    assert laptop.is_open()


def test_exit1_removing_the_package_opens_and_a_purge_forgets(laptop: Device) -> None:
    laptop.connect()
    laptop.machine.run("molehill", "lockdown", "set", "on")
    assert not laptop.is_open()
    laptop.machine.run("dpkg", "--remove", "molehill")
    assert laptop.is_open()
    assert "molehill" not in laptop.table()
    assert (laptop.machine.run("cat", "/etc/resolv.conf")) == RESOLV_CONF
    assert laptop.machine.run("ls", "/var/lib/molehill/tunnels") != ""
    laptop.machine.run("dpkg", "--purge", "molehill")
    assert laptop.machine.try_run("ls", "/var/lib/molehill").returncode != 0
    laptop.machine.shut_down()
    laptop.boot()
    assert laptop.is_open()


def test_a_removal_that_cannot_open_says_why_and_what_will(laptop: Device) -> None:
    laptop.machine.run("systemctl", "stop", "molehill.service")
    laptop.machine.write("root/se1.conf", laptop.walk.write_conf().read_text())
    laptop.machine.run("systemd-run", "molehill", "run", "/root/se1.conf")
    wait_until(lambda: not laptop.is_open(), 20, "a session that is not the daemon's")
    done = laptop.machine.try_run("dpkg", "--remove", "molehill")
    assert done.returncode == 0
    assert "another molehill session runs" in done.stderr
    assert "restart the\nmachine" in done.stderr
