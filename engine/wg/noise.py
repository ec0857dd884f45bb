"""The handshake Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s (paper 5.4.2-5.4.4): both roles, functions of their inputs.

Order of events, with the names of the paper (C chaining key, H transcript hash):

    initiator                                  responder
    Initiator.start(...) -> initiation   --->  Responder(initiation): who is it?
                                               .read_timestamp(static_static): is it fresh?
    .finish(response) -> C               <---  .respond(...) -> response, C

The final chaining key C goes into a native session, which derives the two transport keys. CryptoError means: not
authentic, or a null or low-order key; nothing was changed and the message is to be dropped silently.
Ephemeral secrets are arguments, so that tests can fix them.
"""

from engine.wg.constants import CONSTRUCTION, IDENTIFIER
from engine.wg.messages import Initiation, Response
from engine.wg.primitives import aead_open, aead_seal, dh, hash_, kdf1, kdf2, kdf3, public_of, wipe

_INITIAL_CHAINING_KEY = hash_(CONSTRUCTION)
_INITIAL_HASH = hash_(_INITIAL_CHAINING_KEY + IDENTIFIER)


def transcript_to(responder_public: bytes) -> bytes:
    """Return H after mixing in the responder's static key."""
    return hash_(_INITIAL_HASH + responder_public)


class Identity:
    """Our static key pair, and the start of the transcript of every initiation addressed to us."""

    __slots__ = ("private", "public", "transcript")

    def __init__(self, private: bytes) -> None:
        self.private = private
        self.public = public_of(private)
        self.transcript = transcript_to(self.public)


class Initiator:
    """One initiation in flight: what must be remembered until its response comes."""

    __slots__ = ("_chaining_key", "_ephemeral", "_hash", "index")

    def __init__(self, index: int, ephemeral: bytes, chaining_key: bytes, transcript: bytes) -> None:
        self.index = index
        self._ephemeral = bytearray(ephemeral)
        self._chaining_key = bytearray(chaining_key)
        self._hash = transcript

    @classmethod
    def start(
        cls,
        identity: Identity,
        remote_public: bytes,
        static_static: bytes,
        *,
        transcript: bytes,
        ephemeral: bytes,
        index: int,
        timestamp: bytes,
    ) -> tuple["Initiator", bytes]:
        """Make an initiation; returns the state and the 116 bytes to which the MACs are to be added.

        static_static is DH(our static, remote static); transcript is transcript_to(remote_public).
        """
        ephemeral_public = public_of(ephemeral)
        h = hash_(transcript + ephemeral_public)
        c = kdf1(_INITIAL_CHAINING_KEY, ephemeral_public)
        c, key = kdf2(c, dh(ephemeral, remote_public))
        static = aead_seal(key, identity.public, h)
        h = hash_(h + static)
        c, key = kdf2(c, static_static)
        sealed_timestamp = aead_seal(key, timestamp, h)
        h = hash_(h + sealed_timestamp)
        message = Initiation(index, ephemeral_public, static, sealed_timestamp).build()
        return cls(index, ephemeral, c, h), message

    def finish(self, identity: Identity, response: Response, preshared_key: bytes) -> bytes:
        """Read the response and return the final chaining key. The state is unchanged, and to be wiped on success."""
        c = kdf1(self._chaining_key, response.ephemeral)
        h = hash_(self._hash + response.ephemeral)
        c = kdf1(c, dh(bytes(self._ephemeral), response.ephemeral))
        c = kdf1(c, dh(identity.private, response.ephemeral))
        c, tau, key = kdf3(c, preshared_key)
        h = hash_(h + tau)
        aead_open(key, response.empty, h)
        return c

    def wipe(self) -> None:
        """Overwrite the ephemeral secret and the chaining key."""
        wipe(self._ephemeral, self._chaining_key)


class Responder:
    """One initiation being read: first whose it is, then whether it is fresh, then the answer."""

    __slots__ = ("_chaining_key", "_hash", "_initiation", "remote_public")

    def __init__(self, identity: Identity, initiation: Initiation) -> None:
        """Read the initiator's static key into remote_public; nothing proves yet that it sent this."""
        h = hash_(identity.transcript + initiation.ephemeral)
        c = kdf1(_INITIAL_CHAINING_KEY, initiation.ephemeral)
        c, key = kdf2(c, dh(identity.private, initiation.ephemeral))
        self.remote_public = aead_open(key, initiation.static, h)
        self._initiation = initiation
        self._hash = hash_(h + initiation.static)
        self._chaining_key = c

    def read_timestamp(self, static_static: bytes) -> bytes:
        """Return the initiator's 12-byte timestamp; it is authenticated by DH(static, static)."""
        c, key = kdf2(self._chaining_key, static_static)
        timestamp = aead_open(key, self._initiation.timestamp, self._hash)
        self._chaining_key = c
        self._hash = hash_(self._hash + self._initiation.timestamp)
        return timestamp

    def respond(self, ephemeral: bytes, index: int, preshared_key: bytes) -> tuple[bytes, bytes]:
        """Return the final chaining key, and the 60 bytes to which the MACs are to be added."""
        ephemeral_public = public_of(ephemeral)
        c = kdf1(self._chaining_key, ephemeral_public)
        h = hash_(self._hash + ephemeral_public)
        c = kdf1(c, dh(ephemeral, self._initiation.ephemeral))
        c = kdf1(c, dh(ephemeral, self.remote_public))
        c, tau, key = kdf3(c, preshared_key)
        h = hash_(h + tau)
        empty = aead_seal(key, b"", h)
        return c, Response(index, self._initiation.sender, ephemeral_public, empty).build()
