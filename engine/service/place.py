"""The one place a network namespace has for a session: only one can own its routes."""

import socket

LOCK = "\0molehill"  # an abstract Unix socket: one a network namespace, gone with its process


class Unavailable(Exception):
    """The machine cannot run a session now: one sentence that says why."""


def take() -> socket.socket:
    """Take the place, as long as the socket is open. Raises Unavailable."""
    place = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        place.bind(LOCK)
    except OSError:
        place.close()
        raise Unavailable("another molehill session runs in this network namespace: stop it first") from None
    return place
