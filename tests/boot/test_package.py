"""The package itself: installed and purged in a fresh Debian root, and what lintian and systemd say of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path

import pytest

from engine import __version__
from tests.boot.device import Device
from tests.boot.machine import BASE
from tests.netns.lab import ROOT, sh

pytestmark = [pytest.mark.slow, pytest.mark.netns]

# Debian's own bookkeeping of what is installed.
_BOOKS = re.compile(
    r"^\./(var/lib/dpkg|var/log|var/cache|dev|proc|sys|tmp|run|var/lib/systemd)(/|$)|__pycache__|^\./root/"
)


class Root:
    """A chroot on an overlay of the minimal Debian: no systemd runs there, as when an image is built."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def run(self, *command: str) -> str:
        """A command in it; its output, both streams."""
        done = subprocess.run(
            ["unshare", "--net", "chroot", str(self.path), "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *command],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        return done.stdout

    def files(self) -> set[str]:
        """Every path in it but Debian's books."""
        found = sh("sh", "-c", f"cd {self.path} && find . -xdev").splitlines()
        return {path for path in found if not _BOOKS.search(path)}


@contextmanager
def mounted(folder: Path) -> Iterator[Root]:
    for name in ("upper", "work", "root"):
        (folder / name).mkdir()
    options = f"lowerdir={BASE},upperdir={folder}/upper,workdir={folder}/work"
    sh("mount", "-t", "overlay", "-o", options, "overlay", str(folder / "root"))
    try:
        yield Root(folder / "root")
    finally:
        sh("umount", str(folder / "root"))


@pytest.fixture
def root(tmp_path: Path, package: Path) -> Iterator[Root]:
    """A fresh root with the package's file at /root/molehill.deb."""
    with mounted(tmp_path) as made:
        (made.path / "root/molehill.deb").write_bytes(package.read_bytes())
        yield made


def test_it_installs_in_a_fresh_debian_helps_and_a_purge_leaves_nothing(root: Root) -> None:
    before = root.files()
    root.run("dpkg", "-i", "/root/molehill.deb")
    assert "Examples:" in root.run("molehill", "--help")
    assert "--foreground" in root.run("molehill-wg", "--help")
    assert "molehill" in root.run("molehill", "version")
    added = root.files() - before
    for path in ("usr/bin/molehill", "usr/share/man/man1/molehill.1.gz", "usr/lib/tmpfiles.d/molehill.conf",
                 "usr/share/bash-completion/completions/molehill", "usr/share/zsh/vendor-completions/_molehill",
                 "usr/share/fish/vendor_completions.d/molehill.fish"):  # fmt: skip
        assert f"./{path}" in added
    assert (root.path / "etc/systemd/system/multi-user.target.wants/molehill.service").is_symlink()
    assert (root.path / "etc/systemd/system/sysinit.target.wants/molehill-early-boot-blocking.service").is_symlink()
    root.run("dpkg", "--purge", "molehill")
    assert root.files() - before == set()


def test_what_it_runs_is_its_own_environment_with_everything_that_the_daemon_needs(root: Root) -> None:
    root.run("dpkg", "-i", "/root/molehill.deb")
    script = "import sys, engine.daemon.main, engine.tunnel.molehill_wg, engine.tui.app; print(sys.prefix)"
    assert root.run("/usr/lib/molehill/bin/python3", "-I", "-c", script) == "/usr/lib/molehill\n"


def test_every_private_copy_is_the_pinned_version(root: Root) -> None:
    root.run("dpkg", "-i", "/root/molehill.deb")
    copies = distributions(path=[str(root.path / "usr/lib/molehill/lib/python3.11/site-packages")])
    installed = {f"{copy.name}=={copy.version}" for copy in copies} - {f"molehill=={__version__}"}
    assert len(installed) > 5
    assert {pin.lower() for pin in installed} <= set((ROOT / "requirements.lock").read_text().lower().split())


def test_an_administrator_who_disabled_the_units_finds_them_so_after_an_upgrade(
    root: Root, newer_package: Path
) -> None:
    root.run("dpkg", "-i", "/root/molehill.deb")
    root.run("systemctl", "disable", "molehill.service")
    (root.path / "root/newer.deb").write_bytes(newer_package.read_bytes())
    root.run("dpkg", "-i", "/root/newer.deb")
    assert not (root.path / "etc/systemd/system/multi-user.target.wants/molehill.service").exists()
    assert not (root.path / "etc/systemd/system/sysinit.target.wants/molehill-early-boot-blocking.service").exists()


def test_lintian_has_nothing_to_say(package: Path) -> None:
    done = subprocess.run(
        ["lintian", "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", str(package)],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


def test_systemd_finds_no_fault_in_the_units_and_scores_them_as_documented(laptop: Device) -> None:
    units = ("molehill.service", "molehill-early-boot-blocking.service")
    verified = laptop.machine.try_run("systemd-analyze", "verify", "--man=no", *units)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    documented = (ROOT / "docs/service.md").read_text()
    for unit in units:
        said = laptop.machine.run("systemd-analyze", "security", "--no-pager", unit).splitlines()[-1]
        score = re.search(rf"Overall exposure level for {re.escape(unit)}: ([0-9.]+)", said)
        assert score is not None, said
        assert f"`{unit}`: {score[1]}" in documented
