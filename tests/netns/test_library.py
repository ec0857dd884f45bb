"""The README's library example, run as it stands against a real relay."""

from __future__ import annotations

import sys

import pytest

from tests.netns.lab import ROOT
from tests.netns.scenario import Walk

pytestmark = pytest.mark.netns

EXAMPLE = ROOT / "tests" / "unit" / "service" / "example.py"


def test_the_example_connects_tells_it_and_leaves_nothing_behind() -> None:
    with Walk(progress=lambda text: None) as walk:
        device = walk.lab["device"]
        conf = walk.write_conf()
        before = device.ip("rule") + device.ip("-brief link")
        run = walk.lab.start(device, sys.executable, str(EXAMPLE), str(conf), env={"PYTHONPATH": str(ROOT)})
        assert run.popen.wait(30) == 0, run.output()
        assert "connected on linux, peer 198.51.100.10:51820/udp" in run.output()
        assert device.ip("rule") + device.ip("-brief link") == before
