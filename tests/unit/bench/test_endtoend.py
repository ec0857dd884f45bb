"""The report of `make bench` and the check against an earlier one, on made-up numbers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.endtoend.chart import chart
from bench.endtoend.compare import main as compare
from bench.endtoend.report import BARE, DEBIAN, MOLEHILL, NO_CIPHER, Results, full_tables, readme_table, targets

MACHINE = {"model": "a CPU", "cipher": "avx2"}


def results(*, cpu: float = 2.0, ping: float = 100.0, machine_speed: float = 1.0) -> Results:
    """Three rounds of four engines, each round 2 % slower than the one before."""
    made = Results(dict(MACHINE))
    for slower in (1.0, 1.02, 1.04):
        for engine, gbits, cpu_gb in ((DEBIAN, 0.4, 30.0), (MOLEHILL, 5.0, cpu), (NO_CIPHER, 8.0, 1.1)):
            numbers = {"gbits": gbits * machine_speed / slower, "cpu_gb": cpu_gb / machine_speed * slower}
            made.add(engine, "tcp1", numbers)
        made.add(BARE, "ping", {"ping_us": 20 / machine_speed * slower})
        made.add(MOLEHILL, "ping", {"ping_us": ping / machine_speed * slower})
    return made


def saved(folder: Path, name: str, what: Results) -> str:
    path = folder / name
    path.write_text(json.dumps(asdict(what)))
    return str(path)


@pytest.mark.parametrize(
    ("now", "worse"),
    [
        (results(), 0),
        (results(machine_speed=0.5), 0),
        (results(cpu=2.2), 0),
        (results(cpu=1.0), 0),
        (results(cpu=2.6), 1),
        (results(ping=150, machine_speed=2.0), 1),
    ],
    ids=["equal", "slower machine", "within tolerance", "better", "more CPU", "longer round trips"],
)
def test_a_regression_is_what_got_worse_beside_the_yardstick(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], now: Results, worse: int
) -> None:
    code = compare([saved(tmp_path, "then", results()), "--new", saved(tmp_path, "now", now)])
    said = capsys.readouterr().out
    assert said.count("WORSE") == worse
    assert code == (1 if worse else 0)


def test_two_runs_that_share_nothing_are_not_called_equal(tmp_path: Path) -> None:
    then, now = saved(tmp_path, "then", results()), saved(tmp_path, "now", Results(dict(MACHINE)))
    with pytest.raises(SystemExit, match="nothing to compare"):
        compare([then, "--new", now])


def test_targets_are_met_missed_or_not_measured() -> None:
    found = {target.what: target for target in targets(results())}
    assert found["TCP 1 stream, engine CPU"].met
    assert found["TCP 1 stream, engine CPU"].measured == "2.04 s/GB"
    assert found["no cipher, engine CPU"].met is False
    assert found["TCP, wire without offloads"].met is None


def test_tables_and_chart_hold_every_engine() -> None:
    for text in (full_tables(results()), readme_table(results()), chart(results())):
        assert all(engine in text for engine in (DEBIAN, MOLEHILL, NO_CIPHER))
    assert ElementTree.fromstring(chart(results())).tag.endswith("svg")
