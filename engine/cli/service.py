"""`molehill service install|uninstall|status`: the system service, for who has molehill from pip.

The units are those of engine/cli/units, which the Debian package installs too; here they go to /etc/systemd/system with
the path of the command that is running. What cannot become a service is refused before anything is written: systemd
must run the machine, and the service must be able to see the command, which nobody but root may change.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import click

from engine.cli.main import BAD_INPUT, FAILED, MISSING, Fault, Group

SERVICE = "molehill.service"
EARLY = "molehill-early-boot-blocking.service"
FILES = {
    SERVICE: Path("/etc/systemd/system") / SERVICE,
    EARLY: Path("/etc/systemd/system") / EARLY,
    "molehill.conf": Path("/etc/tmpfiles.d/molehill.conf"),
}
_PACKAGED = (Path("/usr/lib/systemd/system") / SERVICE, Path("/lib/systemd/system") / SERVICE)
_UNSEEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # ProtectHome=, PrivateTmp=
_PLAIN = re.compile(r"/[A-Za-z0-9/._+@-]+", re.ASCII)  # nothing that means something in a unit


@click.group("service", cls=Group)
def command() -> None:
    """Make molehill a service of systemd, where it was installed by pip. The Debian package does that itself.

    \b
    Examples:
      sudo python3 -m venv /opt/molehill && sudo /opt/molehill/bin/pip install .
      sudo /opt/molehill/bin/molehill service install
      sudo /opt/molehill/bin/molehill service uninstall
    """


@command.command("install")
def install() -> None:
    """Write the units, enable them and start the daemon. Settings and tunnels that are there are used."""
    _require_systemd()
    _require_root()
    _refuse_packaged()
    path = command_path(Path(sys.executable).with_name("molehill"))
    command_path(Path(sys.executable))  # a virtual environment's is a link, perhaps into somebody's home folder
    for name, target in FILES.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(rendered(name, path))
        target.chmod(0o644)
    _systemctl("daemon-reload")
    _systemctl("enable", "--now", SERVICE)
    click.echo("the daemon runs, now and after every boot: molehill tunnel import FILE, molehill connect")


@command.command("uninstall")
@click.pass_context
def uninstall(ctx: click.Context) -> None:
    """Stop the daemon, remove the units, and open what it blocked. Settings and tunnels stay in /var/lib/molehill."""
    from engine.cli.unblock import command as unblock

    _require_systemd()
    _require_root()
    _refuse_packaged()
    if not FILES[SERVICE].exists():
        raise Fault("the service is not installed: there is nothing to remove", BAD_INPUT)
    _systemctl("disable", "--now", SERVICE, EARLY)
    for target in FILES.values():
        target.unlink(missing_ok=True)
    _systemctl("daemon-reload")
    ctx.invoke(unblock, interface=None)


@command.command("status")
def status() -> None:
    """Show whether the units are installed, enabled and running. The exit code is 0 if the daemon runs, else 1."""
    _require_systemd()
    running = False
    for unit in (SERVICE, EARLY):
        shown = _systemctl("show", "-p", "FragmentPath,UnitFileState,ActiveState,SubState", unit)
        is_now = dict(line.split("=", 1) for line in shown.splitlines())
        where = is_now["FragmentPath"] or "not installed"
        click.echo(f"{unit}: {is_now['ActiveState']} ({is_now['SubState']}), {is_now['UnitFileState'] or '-'}, {where}")
        running = running or (unit == SERVICE and is_now["ActiveState"] == "active")
    if not running:
        sys.exit(FAILED)


def rendered(name: str, path: Path) -> str:
    """A file of engine/cli/units with the command's path in it."""
    template = resources.files("engine.cli").joinpath("units", name).read_text()
    return template.replace("@MOLEHILL@", str(path))


def command_path(path: Path) -> Path:
    """`path`, if it can be what a service of root's runs. Fault."""
    if not path.is_file():
        raise Fault(f"there is no {path}: install molehill into a virtual environment first", BAD_INPUT)
    parts = list(_passed(path))
    if any(part.is_relative_to(folder) for part in parts for folder in _UNSEEN):
        raise Fault(f"{path} is where the service cannot look: install molehill in /opt/molehill", BAD_INPUT)
    if not _PLAIN.fullmatch(str(path)):
        raise Fault(
            f"{path} has characters that mean something to systemd: install molehill in /opt/molehill", BAD_INPUT
        )
    for part in parts:
        found = part.stat()
        if found.st_uid != 0 or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise Fault(f"{part} may be changed by others than root, and root would run it: install as root", BAD_INPUT)
    return path


def _passed(path: Path) -> Iterator[Path]:
    """`path` and its folders, and those of whatever the links among them lead to."""
    seen: set[Path] = set()
    ways = [path]
    while ways:
        way = ways.pop()
        for part in (way, *way.parents):
            if part not in seen:
                seen.add(part)
                yield part
                if part.is_symlink():
                    ways.append(Path(os.path.normpath(part.parent.resolve() / part.readlink())))


def _require_systemd() -> None:
    if not Path("/run/systemd/system").is_dir():
        raise Fault("systemd does not run this machine: start molehill daemon by what does", MISSING)


def _require_root() -> None:
    if os.geteuid() != 0:
        raise Fault("the units of the machine are root's to change: run as root (sudo)", MISSING)


def _refuse_packaged() -> None:
    if any(path.exists() for path in _PACKAGED):
        raise Fault("the service is the Debian package's: apt install or remove molehill changes it", BAD_INPUT)


def _systemctl(*words: str) -> str:
    import subprocess

    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Fault(f"systemctl {' '.join(words)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
