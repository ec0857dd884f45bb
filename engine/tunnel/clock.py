"""The glue's two clocks, read nowhere else in Python: the core gets times as arguments."""

import time


def now() -> float:
    """Seconds of CLOCK_BOOTTIME: the clock of the native datapath, which goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def wall() -> float:
    """Seconds since 1970, for TAI64N timestamps and `latest handshake`."""
    return time.time()
