"""What fits through the tunnel: pings of decreasing size to the gateway, whose outer packets may not be fragmented.

The MTU comes from the route to the first hop; a narrower hop further on shows only so (ICMP errors to the outer packets
are not believed, as anybody can send them). Order: the full size, and if it is answered that is all; else all sizes
at once, down to the least, in steps; the largest answered one is the MTU. None answered proves nothing, and changes
nothing: not every gateway answers large pings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from engine.service.builder import MIN_MTU, Configuration

STEP = 20  # bytes
FULL_TRIES = 3  # a single lost ping is no proof
FULL_SECONDS = 1.0  # for each of them
SWEEP_SECONDS = 10.0  # for the first answer
MORE_SECONDS = 2.0  # after the first, for larger ones
LEAST_IPV4 = 576  # every host takes that (RFC 791)


def least_mtu(configuration: Configuration) -> int:
    """The smallest MTU that the tunnel may have, in bytes."""
    has_ipv6 = any(address.version == 6 for address in configuration.addresses)
    return MIN_MTU if has_ipv6 else LEAST_IPV4


async def largest_answered(ping: Callable[[int, float], Awaitable[bool]], most: int, least: int) -> int | None:
    """The largest size, at most `most` bytes, that comes back; None: it cannot be said.

    `ping(size, seconds)` tells whether an answer came in time.
    """
    for _ in range(FULL_TRIES):
        if await ping(most, FULL_SECONDS):
            return most
    sizes = range(least, most, STEP)
    if not sizes:
        return None
    asked = {asyncio.ensure_future(ping(size, SWEEP_SECONDS)): size for size in sizes}
    try:
        done, rest = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        if rest:
            done |= (await asyncio.wait(rest, timeout=MORE_SECONDS))[0]
        return max((asked[task] for task in done if task.result()), default=None)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.wait(asked)
