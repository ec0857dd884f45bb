"""The clients where the daemon has no room for them yet: they wait, and not for ever."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from engine.management import client as client_module
from engine.management.client import AsyncClient, Client, ManagementError


@dataclass
class Full:
    """A socket whose queue is full until somebody waits for it."""

    path: Path
    listener: socket.socket
    crowd: list[socket.socket] = field(default_factory=list)
    waited: list[threading.Thread] = field(default_factory=list)  # who, each time

    def fill(self) -> None:
        with suppress(BlockingIOError):
            while len(self.crowd) < 100:
                self.crowd.append(socket.socket(socket.AF_UNIX))
                self.crowd[-1].setblocking(False)
                self.crowd[-1].connect(str(self.path))
        assert len(self.crowd) < 100

    def accept_one(self, seconds: float) -> None:
        """In the place of time.sleep."""
        assert seconds > 0
        self.waited.append(threading.current_thread())
        self.crowd.append(self.listener.accept()[0])


@pytest.fixture
def full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Full]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        found = Full(tmp_path / "s", listener)
        found.fill()
        monkeypatch.setattr(client_module.time, "sleep", found.accept_one)
        yield found
        for each in found.crowd:
            each.close()


def test_a_client_waits_while_others_fill_the_queue(full: Full) -> None:
    with Client(full.path):
        assert len(full.waited) == 1


def test_an_asynchronous_client_waits_too_and_the_event_loop_does_not(full: Full) -> None:
    async def main() -> None:
        await (await AsyncClient.connect(full.path)).close()

    asyncio.run(main())
    assert len(full.waited) == 1
    assert full.waited[0] is not threading.current_thread()


def test_a_queue_that_stays_full_is_a_sentence_in_the_end(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "ANSWER_SECONDS", 0.1)
    monkeypatch.setattr(client_module.time, "sleep", lambda seconds: None)
    with pytest.raises(ManagementError, match=f"^{full.path}: Resource temporarily unavailable$"):
        Client(full.path)
