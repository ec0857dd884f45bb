"""The daemon as a user has it: import, connect, browse, disconnect; and what stays when it ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from engine.leaklab.probes import run_all
from tests.netns import lab
from tests.netns.daemon import Daemon
from tests.netns.scenario import PROBES, Walk

pytestmark = pytest.mark.netns


@pytest.fixture
def walk() -> Iterator[Walk]:
    with Walk(progress=lambda text: None) as walk:
        yield walk


@pytest.fixture
def daemon(walk: Walk) -> Daemon:
    made = Daemon(walk.lab)
    made.start()
    return made


def seen_from(walk: Walk) -> str | None:
    """The source address that a web server sees; None: it is not reached."""
    (attempt,) = run_all(walk.lab, [probe for probe in PROBES if probe.name == "TCP to the internet"])
    return attempt.source


def test_import_connect_browse_disconnect(walk: Walk, daemon: Daemon) -> None:
    assert seen_from(walk) == lab.DEVICE4
    imported = daemon.import_conf("se1", walk.write_conf().read_text())
    assert imported.tunnel.endpoint == f"{lab.RELAY4}:{lab.RELAY_PORT}"
    daemon.connect()
    assert seen_from(walk) == lab.TUNNEL4
    status = daemon.status()
    assert (status.connecting_to, status.enforced, status.mode) == ("se1", True, "firewall")
    daemon.disconnect()
    assert seen_from(walk) == lab.DEVICE4
    assert not walk.lab["device"].has_interface("molehill0")
