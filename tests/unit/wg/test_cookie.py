"""mac1, mac2, cookies and the limit per source."""

from ipaddress import IPv4Address, IPv6Address
from random import Random

from engine.wg.constants import MAX_LIMITED_SOURCES
from engine.wg.cookie import CookieChecker, CookieGenerator, RateLimiter
from engine.wg.messages import CookieReply
from tests import paper

RESPONDER = Random(1).randbytes(32)
SOURCE = b"\xc0\x00\x02\x01\xca\x6c"
BODY = b"\x01\0\0\0" + b"b" * 112


def two_sides() -> tuple[CookieGenerator, CookieChecker]:
    return CookieGenerator(RESPONDER), CookieChecker(RESPONDER, Random(2).randbytes)


def give_cookie(generator: CookieGenerator, checker: CookieChecker, now: float) -> None:
    message = generator.add_macs(BODY, now)
    assert generator.consume(CookieReply.parse(checker.reply(message, 7, SOURCE, now)), now)


def test_mac1_is_the_papers_and_mac2_is_zero_without_a_cookie() -> None:
    generator, checker = two_sides()
    message = generator.add_macs(BODY, 0.0)
    assert message == paper.with_macs(BODY, RESPONDER)
    assert checker.check_mac1(message)
    assert not checker.check_mac2(message, SOURCE, 0.0)


def test_mac1_notices_every_changed_byte() -> None:
    generator, checker = two_sides()
    message = generator.add_macs(BODY, 0.0)
    for place in range(len(message) - 16):
        spoiled = bytearray(message)
        spoiled[place] ^= 0x80
        assert not checker.check_mac1(bytes(spoiled))


def test_with_a_cookie_mac2_is_valid_for_its_source_alone() -> None:
    generator, checker = two_sides()
    give_cookie(generator, checker, 0.0)
    message = generator.add_macs(BODY, 1.0)
    assert checker.check_mac1(message)
    assert checker.check_mac2(message, SOURCE, 1.0)
    assert not checker.check_mac2(message, SOURCE[:-1] + b"\0", 1.0)
    assert not checker.check_mac2(message[:-1] + bytes([message[-1] ^ 1]), SOURCE, 1.0)


def test_the_cookie_reply_is_the_papers() -> None:
    generator, checker = two_sides()
    message = generator.add_macs(BODY, 0.0)
    reply = checker.reply(message, 0x01020304, SOURCE, 0.0)
    assert len(reply) == 64
    assert reply[:8] == bytes([3, 0, 0, 0, 4, 3, 2, 1])
    assert generator.consume(CookieReply.parse(reply), 0.0)
    cookie = generator._cookie
    assert len(cookie) == 16
    # What the second implementation makes of the same cookie is accepted.
    assert checker.check_mac2(paper.with_macs(BODY, RESPONDER, cookie), SOURCE, 0.0)


def test_the_initiator_uses_a_cookie_for_two_minutes_less_the_latency() -> None:
    generator, checker = two_sides()
    give_cookie(generator, checker, 0.0)
    assert generator.add_macs(BODY, 114.9)[-16:] != bytes(16)
    assert generator.add_macs(BODY, 115.0)[-16:] == bytes(16)


def test_the_responders_secret_changes_every_two_minutes() -> None:
    generator, checker = two_sides()
    give_cookie(generator, checker, 0.0)
    message = generator.add_macs(BODY, 1.0)
    assert checker.check_mac2(message, SOURCE, 119.9)
    assert not checker.check_mac2(message, SOURCE, 120.1)


def test_a_cookie_reply_is_taken_once_and_only_for_the_last_message() -> None:
    generator, checker = two_sides()
    first = generator.add_macs(BODY, 0.0)
    second = generator.add_macs(BODY + b"!", 0.0)
    stale = CookieReply.parse(checker.reply(first, 7, SOURCE, 0.0))
    fresh = CookieReply.parse(checker.reply(second, 7, SOURCE, 0.0))
    assert not generator.consume(stale, 0.0)
    assert generator.consume(fresh, 0.0)
    assert not generator.consume(fresh, 0.0)


def test_a_cookie_reply_before_any_message_is_refused() -> None:
    generator, checker = two_sides()
    reply = CookieReply.parse(checker.reply(generator.add_macs(BODY, 0.0), 7, SOURCE, 0.0))
    assert not CookieGenerator(RESPONDER).consume(reply, 0.0)


def test_a_source_has_a_burst_of_5_and_then_20_a_second() -> None:
    limiter, host = RateLimiter(), IPv4Address("192.0.2.1")
    assert [limiter.allow(host, 10.0) for _ in range(7)] == [True] * 5 + [False] * 2
    assert not limiter.allow(host, 10.049)
    assert limiter.allow(host, 10.051)
    allowed = sum(limiter.allow(host, 11 + i / 1000) for i in range(1000))
    assert 20 <= allowed <= 25


def test_ipv4_sources_are_single_addresses_and_ipv6_sources_are_64s() -> None:
    limiter = RateLimiter()
    for _ in range(5):
        assert limiter.allow(IPv4Address("192.0.2.1"), 0.0)
        assert limiter.allow(IPv4Address("192.0.2.2"), 0.0)
        assert limiter.allow(IPv6Address("2001:db8::1"), 0.0)
        assert limiter.allow(IPv6Address("2001:db8:0:1::1"), 0.0)
    assert not limiter.allow(IPv4Address("192.0.2.1"), 0.0)
    assert not limiter.allow(IPv6Address("2001:db8::ffff"), 0.0)
    # The first 4 bytes of a /64 are not taken for an IPv4 address.
    assert limiter.allow(IPv6Address("c000:201::"), 0.0)


def test_idle_sources_are_forgotten_and_the_table_is_bounded() -> None:
    limiter = RateLimiter()
    for i in range(MAX_LIMITED_SOURCES + 100):
        allowed = limiter.allow(IPv4Address(i + 1), 0.0)
        assert allowed == (i < MAX_LIMITED_SOURCES)
    assert len(limiter) == MAX_LIMITED_SOURCES
    assert limiter.allow(IPv4Address("203.0.113.1"), 0.3)
    assert len(limiter) == 1
