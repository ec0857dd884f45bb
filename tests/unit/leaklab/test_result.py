"""What a cell says, and when a table is good."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.leaklab import report
from engine.leaklab.result import Cell, Table, Verdict, as_data


def cell(**fields: object) -> Cell:
    return Cell("group", "test", "connected", **fields)  # type: ignore[arg-type]


def table(*cells: Cell) -> Table:
    return Table("daemon", "firewall", "1.0", "6.1", cells=list(cells))


@pytest.mark.parametrize(
    ("made", "verdict", "text"),
    [
        (cell(), Verdict.ZERO, "0"),
        (cell(out=3), Verdict.FAILED, "3"),
        (cell(lost=2), Verdict.FAILED, "0 lost 2"),
        (cell(out=3, known="NFT-1"), Verdict.KNOWN, "3 NFT-1"),
        (cell(known="NFT-1"), Verdict.ZERO, "0"),
        (cell(out=3, control=True), Verdict.CONTROL, "seen"),
        (cell(void="blind"), Verdict.VOID, "void"),
        (cell(void="blind", control=True), Verdict.VOID, "void"),
        (cell(skipped="no cgroup"), Verdict.SKIPPED, "-"),
    ],
)
def test_a_cell_says_zero_explained_failed_void_or_not_run(made: Cell, verdict: Verdict, text: str) -> None:
    assert (made.verdict, made.text) == (verdict, text)


def test_a_failed_control_is_never_a_pass() -> None:
    assert cell(void="the control failed", known="NFT-1").verdict is Verdict.VOID
    assert not table(cell(), cell(void="the control failed")).good


def test_a_table_is_good_if_something_was_judged_and_all_of_it_is_zero_or_explained() -> None:
    assert table(cell(), cell(out=1, known="NFT-1"), cell(control=True)).good
    assert not table(cell(), cell(out=1)).good
    assert not table().good
    assert not table(cell(control=True), cell(skipped="not here")).good


def test_the_text_has_a_row_for_each_test_and_tells_what_was_seen() -> None:
    said = report.text(
        table(
            Cell("faults", "SIGKILL", "connected"),
            Cell("faults", "SIGKILL", "error", out=2, evidence=("UDP 1 -> 2", "UDP 1 -> 3")),
            Cell("faults", "nft flush", "connected", out=9, known="NFT-2"),
        )
    )
    assert "faults     connected  error\nSIGKILL    0          2\nnft flush  9 NFT-2" in said
    assert "faults, SIGKILL, error: 2\n      UDP 1 -> 2" in said
    assert "Explained by docs/known-issues.md: NFT-2." in said
    assert "3 cells" in said


def test_the_web_page_loads_nothing_and_quotes_what_it_shows(tmp_path: Path) -> None:
    report.write_html(table(cell(out=1, evidence=("<script>alert(1)</script>",))), tmp_path / "x.html")
    page = (tmp_path / "x.html").read_text()
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page
    assert "http" not in page
    assert "src=" not in page


def test_the_json_has_every_cell(tmp_path: Path) -> None:
    made = table(cell(out=1, known="NFT-1", sent=5), cell(void="blind"))
    report.write_json(made, tmp_path / "x.json")
    data = json.loads((tmp_path / "x.json").read_text())
    assert data == as_data(made)
    assert [entry["verdict"] for entry in data["cells"]] == ["known", "void"]
    assert data["good"] is False
