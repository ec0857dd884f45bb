"""What somebody does who has just installed the package: import a file, connect, browse, look, disconnect.

And the same by `molehill service install`, for who has it from pip.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.boot.device import RESOLV_CONF, Device, device
from tests.netns import lab
from tests.netns.lab import Process, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.netns]

PAGE = f"http://{lab.WEB4}:8080/"


@pytest.fixture
def web(laptop: Device) -> Process:
    """A web server in the internet, behind the relay. What it prints names its visitors."""
    serve = [
        "python3",
        "-u",
        "-m",
        "http.server",
        "8080",
        "--bind",
        lab.WEB4,
        "--directory",
        str(laptop.walk.lab.dir / "bin"),
    ]
    process = laptop.walk.lab.start(laptop.walk.lab["internet"], *serve)
    wait_until(lambda: "Serving HTTP" in process.output(), 20, "the web server")
    return process


def visitors(web: Process) -> list[str]:
    """The addresses from which the page was asked for, in order."""
    return [line.split()[0] for line in web.output().splitlines() if "GET / " in line]


def test_a_new_user_imports_connects_browses_and_disconnects(laptop: Device, web: Process) -> None:
    run = laptop.machine.run
    assert "DISCONNECTED" in run("molehill", "status")
    laptop.machine.write("root/se1.conf", laptop.walk.write_conf().read_text())

    run("molehill", "tunnel", "import", "/root/se1.conf")
    run("molehill", "connect", "--wait")
    laptop.walk.guard()
    assert lab.GATEWAY4 in run("cat", "/etc/resolv.conf")
    run("curl", "-sS", "--fail", "--max-time", "10", PAGE)
    assert "CONNECTED since" in run("molehill", "status")
    assert laptop.walk.leaks() == []
    laptop.walk.unguard()

    run("molehill", "disconnect", "--wait")
    assert "DISCONNECTED" in run("molehill", "status")
    assert run("cat", "/etc/resolv.conf") == RESOLV_CONF
    run("curl", "-sS", "--fail", "--max-time", "10", PAGE)
    assert visitors(web) == [lab.TUNNEL4, lab.DEVICE4]


def test_ipc1_any_user_may_look_and_only_the_group_if_the_administrator_says_so(laptop: Device) -> None:
    as_user = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "molehill", "status")
    assert "DISCONNECTED" in laptop.machine.run(*as_user)
    laptop.machine.run("groupadd", "vpn")
    laptop.machine.write("etc/systemd/system/molehill.service.d/group.conf",
                        "[Service]\nExecStart=\nExecStart=/usr/bin/molehill daemon --socket-group=vpn\n"
                        "SupplementaryGroups=vpn\n")  # fmt: skip
    laptop.machine.run("systemctl", "daemon-reload")
    laptop.machine.run("systemctl", "restart", "molehill.service")
    assert "may not be opened by this user" in laptop.machine.try_run(*as_user).stderr
    of_group = [word.replace("--clear-groups", "--groups=vpn") for word in as_user]
    assert "DISCONNECTED" in laptop.machine.run(*of_group)


def test_from_pip_the_service_is_installed_by_one_command_and_removed_by_another(installed: Path) -> None:
    with device(None) as laptop:
        opt = laptop.machine.disk / "upper/opt"
        opt.mkdir(parents=True)
        shutil.copytree(installed / "usr/lib/molehill", opt / "molehill", symlinks=True)
        script = "#!/opt/molehill/bin/python3\nfrom engine.cli.main import main\n\nmain()\n"
        laptop.machine.write("opt/molehill/bin/molehill", script)
        (opt / "molehill/bin/molehill").chmod(0o755)
        laptop.machine.link("usr/local/bin/molehill", "/opt/molehill/bin/molehill")
        laptop.boot()
        assert laptop.machine.try_run("molehill", "service", "status").returncode == 1

        laptop.machine.run("molehill", "service", "install")
        assert "active (running), enabled" in laptop.machine.run("molehill", "service", "status")
        laptop.connect()
        laptop.machine.run("molehill", "lockdown", "set", "on")
        assert not laptop.is_open()

        laptop.machine.run("molehill", "service", "uninstall")
        assert laptop.is_open()
        assert "molehill" not in laptop.table()
        assert laptop.machine.try_run("molehill", "service", "status").returncode == 1
