"""The service's life: whether it connects when it starts (START-1), and what stays when it ends (EXIT-1).

The target is what the user wants, secured from `connect` until `disconnect`. It is on disk before anything is done,
so that a crash, a kill or a restart is followed by a connect. A clean end forgets it, a restart does not. A target
that cannot be read counts as secured; none as unsecured. Where the disk takes nothing it is kept in a spare folder in
memory (/run/molehill), which a crash of ours does not empty.

Why the service ends decides what stays (`keeps_block`). SIGUSR1 is a restart (the unit's RestartKillSignal); all other
signals are the user's stop while the machine runs, and a shutdown if the machine goes down or does not say.
"""

from __future__ import annotations

import logging
from enum import Enum, StrEnum
from pathlib import Path

from engine.daemon import store
from engine.daemon.store import Unreadable
from engine.management.schema import Settings
from engine.policy import State

log = logging.getLogger(__name__)

_FILE, _KIND = "target-state.json", "target"


class Target(StrEnum):
    """What the user wants."""

    SECURED = "secured"
    UNSECURED = "unsecured"


class Stop(Enum):
    """Why the service ends."""

    USER = "the user has stopped the service"
    SHUTDOWN = "the machine shuts down"
    RESTART = "the service restarts"


def load(*folders: Path) -> Target:
    """The target when the service ended last: secured, if any of the folders says so."""
    return Target.SECURED if Target.SECURED in map(_load, folders) else Target.UNSECURED


def _load(folder: Path) -> Target:
    try:
        content = store.load(folder / _FILE, _KIND)
        return Target.UNSECURED if content is None else Target(content)
    except (Unreadable, ValueError) as error:
        log.error("the target state cannot be read, so the tunnel is wanted: %s", error)
        return Target.SECURED


def save(target: Target, *folders: Path) -> None:
    """Write the target: secured to the first folder that takes it, unsecured to all. OSError: it could not be."""
    failures: list[OSError] = []
    for folder in folders:
        try:
            if target is Target.SECURED:
                store.save(folder / _FILE, _KIND, target)
                return
            store.remove(folder / _FILE)
        except FileNotFoundError:
            pass  # no such folder: nothing is in it
        except OSError as error:
            log.warning("%s cannot be written: %s", folder / _FILE, error.strerror)
            failures.append(error)
    if failures:
        raise failures[0]


def connects(target: Target, settings: Settings) -> bool:
    """Whether the service goes to Connecting as it starts (START-1)."""
    return target is Target.SECURED or settings.auto_connect


def keeps_block(stop: Stop, state: State, target: Target, settings: Settings) -> bool:
    """Whether the block stays when the service ends (EXIT-1).

    Disconnecting is not in the document's list: there the target says whether a tunnel is still wanted.
    """
    if settings.always_require_vpn:
        return True
    if stop is Stop.USER:
        return False
    tunnel = state in (State.CONNECTING, State.CONNECTED, State.ERROR)
    wanted = state is State.DISCONNECTING and target is Target.SECURED
    return tunnel or wanted or settings.auto_connect


def target_left(stop: Stop, target: Target) -> Target:
    """What the next start finds: after a clean end the service starts in Disconnected (START-1)."""
    return target if stop is Stop.RESTART else Target.UNSECURED
