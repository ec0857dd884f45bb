"""The one place a network namespace has for a session: only one can own its routes.

It is a locked file in the run folder, gone with its process, that root alone can open: the name of an abstract socket
could be taken by any user, who would so keep the daemon, and `molehill unblock`, from starting.
"""

import fcntl
import os
from io import FileIO

from engine.host.runfile import of_this_namespace


class Unavailable(Exception):
    """The machine cannot run a session now: one sentence that says why."""


def take() -> FileIO:
    """Take the place, as long as the file is open. Raises Unavailable."""
    path = of_this_namespace("session", "lock")
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        place = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "r+")
    except OSError as error:
        raise Unavailable(f"{path} cannot be opened ({error.strerror})") from None
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        place.close()
        raise Unavailable(
            "another molehill session runs in this network namespace: stop it first "
            "(the service by systemctl stop molehill, molehill run by Ctrl-C)"
        ) from None
    return place
