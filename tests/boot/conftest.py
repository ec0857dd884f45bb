"""The package, installed once on a machine's disk that all tests begin with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.boot.device import Device, device
from tests.boot.machine import BASE, PACKAGES, Machine
from tests.netns.lab import world


@pytest.fixture(scope="session")
def package() -> Path:
    """The newest package that `make deb` has built."""
    found = sorted(PACKAGES.glob("molehill_*.deb"), key=lambda path: path.stat().st_mtime)
    assert found, "there is no package: make deb"
    assert BASE.is_dir(), f"there is no {BASE}: make test-boot makes it"
    return found[-1]


def _as_version_9(package: Path, folder: Path, change: Callable[[Path], object] = lambda root: None) -> Path:
    """The package packed anew as version 9, after `change` of its files."""
    root, new = folder / "root", folder / "molehill_9-1.deb"
    subprocess.run(["dpkg-deb", "-R", str(package), str(root)], check=True)
    control = root / "DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join("Version: 9-1\n" if line.startswith("Version:") else f"{line}\n" for line in lines))
    change(root)
    subprocess.run(["dpkg-deb", "-Znone", "-b", str(root), str(new)], check=True, capture_output=True)
    shutil.rmtree(root)
    return new


@pytest.fixture(scope="session")
def newer_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A newer version."""
    return _as_version_9(package, tmp_path_factory.mktemp("newer"))


@pytest.fixture(scope="session")
def broken_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A newer version whose command does nothing but fail."""
    broken = "#!/bin/sh\nexit 1\n"
    return _as_version_9(
        package, tmp_path_factory.mktemp("broken"), lambda root: (root / "usr/bin/molehill").write_text(broken)
    )


@pytest.fixture(scope="session")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The upper half of a disk on which the package was installed, on a running machine."""
    kept = tmp_path_factory.mktemp("installed") / "upper"
    with world() as lab:
        machine = Machine(lab)
        machine.boot()
        machine.write("root/molehill.deb", package.read_bytes())
        machine.run("dpkg", "-i", "/root/molehill.deb")
        machine.shut_down()
        subprocess.run(["cp", "-a", str(machine.disk / "upper"), str(kept)], check=True)
    return kept


@pytest.fixture
def laptop(installed: Path) -> Iterator[Device]:
    """A device with the package, booted."""
    with device(installed) as made:
        made.boot()
        yield made
