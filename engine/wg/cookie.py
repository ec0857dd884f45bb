"""Denial-of-service defence (paper 5.3, 5.4.4, 5.4.7): mac1, mac2, cookie replies, and the limit per source.

mac1 proves that the sender knows our public key: checked always, first, and without it we never answer.
Under load a handshake message must also carry mac2, keyed with a cookie that only the owner of the source address can
have received; without it we answer with a cookie reply instead of doing the expensive X25519. With it, each source is
still limited to PACKETS_PER_SECOND.
"""

from collections import OrderedDict
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

from engine.wg.constants import (
    COOKIE_SECRET_LATENCY,
    COOKIE_SECRET_MAX_AGE,
    LABEL_COOKIE,
    LABEL_MAC1,
    MAX_LIMITED_SOURCES,
    PACKETS_BURST,
    PACKETS_PER_SECOND,
)
from engine.wg.messages import MAC_LENGTH, MACS_LENGTH, CookieReply
from engine.wg.primitives import CryptoError, compare_digest, hash_, mac, xaead_open, xaead_seal

_NO_MAC2 = bytes(MAC_LENGTH)


def mac1_key(public_key: bytes) -> bytes:
    """Return the key of the mac1 of messages addressed to the holder of public_key (32 bytes)."""
    return hash_(LABEL_MAC1 + public_key)


def _cookie_key(public_key: bytes) -> bytes:
    """Return the key of the cookie replies by the holder of public_key."""
    return hash_(LABEL_COOKIE + public_key)


class CookieChecker:
    """The receiving side: checks the MACs of messages addressed to us and makes cookie replies."""

    def __init__(self, public_key: bytes, random: Callable[[int], bytes]) -> None:
        self._mac1_key = mac1_key(public_key)
        self._cookie_key = _cookie_key(public_key)
        self._random = random
        self._secret = b""
        self._secret_until = 0.0

    def check_mac1(self, message: bytes) -> bool:
        """Whether the sender knew our public key. The message is a whole initiation or response."""
        return compare_digest(mac(self._mac1_key, message[:-MACS_LENGTH]), message[-MACS_LENGTH:-MAC_LENGTH])

    def check_mac2(self, message: bytes, source: bytes, now: float) -> bool:
        """Whether the sender holds the present cookie of its source (address and port as bytes)."""
        return compare_digest(mac(self._cookie(source, now), message[:-MAC_LENGTH]), message[-MAC_LENGTH:])

    def reply(self, message: bytes, sender: int, source: bytes, now: float) -> bytes:
        """Return the cookie reply (64 bytes) to a message with a valid mac1."""
        nonce = self._random(24)
        sealed = xaead_seal(self._cookie_key, nonce, self._cookie(source, now), message[-MACS_LENGTH:-MAC_LENGTH])
        return CookieReply(sender, nonce, sealed).build()

    def _cookie(self, source: bytes, now: float) -> bytes:
        if now >= self._secret_until:
            self._secret = self._random(32)
            self._secret_until = now + COOKIE_SECRET_MAX_AGE
        return mac(self._secret, source)


class CookieGenerator:
    """The sending side, one a peer: adds the MACs to our handshake messages and takes cookie replies."""

    __slots__ = ("_cookie", "_cookie_until", "_last_mac1", "_remote_public")

    def __init__(self, remote_public: bytes) -> None:
        self._remote_public = remote_public
        self._last_mac1: bytes | None = None
        self._cookie = b""
        self._cookie_until = 0.0

    def add_macs(self, message: bytes, now: float) -> bytes:
        """Return the message with mac1, and mac2 when we hold a fresh cookie (else zeros)."""
        mac1 = mac(mac1_key(self._remote_public), message)
        self._last_mac1 = mac1
        message += mac1
        return message + (mac(self._cookie, message) if now < self._cookie_until else _NO_MAC2)

    def consume(self, reply: CookieReply, now: float) -> bool:
        """Take the cookie, if the reply answers the last message we sent; once per message sent."""
        if self._last_mac1 is None:
            return False
        try:
            self._cookie = xaead_open(_cookie_key(self._remote_public), reply.nonce, reply.cookie, self._last_mac1)
        except CryptoError:
            return False
        self._last_mac1 = None
        self._cookie_until = now + COOKIE_SECRET_MAX_AGE - COOKIE_SECRET_LATENCY
        return True


class RateLimiter:
    """A token bucket per source under load: an IPv4 address or an IPv6 /64.

    Memory is bounded: a source idle for as long as its bucket needs to fill up is forgotten (it would be full anyway),
    and beyond MAX_LIMITED_SOURCES unknown sources are refused.
    """

    _FULL_AFTER = PACKETS_BURST / PACKETS_PER_SECOND

    def __init__(self) -> None:
        # source -> (tokens, time); least recently seen first.
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def allow(self, host: IPv4Address | IPv6Address, now: float) -> bool:
        """Take one token of the source's bucket; False: it has none left."""
        buckets = self._buckets
        while buckets:
            source, (_, seen) = next(iter(buckets.items()))
            if now - seen < self._FULL_AFTER:
                break
            del buckets[source]
        source = host.packed[:8]  # 4 bytes are a whole IPv4 address, 8 an IPv6 /64
        bucket = buckets.get(source)
        if bucket is None:
            if len(buckets) >= MAX_LIMITED_SOURCES:
                return False
            buckets[source] = (PACKETS_BURST - 1.0, now)
            return True
        tokens = min(bucket[0] + (now - bucket[1]) * PACKETS_PER_SECOND, float(PACKETS_BURST))
        allowed = tokens >= 1.0
        buckets[source] = (tokens - 1.0 if allowed else tokens, now)
        buckets.move_to_end(source)
        return allowed
