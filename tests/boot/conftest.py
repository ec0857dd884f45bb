"""The package, installed once on a machine's disk that all tests begin with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.boot.device import Device, device
from tests.boot.machine import BASE, PACKAGES
from tests.netns.lab import world


@pytest.fixture(scope="session")
def package() -> Path:
    """The newest package that `make deb` has built."""
    found = sorted(PACKAGES.glob("molehill_*.deb"), key=lambda path: path.stat().st_mtime)
    assert found, "there is no package: make deb"
    assert BASE.is_dir(), f"there is no {BASE}: make test-boot makes it"
    return found[-1]


@pytest.fixture(scope="session")
def newer_package(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as version 9."""
    folder = tmp_path_factory.mktemp("newer")
    subprocess.run(["dpkg-deb", "-R", str(package), str(folder / "root")], check=True)
    control = folder / "root/DEBIAN/control"
    lines = control.read_text().splitlines()
    control.write_text("".join("Version: 9-1\n" if line.startswith("Version:") else f"{line}\n" for line in lines))
    new = folder / "molehill_9-1.deb"
    subprocess.run(["dpkg-deb", "-Znone", "-b", str(folder / "root"), str(new)], check=True, capture_output=True)
    shutil.rmtree(folder / "root")
    return new


@pytest.fixture(scope="session")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The upper half of a disk on which the package was installed, on a running machine."""
    kept = tmp_path_factory.mktemp("installed") / "upper"
    with world() as lab:
        from tests.boot.machine import Machine

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
