"""The log in memory, and on standard error as the journal likes it."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec
import pytest

from engine.daemon import logs
from engine.daemon.logs import KEPT, Ring
from engine.management.schema import MAX_LINE, Log, LogEvent


@pytest.fixture(autouse=True)
def same_logging_afterwards() -> Iterator[None]:
    root = logging.getLogger()
    before = root.level, list(root.handlers), logging.getLogger("asyncio").level
    yield
    root.setLevel(before[0])
    root.handlers[:] = before[1]
    logging.getLogger("asyncio").setLevel(before[2])


def test_the_newest_lines_are_kept_oldest_first() -> None:
    ring = logs.begin(verbose=False)
    for number in range(KEPT + 10):
        logging.getLogger("x").info("line %d", number)
    logging.getLogger("x").debug("too much detail")
    assert [line.text for line in ring.newest(2)] == [f"line {KEPT + 8}", f"line {KEPT + 9}"]
    assert len(ring.newest(5000)) == KEPT
    assert ring.newest(0) == ring.newest(-1) == ()


def test_an_answer_takes_as_many_lines_as_fit() -> None:
    ring = Ring()
    ring.lines.extend(LogEvent(float(number), "info", '"' * 2000) for number in range(KEPT))
    found = ring.newest(KEPT)
    assert 100 < len(found) < KEPT
    assert found[-1].at == KEPT - 1
    assert len(msgspec.json.encode(Log(found))) < MAX_LINE


def test_each_line_is_told_and_a_fault_with_its_traceback_is_one() -> None:
    ring, told = logs.begin(verbose=False), []
    ring.on_line = told.append
    try:
        raise RuntimeError("a fault")
    except RuntimeError:
        logging.getLogger("x").exception("it failed")
    assert [(line.level, line.text.split("\n")[0]) for line in told] == [("error", "it failed")]
    assert "a fault" in told[0].text


@pytest.mark.parametrize(
    ("stream", "first"), [("8:1", "<3>it failed\n<3>twice\n"), (None, "ERROR: it failed\ntwice\n")]
)
def test_the_journal_gets_priorities(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], stream: str | None, first: str
) -> None:
    if stream is None:
        monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    else:
        monkeypatch.setenv("JOURNAL_STREAM", stream)
    logs.begin(verbose=False)
    logging.getLogger("x").error("it failed\ntwice")
    assert capsys.readouterr().err == first


def test_however_many_lines_are_asked_for_no_more_than_all_are_given() -> None:
    ring = Ring()
    ring.emit(logging.makeLogRecord({"msg": "one", "levelno": logging.INFO, "levelname": "INFO"}))
    assert [line.text for line in ring.newest(10**30)] == ["one"]
