"""The replay window by itself: which counters are new (native/src/replay.c; RFC 6479, 8192 packets)."""

from native._native import ffi, lib

WINDOW: int = lib.MH_REPLAY_WINDOW
"""How many packets, the greatest seen included, a late one may still be among."""


class ReplayWindow:
    """A window that has seen nothing yet. Sessions have their own; this one is for tests and tools."""

    def __init__(self) -> None:
        self._window = ffi.new("mh_replay *")
        lib.mh_replay_init(self._window)

    def accept(self, counter: int) -> bool:
        """Remember the counter (64 bits) and return True, or return False: seen before, or too old."""
        return bool(lib.mh_replay_accept(self._window, counter))
