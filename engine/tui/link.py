"""The screen's side of the management socket: one connection for calls, one that is subscribed to the events.

Order: connect both, ask who answers, subscribe, read settings and log, tell the screen (`Arrived`); then pass on every
event, and ask for the status once a second, since counters move without one. When either connection fails, tell it
(`Gone`), wait a second, begin anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from engine.management import schema
from engine.management.client import AsyncClient, ManagementError

EVERY = 1.0
"""Seconds between two looks at the counters, and between two attempts to reach the daemon."""

LOG_LINES = 200

R = TypeVar("R", bound=msgspec.Struct)


@dataclass(frozen=True)
class Arrived:
    """The daemon answers: all that it tells first."""

    hello: schema.Hello
    status: schema.Status
    settings: schema.Settings
    log: tuple[schema.LogEvent, ...]


@dataclass(frozen=True)
class Gone:
    """It does not answer (any more), and why in a sentence."""

    why: str


Told = Arrived | Gone | schema.Event


class Link:
    """Tells `tell` whatever the daemon says; `run` never ends."""

    def __init__(self, path: Path | None, tell: Callable[[Told], None]) -> None:
        self._path = path
        self._tell = tell
        self._calls: AsyncClient | None = None
        self._events = 0

    async def run(self) -> None:
        """Keep the connections up."""
        while True:
            try:
                await self._session()
            except ManagementError as error:
                self._tell(Gone(str(error)))
            await asyncio.sleep(EVERY)

    async def call(self, method: str, params: msgspec.Struct | None, result: type[R]) -> R:
        """Ask the daemon. ManagementError with the sentence for the user."""
        if self._calls is None:
            raise ManagementError("the daemon does not answer")
        return await self._calls.call(method, params, result)

    async def _session(self) -> None:
        """Until something fails."""
        calls = await AsyncClient.connect(self._path)
        try:
            watcher = await AsyncClient.connect(self._path)
            try:
                await self._arrive(calls, watcher)
                self._calls = calls
                tasks = [asyncio.create_task(self._listen(watcher)), asyncio.create_task(self._look(calls))]
                try:
                    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    self._calls = None
                    for task in tasks:
                        task.cancel()
                    results = await asyncio.gather(*tasks, return_exceptions=True)
                raise next(error for error in results if isinstance(error, Exception))
            finally:
                await watcher.close()
        finally:
            await calls.close()

    async def _arrive(self, calls: AsyncClient, watcher: AsyncClient) -> None:
        hello = await calls.call("hello", None, schema.Hello)
        if hello.protocol != schema.PROTOCOL:
            raise ManagementError(
                f"the daemon speaks protocol {hello.protocol}, this program {schema.PROTOCOL}: install the same version"
            )
        status = await watcher.call("subscribe", schema.Subscribe(log=True), schema.Status)
        settings = await calls.call("settings.get", None, schema.Settings)
        log = await calls.call("log", schema.Lines(LOG_LINES), schema.Log)
        self._tell(Arrived(hello, status, settings, log.lines))

    async def _listen(self, watcher: AsyncClient) -> None:
        async for event in watcher.events():
            self._events += 1
            self._tell(event)

    async def _look(self, calls: AsyncClient) -> None:
        while True:
            await asyncio.sleep(EVERY)
            before = self._events
            status = await calls.call("status", None, schema.Status)
            if self._events == before:  # else the event is newer than this answer may be
                self._tell(schema.StatusEvent(status))
