"""The compiler refuses what has no verdict for every packet, and its bytes are what native/src/verdict.h says."""

import struct
from dataclasses import replace

import pytest

from engine.filter import PASS_ALL, PASS_ALL_RULES, compile_policy, compile_rules, evaluate
from engine.policy import P0, Interface, Rule, rules_for
from native.facts import Fragment
from native.verdict import Program
from tests.judging import CONNECTED, HERE, OTHER, TCP, THERE, THERE6, TUN, UDP, forward, into, out

ACCEPT_TCP = Rule("T", "TCP", accept=True, protocols=(6,))


def test_a_list_that_does_not_end_in_a_block_of_everything_is_refused() -> None:
    with pytest.raises(ValueError, match="the last rule must block everything, and T does not"):
        compile_rules((P0, ACCEPT_TCP))
    with pytest.raises(ValueError, match="must block everything"):
        compile_rules((replace(P0, interfaces=(Interface.OTHER,)),))
    with pytest.raises(ValueError, match="must block everything"):
        compile_rules((replace(P0, forward=False),))
    with pytest.raises(ValueError, match="must block everything"):
        compile_rules((replace(P0, accept=True, reject=False),))


def test_no_rules_and_too_many_rules_are_refused() -> None:
    with pytest.raises(ValueError, match="1 to 1024 rules, not 0"):
        compile_rules(())
    with pytest.raises(ValueError, match="not 1025"):
        compile_rules((ACCEPT_TCP,) * 1024 + (P0,))
    assert Program(compile_rules((ACCEPT_TCP,) * 1023 + (P0,))).rules == 1024


def test_pass_all_accepts_every_packet_of_every_direction() -> None:
    program = Program(PASS_ALL)
    for facts in (
        out(UDP, HERE, "8.8.8.8", 1, 53),
        into(TCP, THERE6, "::1", 1, 2, via=TUN),
        forward(TUN, OTHER, 47, HERE, THERE),
    ):
        assert program.judge(facts).accept
        assert evaluate(PASS_ALL_RULES, facts).accept
        assert program.judge(replace(facts, fragment=Fragment.LATER, sport=None, dport=None)).accept


def test_a_compiled_policy_names_its_rules_by_index() -> None:
    compiled = compile_policy(CONNECTED)
    assert compiled.rules == rules_for(CONNECTED)
    assert compiled.ids[0] == "LO-1"
    assert compiled.ids[-1] == "P-0"


def test_equal_policies_compile_to_equal_bytes() -> None:
    assert compile_policy(CONNECTED).code == compile_policy(replace(CONNECTED)).code
    assert compile_policy(CONNECTED).code != compile_policy(replace(CONNECTED, allow_lan=True)).code


def test_the_header_is_as_documented() -> None:
    code = compile_rules((ACCEPT_TCP, P0))
    assert struct.unpack_from("<4sHHHHI", code) == (b"MHVP", 1, 2, 1, 12, len(code))
    assert code[16:24] == bytes([1, 2, 0, 0, 0, 0, 0, 0])
    # The first dimension, context: T is judged as out and as in, but not on forwarded packets.
    assert struct.unpack_from("<QQQQQ", code, 24) == (2, 0, 6, 0b11, 0b10)
