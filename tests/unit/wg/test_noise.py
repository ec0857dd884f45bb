"""Whole handshakes with fixed randomness, byte for byte against a second implementation and a stored transcript."""

import json
from dataclasses import fields
from pathlib import Path
from random import Random

import pytest

from engine.wg import messages, primitives
from engine.wg.cookie import CookieGenerator
from engine.wg.noise import Identity, Initiator, Responder, transcript_to
from native.session import Session
from tests import paper

TRANSCRIPTS = json.loads((Path(__file__).parents[2] / "vectors" / "handshakes.json").read_text())["cases"]


def handshake(case: dict[str, str]) -> paper.Handshake:
    values = {}
    for field in fields(paper.Handshake):
        text = case[field.name]
        values[field.name] = int(text, 16) if field.name.endswith("index") else bytes.fromhex(text)
    return paper.Handshake(**values)


def ours(given: paper.Handshake) -> tuple[bytes, bytes, bytes, bytes]:
    """Initiation, response, and the final chaining keys of the two sides."""
    i, r = Identity(given.initiator_static), Identity(given.responder_static)
    initiator, initiation = Initiator.start(
        i,
        r.public,
        primitives.dh(i.private, r.public),
        transcript=transcript_to(r.public),
        ephemeral=given.initiator_ephemeral,
        index=given.initiator_index,
        timestamp=given.timestamp,
    )
    responder = Responder(r, messages.Initiation.parse(initiation))
    assert responder.remote_public == i.public
    assert responder.read_timestamp(primitives.dh(r.private, i.public)) == given.timestamp
    theirs, response = responder.respond(given.responder_ephemeral, given.responder_index, given.preshared_key)
    mine = initiator.finish(i, messages.Response.parse(response), given.preshared_key)
    return (
        CookieGenerator(r.public).add_macs(initiation, 0),
        CookieGenerator(i.public).add_macs(response, 0),
        mine,
        theirs,
    )


@pytest.mark.parametrize("case", TRANSCRIPTS, ids=lambda case: case["name"])
def test_a_handshake_is_the_stored_transcript(case: dict[str, str]) -> None:
    initiation, response, mine, theirs = ours(handshake(case))
    assert initiation.hex() == case["initiation"]
    assert response.hex() == case["response"]
    assert mine == theirs
    assert mine.hex() == case["chaining_key"]


@pytest.mark.parametrize("case", TRANSCRIPTS, ids=lambda case: case["name"])
def test_the_stored_transcript_is_what_the_paper_says(case: dict[str, str]) -> None:
    given = handshake(case)
    assert given.initiation().hex() == case["initiation"]
    assert given.response().hex() == case["response"]
    assert given.final.hex() == case["chaining_key"]
    assert [key.hex() for key in given.transport_keys()] == [case["send"], case["receive"]]


def test_random_handshakes_agree_with_the_second_implementation() -> None:
    random = Random(7)
    for _ in range(20):
        given = paper.Handshake(
            *(random.randbytes(32) for _ in range(5)),
            timestamp=random.randbytes(12),
            initiator_index=random.getrandbits(32),
            responder_index=random.getrandbits(32),
        )
        initiation, response, mine, theirs = ours(given)
        assert initiation == given.initiation()
        assert response == given.response()
        assert mine == theirs == given.final


def test_native_sessions_use_the_transport_keys_of_the_paper() -> None:
    given = handshake(TRANSCRIPTS[0])
    given.initiation()
    given.response()
    forth, back = given.transport_keys()
    initiator = Session(given.final, initiator=True, local_index=1, remote_index=2, birth_ns=0)
    responder = Session(given.final, initiator=False, local_index=2, remote_index=1, birth_ns=0)
    assert initiator.seal(b"x" * 16, 0) == paper.data_message(forth, 2, 0, b"x" * 16)
    assert responder.seal(b"y" * 32, 0) == paper.data_message(back, 1, 0, b"y" * 32)
    assert responder.open(paper.data_message(forth, 2, 9, b"z" * 16), 0) == b"z" * 16


def test_every_changed_byte_of_an_initiation_is_noticed() -> None:
    given = handshake(TRANSCRIPTS[0])
    r = Identity(given.responder_static)
    message = given.initiation()[:116]
    shared = primitives.dh(r.private, paper.public(given.initiator_static))
    for place in range(8, 116):  # type and sender index are covered by the MACs alone
        spoiled = bytearray(message)
        spoiled[place] ^= 0x01
        with pytest.raises(primitives.CryptoError):
            Responder(r, messages.Initiation.parse(bytes(spoiled))).read_timestamp(shared)


def test_every_changed_byte_of_a_response_is_noticed_and_the_true_one_is_still_taken() -> None:
    given = handshake(TRANSCRIPTS[0])
    i, r = Identity(given.initiator_static), Identity(given.responder_static)
    initiator, _ = Initiator.start(
        i,
        r.public,
        primitives.dh(i.private, r.public),
        transcript=transcript_to(r.public),
        ephemeral=given.initiator_ephemeral,
        index=given.initiator_index,
        timestamp=given.timestamp,
    )
    given.initiation()
    message = given.response()[:60]
    for place in range(12, 60):
        spoiled = bytearray(message)
        spoiled[place] ^= 0x01
        with pytest.raises(primitives.CryptoError):
            initiator.finish(i, messages.Response.parse(bytes(spoiled)), given.preshared_key)
    assert initiator.finish(i, messages.Response.parse(message), given.preshared_key) == given.final


def test_a_low_order_ephemeral_key_fails_the_handshake() -> None:
    given = handshake(TRANSCRIPTS[0])
    initiation = given.initiation()
    message = initiation[:8] + bytes(32) + initiation[40:]
    with pytest.raises(primitives.CryptoError):
        Responder(Identity(given.responder_static), messages.Initiation.parse(message))


def test_wiping_an_initiator_leaves_no_secret_in_it() -> None:
    initiator = Initiator(1, b"e" * 32, b"c" * 32, b"h" * 32)
    held = [initiator._ephemeral, initiator._chaining_key]
    initiator.wipe()
    assert held == [bytes(32), bytes(32)]
