"""How many threads carry a tunnel's packets: MOLEHILL_THREADS, 1 to 16; one where nothing is said.

The option --threads of the commands is this variable, set by them for their own process: there is one place to read it.

One thread is what two cores are best served by (docs/performance.md): the other core is the sender's or the receiver's.
"""

import os

from tun.device import TunError

VARIABLE = "MOLEHILL_THREADS"
MOST = 16


def set_threads(number: int) -> None:
    """Say it for this process, in place of what the environment said."""
    os.environ[VARIABLE] = str(number)


def threads() -> int:
    """As the environment says. TunError: it is no such number."""
    said = os.environ.get(VARIABLE, "1")
    if not said.isdecimal() or not 1 <= int(said) <= MOST:
        raise TunError(f"{VARIABLE} is {said!r}: give a number of threads from 1 to {MOST}, or leave it out")
    return int(said)
