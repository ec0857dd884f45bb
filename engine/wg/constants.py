"""The protocol's constants, named as in the WireGuard paper (section 6.1) and nowhere else.

Times are seconds. What the paper leaves to implementations (jitter, staging depth, load limits) takes the values of
the kernel implementation and stands in the second half.
"""

from typing import Final

REKEY_AFTER_MESSAGES: Final = 2**60
REJECT_AFTER_MESSAGES: Final = 2**64 - 2**13 - 1
REKEY_AFTER_TIME: Final = 120.0
REJECT_AFTER_TIME: Final = 180.0
REKEY_ATTEMPT_TIME: Final = 90.0
REKEY_TIMEOUT: Final = 5.0
KEEPALIVE_TIMEOUT: Final = 10.0

# Labels of the handshake and of the MACs (paper 5.4).
CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER: Final = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1: Final = b"mac1----"
LABEL_COOKIE: Final = b"cookie--"

# Both ends may start a new handshake at the same moment; up to this much (uniform) is added so that they part.
REKEY_TIMEOUT_JITTER: Final = 0.333
# A session that nobody renews may still open late packets, but after this long its keys are erased (paper 6.3).
ERASE_AFTER_TIME: Final = 3 * REJECT_AFTER_TIME
# Receiving under a session of our making this old starts a new handshake, in time before the session dies (paper 6.2).
REKEY_BEFORE_REJECT_TIME: Final = REJECT_AFTER_TIME - KEEPALIVE_TIMEOUT - REKEY_TIMEOUT
# Silence for this long after data was sent starts a new handshake (paper 6.5).
NEW_HANDSHAKE_TIME: Final = KEEPALIVE_TIMEOUT + REKEY_TIMEOUT

# At most this many initiations a second are taken from one peer, however fresh their timestamps.
INITIATIONS_PER_SECOND: Final = 50
# Our own timestamps are rounded down to this (ns), so that they tell little about our clock; below 1 / the rate above.
TIMESTAMP_GRAIN: Final = 2**24

# A responder's cookie secret lives this long, and so does a cookie; the initiator stops using it a little earlier.
COOKIE_SECRET_MAX_AGE: Final = 120.0
COOKIE_SECRET_LATENCY: Final = 5.0
# Once under load, stay on guard for this long.
UNDER_LOAD_TIME: Final = 1.0
# Under load one source (an IPv4 address, an IPv6 /64) may have this many handshake messages a second, and a burst.
PACKETS_PER_SECOND: Final = 20
PACKETS_BURST: Final = 5
# Sources remembered by the limiter at once; when full, unknown sources wait.
MAX_LIMITED_SOURCES: Final = 8192

MAX_STAGED_PACKETS: Final = 128
MAX_QUEUED_DATAGRAMS: Final = 4096
MAX_QUEUED_DROP_EVENTS: Final = 1024
# Initiations built by one call, so that ten thousand peers waking together do not stall the loop for seconds.
MAX_INITIATIONS_PER_CALL: Final = 64

PADDING: Final = 16
