"""Sessions: the keys of the paper, both roles, the limits of a chosen clock, and no key left in memory."""

import hashlib
import hmac
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from native.reasons import Reason
from native.session import MESSAGE_OVERHEAD, Session

SECOND = 1_000_000_000
REJECT_AFTER_TIME = 180 * SECOND
REJECT_AFTER_MESSAGES = 2**64 - 2**13 - 1
CHAINING_KEY = bytes(range(32))


def pair(chaining_key: bytes = CHAINING_KEY, birth_ns: int = 0) -> tuple[Session, Session]:
    """Return (initiator, responder) of one handshake."""
    return (
        Session(chaining_key, initiator=True, local_index=11, remote_index=22, birth_ns=birth_ns),
        Session(chaining_key, initiator=False, local_index=22, remote_index=11, birth_ns=birth_ns),
    )


def kdf2(key: bytes, data: bytes) -> tuple[bytes, bytes]:
    """Paper section 5.4, by the standard library."""
    t0 = hmac.digest(key, data, hashlib.blake2s)
    first = hmac.digest(t0, b"\x01", hashlib.blake2s)
    return first, hmac.digest(t0, first + b"\x02", hashlib.blake2s)


def header(receiver: int, counter: int) -> bytes:
    return b"\x04\0\0\0" + receiver.to_bytes(4, "little") + counter.to_bytes(8, "little")


def sealed_by_hand(key: bytes, receiver: int, counter: int, packet: bytes) -> bytes:
    nonce = bytes(4) + counter.to_bytes(8, "little")
    return header(receiver, counter) + ChaCha20Poly1305(key).encrypt(nonce, packet, None)


def test_transport_keys_and_messages_are_those_of_the_paper_for_both_roles() -> None:
    rng = random.Random(5)
    for _ in range(50):
        chaining_key, packet = rng.randbytes(32), rng.randbytes(16 * rng.randrange(90))
        to_responder, to_initiator = kdf2(chaining_key, b"")
        initiator, responder = pair(chaining_key)
        for counter in range(3):
            assert initiator.seal(packet, 0) == sealed_by_hand(to_responder, 22, counter, packet)
            assert responder.seal(packet, 0) == sealed_by_hand(to_initiator, 11, counter, packet)
        assert initiator.open(sealed_by_hand(to_initiator, 11, 77, packet), 0) == packet
        assert responder.open(sealed_by_hand(to_responder, 22, 77, packet), 0) == packet


def test_a_session_tells_what_it_was_made_of() -> None:
    session = Session(CHAINING_KEY, initiator=True, local_index=2**32 - 1, remote_index=0, birth_ns=2**64 - 1)
    assert (session.local_index, session.remote_index) == (2**32 - 1, 0)
    assert session.initiator is True
    assert session.birth_ns == 2**64 - 1
    assert session.sent == 0


def test_counters_are_consecutive_and_counted() -> None:
    initiator, _ = pair()
    for counter in range(5):
        assert initiator.sent == counter
        message = initiator.seal(b"", 0)
        assert message is not None
        assert message[:16] == header(22, counter)
        assert len(message) == MESSAGE_OVERHEAD


def test_a_message_opens_once_in_any_order() -> None:
    initiator, responder = pair()
    messages = [initiator.seal(bytes([i]) * 16, 0) for i in range(100)]
    random.Random(6).shuffle(messages)
    for message in messages:
        assert message is not None
        opened = responder.open(message, 0)
        assert opened == bytes([message[8]]) * 16
        assert responder.open(message, 0) is Reason.REPLAY


def test_a_message_is_not_its_senders_own() -> None:
    initiator, responder = pair()
    message = initiator.seal(b"to the other", 0)
    assert message is not None
    assert initiator.open(message, 0) is Reason.UNKNOWN_INDEX
    assert initiator.open(header(11, 0) + message[16:], 0) is Reason.AUTH
    assert responder.open(message, 0) == b"to the other"


def test_a_tampered_message_is_refused_wherever_it_was_touched_and_the_true_one_still_opens() -> None:
    initiator, responder = pair()
    message = initiator.seal(bytes(32), 0)
    assert message is not None
    for at in range(len(message)):
        forged = bytearray(message)
        forged[at] ^= 0x10
        expected = Reason.UNKNOWN_TYPE if at < 4 else Reason.UNKNOWN_INDEX if at < 8 else Reason.AUTH
        assert responder.open(bytes(forged), 0) is expected
    assert responder.open(message, 0) == bytes(32)


@pytest.mark.parametrize("length", range(MESSAGE_OVERHEAD))
def test_a_message_shorter_than_a_keepalive_is_none(length: int) -> None:
    _, responder = pair()
    assert responder.open(header(22, 0).ljust(32, b"\0")[:length], 0) is Reason.UNKNOWN_TYPE


def test_the_window_forgets_what_is_8192_behind() -> None:
    key, _ = kdf2(CHAINING_KEY, b"")
    _, responder = pair()
    assert responder.open(sealed_by_hand(key, 22, 10_000, b"new"), 0) == b"new"
    assert responder.open(sealed_by_hand(key, 22, 10_000 - 8191, b"late"), 0) == b"late"
    assert responder.open(sealed_by_hand(key, 22, 10_000 - 8192, b"too late"), 0) is Reason.REPLAY


def test_a_session_is_refused_from_180_seconds_on() -> None:
    birth = 1000 * SECOND
    initiator, responder = pair(birth_ns=birth)
    message = initiator.seal(b"in time", birth + REJECT_AFTER_TIME - 1)
    assert message is not None
    assert initiator.alive(birth + REJECT_AFTER_TIME - 1)
    assert not initiator.alive(birth + REJECT_AFTER_TIME)
    assert initiator.seal(b"late", birth + REJECT_AFTER_TIME) is None
    assert initiator.sent == 1
    assert responder.open(message, birth + REJECT_AFTER_TIME) is Reason.SESSION_EXPIRED
    assert responder.open(message, birth + REJECT_AFTER_TIME - 1) == b"in time"


def test_a_clock_read_just_before_the_birth_does_not_end_a_session() -> None:
    initiator, responder = pair(birth_ns=50)
    message = initiator.seal(b"early", 49)
    assert message is not None
    assert responder.open(message, 0) == b"early"


def test_an_authentic_counter_past_the_message_limit_is_refused() -> None:
    key, _ = kdf2(CHAINING_KEY, b"")
    _, responder = pair()
    for counter, expected in (
        (REJECT_AFTER_MESSAGES - 1, b"last"),
        (REJECT_AFTER_MESSAGES, Reason.SESSION_EXPIRED),
        (2**64 - 1, Reason.SESSION_EXPIRED),
    ):
        assert responder.open(sealed_by_hand(key, 22, counter, b"last"), 0) == expected


def test_threads_get_each_counter_once() -> None:
    initiator, _ = pair()
    counters: list[bytes] = []

    def seal_many() -> None:
        for _ in range(300):
            message = initiator.seal(b"", 0)
            assert message is not None
            counters.append(message[8:16])

    threads = [threading.Thread(target=seal_many) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int.from_bytes(counter, "little") for counter in counters) == list(range(1200))


def test_a_closed_session_refuses() -> None:
    initiator, _ = pair()
    initiator.close()
    initiator.close()
    with pytest.raises(ValueError, match="closed"):
        initiator.seal(b"", 0)
    with pytest.raises(ValueError, match="closed"):
        initiator.open(header(11, 0) + bytes(16), 0)
    with pytest.raises(ValueError, match="closed"):
        _ = initiator.sent


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"chaining_key": bytes(31)}, "32 bytes, not 31"),
        ({"local_index": 2**32}, "local_index is an unsigned number of 32 bits"),
        ({"remote_index": -1}, "remote_index is an unsigned number of 32 bits"),
        ({"birth_ns": 2**64}, "birth_ns is an unsigned number of 64 bits"),
    ],
)
def test_wrong_arguments_are_named(wrong: dict[str, object], words: str) -> None:
    arguments = {
        "chaining_key": CHAINING_KEY,
        "initiator": True,
        "local_index": 1,
        "remote_index": 2,
        "birth_ns": 0,
    } | wrong
    with pytest.raises(ValueError, match=words):
        Session(**arguments)  # type: ignore[arg-type]


def test_a_packet_longer_than_ip_allows_is_an_error() -> None:
    with pytest.raises(ValueError, match="at most 65535 bytes"):
        pair()[0].seal(bytes(65536), 0)


HOLDER = """
import sys
from native.session import Session
chaining_key = bytearray.fromhex(sys.stdin.readline())
session = Session(chaining_key, initiator=True, local_index=1, remote_index=2, birth_ns=0)
for _ in range(50):
    session.seal(bytes(1400), 0)
    session.open(b"\\4\\0\\0\\0\\1\\0\\0\\0" + bytes(1408), 0)
print("open", flush=True)
sys.stdin.readline()
session.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def occurrences(pid: int, needles: tuple[bytes, ...]) -> int:
    """How often the needles stand in a process's writable memory."""
    count = 0
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps:
            span, permissions, *_ = line.split()
            if not permissions.startswith("rw"):
                continue
            start, end = (int(edge, 16) for edge in span.split("-"))
            memory.seek(start)
            try:
                content = memory.read(end - start)
            except OSError:
                continue  # a page that cannot be read, such as [vvar]
            count += sum(content.count(needle) for needle in needles)
    return count


def test_the_transport_keys_leave_the_process_memory_when_the_session_closes() -> None:
    chaining_key = random.Random(7).randbytes(32)
    keys = kdf2(chaining_key, b"")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        print(chaining_key.hex(), file=holder.stdin, flush=True)
        assert holder.stdout.readline() == "open\n"
        while_open = occurrences(holder.pid, keys)
        print(file=holder.stdin, flush=True)
        assert holder.stdout.readline() == "closed\n"
        after_close = occurrences(holder.pid, keys)
        print(file=holder.stdin, flush=True)
    assert while_open >= 2
    assert after_close == 0
