"""The leak lab's short form: a choice of its tests has to come out zero, or explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.leaklab import report, run
from engine.leaklab.result import Table, Verdict, as_data

pytestmark = [pytest.mark.netns, pytest.mark.timeout(600), pytest.mark.xdist_group("leaklab")]


def complaints(table: Table) -> str:
    """What is not as it has to be, in the words of the report."""
    return report.text(table)[report.text(table).find("NOT as it has to be") :]


def test_the_daemon_leaks_nothing(tmp_path: Path) -> None:
    table = run.run(run.Options(short=True), "test", print)
    assert table.good, complaints(table)
    assert table.count(Verdict.ZERO) > 400
    assert {cell.known for cell in table.cells if cell.verdict is Verdict.KNOWN} <= {"LNX-2", "LNX-7", "NFT-1", "NFT-2"}
    report.write_json(table, tmp_path / "table.json")
    report.write_html(table, tmp_path / "table.html")
    assert json.loads((tmp_path / "table.json").read_text()) == json.loads(json.dumps(as_data(table)))


@pytest.mark.slow
@pytest.mark.parametrize("firewall", [True, False], ids=["firewall", "vpn-service"])
def test_molehill_run_leaks_nothing_but_what_its_mode_cannot_stop(firewall: bool) -> None:
    options = run.Options(driver="run", firewall=firewall, short=True, only=("probes", "attacks", "flows"))
    table = run.run(options, "test", print)
    assert table.good, complaints(table)


@pytest.mark.slow
def test_ten_thousand_transitions_leak_nothing_and_lose_nothing() -> None:
    table = run.run(run.Options(only=("transitions",)), "test", print)
    assert table.good, complaints(table)
