"""Notes of the kernel lead to one question, and a question that failed is asked again: its note does not come again."""

from __future__ import annotations

import asyncio
import errno

import pytest

from engine.host import notes as notes_module
from engine.host.notes import Notes

ROUTE = 0  # NETLINK_ROUTE


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes_module, "AGAIN_SECONDS", 0.01)


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "Too many open files"), RuntimeError("a bug")])
def test_a_question_that_fails_is_asked_again_until_it_is_answered(error: Exception) -> None:
    async def main() -> None:
        asked, answered = 0, asyncio.Event()

        async def question() -> None:
            nonlocal asked
            asked += 1
            if asked < 4:
                raise error
            answered.set()

        notes = Notes(ROUTE, (), question, 0.0, 1000)
        try:
            notes._ask()  # as a note does
            async with asyncio.timeout(5):
                await answered.wait()
            await asyncio.sleep(0.05)
            assert asked == 4
        finally:
            notes.close()

    asyncio.run(main())


def test_nothing_is_asked_after_the_end() -> None:
    async def main() -> None:
        asked = 0

        async def question() -> None:
            nonlocal asked
            asked += 1
            raise OSError(errno.EMFILE, "Too many open files")

        notes = Notes(ROUTE, (), question, 0.0, 1000)
        notes._ask()
        while not asked:
            await asyncio.sleep(0)
        notes.close()
        before = asked
        await asyncio.sleep(0.05)
        assert asked == before

    asyncio.run(main())


def test_notes_are_answered_soon_and_a_flood_of_them_no_more_often_than_is_said() -> None:
    async def main() -> None:
        asked: list[float] = []
        clock = asyncio.get_running_loop().time

        async def question() -> None:
            asked.append(clock())

        notes = Notes(ROUTE, (), question, 0.01, 3)
        begin = clock()
        while clock() < begin + 1.5:
            notes.ask_soon()
            await asyncio.sleep(0.005)
        notes.close()
        assert asked[2] - begin < 1.0
        assert all(fourth - first >= 0.99 for first, fourth in zip(asked, asked[3:], strict=False))
        assert len(asked) > 3

    asyncio.run(main())
