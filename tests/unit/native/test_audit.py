"""Captures in every format and link layer that is read, made by scapy, dpkt and by hand; and hostile ones."""

import io
import logging
import struct
from ipaddress import ip_address

import dpkt
import pytest

from engine.filter import PASS_ALL, compile_policy
from native.audit import Audit, Outcome, Sender, Skip
from native.facts import Direction, Interface
from tests.judging import CONNECTED, RELAY, policy

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.all import IP, TCP, UDP, CookedLinux, CookedLinuxV2, Dot1AD, Dot1Q, Ether, IPv6, Loopback, Raw  # noqa: E402
from scapy.utils import PcapNgWriter, PcapWriter  # noqa: E402

ME, ME6, THERE = "192.168.1.5", "2001:db8::5", "93.184.216.34"
HERE_HARDWARE, ROUTER = "02:00:00:00:00:05", "02:00:00:00:00:01"
LOCAL = (ip_address(ME), ip_address(ME6))
OUT4 = IP(src=ME, dst=THERE) / TCP(sport=5000, dport=443, flags="S")
OUT6 = IPv6(src=ME6, dst="2001:db8:1::1") / UDP(sport=5000, dport=53) / Raw(b"abcd")
OUTWARD = Ether(src=HERE_HARDWARE, dst=ROUTER)
INWARD = Ether(src=ROUTER, dst=HERE_HARDWARE)


def pcap(*packets, link: int = 1, nano: bool = False, endianness: str = "<") -> bytes:
    file = io.BytesIO()
    file.close = lambda: None  # type: ignore[method-assign]
    with PcapWriter(file, linktype=link, nano=nano, endianness=endianness) as writer:
        for packet in packets:
            writer.write(packet)
    return file.getvalue()


def fed(data: bytes, *, code: bytes | None = None, tunnel: str | None = None, local=LOCAL) -> Audit:
    audit = Audit(code or compile_policy(CONNECTED).code, local, tunnel=tunnel)
    used, _, _ = audit.feed(memoryview(data))
    assert used <= len(data)
    return audit


def steps(data: bytes, **settings):
    audit = Audit(compile_policy(CONNECTED).code, LOCAL, **settings)
    view, found, more = memoryview(data), [], True
    while more:
        used, step, more = audit.step(view)
        view = view[used:]
        if step is not None:
            found.append(step)
    return found


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap_of_either_byte_order_and_resolution_is_read(endianness: str, nano: bool) -> None:
    (step,) = steps(pcap(OUTWARD / OUT4, nano=nano, endianness=endianness))
    assert step.facts is not None
    assert (step.direction, step.facts.sport, step.facts.dport) == (Direction.OUT, 5000, 443)
    assert (str(step.facts.src), str(step.facts.dst)) == (ME, THERE)


@pytest.mark.parametrize(
    ("link", "frame"),
    [
        (1, OUTWARD / OUT6),
        (1, OUTWARD / Dot1Q(vlan=7) / OUT6),
        (1, Ether(src=HERE_HARDWARE, dst=ROUTER, type=0x88A8) / Dot1AD(vlan=3) / Dot1Q(vlan=7) / OUT6),
        (113, CookedLinux(pkttype=4, lladdrtype=1) / OUT6),
        (276, CookedLinuxV2(pkttype=4, lladdrtype=1) / OUT6),
        (0, Loopback(type=30) / OUT6),
        (108, Loopback(type=30) / OUT6),
        (12, OUT6),
        (14, OUT6),
        (101, OUT6),
        (229, OUT6),
    ],
)
def test_every_link_layer_shows_the_packet(link: int, frame) -> None:
    (step,) = steps(pcap(frame, link=link))
    assert step.facts is not None
    assert (step.skip, step.direction, step.facts.proto, step.facts.dport) == (Skip.NONE, Direction.OUT, 17, 53)
    assert step.facts.iface_out is Interface.OTHER


def test_raw_packets_are_the_tunnels_if_there_is_one_and_the_file_names_no_interface() -> None:
    for link, frame in ((101, OUT4), (113, CookedLinux(pkttype=4, lladdrtype=0xFFFE) / OUT4), (0, Loopback() / OUT4)):
        (step,) = steps(pcap(frame, link=link), tunnel="wg0")
        assert step.facts is not None
        assert (step.facts.iface_out, step.outcome) == (Interface.TUNNEL, Outcome.ACCEPT)
    (step,) = steps(pcap(OUTWARD / OUT4), tunnel="wg0")
    assert step.facts is not None
    assert step.facts.iface_out is Interface.OTHER


def test_loopback_is_known_by_its_link_layer() -> None:
    own = IP(src="127.0.0.1", dst="127.0.0.1") / UDP(sport=4, dport=53)
    zero = "00:00:00:00:00:00"
    frames = [(1, Ether(src=zero, dst=zero) / own), (0, Loopback() / own), (113, CookedLinux(lladdrtype=772) / own)]
    for link, frame in frames:
        (step,) = steps(pcap(frame, link=link))
        assert step.outcome is Outcome.ACCEPT, link


def test_pcapng_interfaces_are_known_by_name(tmp_path) -> None:
    path = tmp_path / "two.pcapng"
    with PcapNgWriter(str(path)) as writer:
        for name, frame in (("eth0", OUTWARD / OUT4), ("wg0", OUT4), ("lo", OUT4)):
            frame.sniffed_on = name
            frame.comment = "a comment, to be passed over"
            writer.write(frame)
    found = [step.facts.iface_out for step in steps(path.read_bytes(), tunnel="wg0")]
    assert found == [Interface.OTHER, Interface.TUNNEL, Interface.LOOPBACK]


def test_pcapng_as_dpkt_writes_it_is_read_in_both_byte_orders() -> None:
    file = io.BytesIO()
    writer = dpkt.pcapng.Writer(file)
    writer.writepkt(bytes(OUTWARD / OUT4), ts=5)
    assert len(steps(file.getvalue())) == 1
    big = block(0x0A0D0D0A, struct.pack(">IHHq", 0x1A2B3C4D, 1, 0, -1), ">") + block(
        1, struct.pack(">HHI", 101, 0, 0), ">"
    )
    raw = bytes(OUT4)
    big += block(6, struct.pack(">IIIII", 0, 0, 0, len(raw), len(raw)) + raw, ">")
    big += block(3, struct.pack(">I", len(raw)) + raw, ">")
    big += block(2, struct.pack(">HHIIII", 0, 0, 0, 0, len(raw), len(raw)) + raw, ">")
    assert [step.facts.dport for step in steps(big)] == [443, 443, 443]


def block(kind: int, body: bytes, order: str = "<") -> bytes:
    body += bytes(-len(body) % 4)
    length = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + length + body + length


SECTION = block(0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1))
RAW_INTERFACE = block(1, struct.pack("<HHI", 101, 0, 0))


def enhanced(frame: bytes, *, captured: int | None = None, interface: int = 0, flags: int = 0) -> bytes:
    size = len(frame) if captured is None else captured
    body = struct.pack("<IIIII", interface, 0, 0, size, size) + frame + bytes(-len(frame) % 4)
    return block(6, body + struct.pack("<HHIHH", 2, 4, flags, 0, 0))


def test_the_direction_that_pcapng_notes_counts() -> None:
    foreign = bytes(IP(src="172.16.0.9", dst=THERE) / UDP(sport=1, dport=2))
    data = SECTION + RAW_INTERFACE + enhanced(foreign) + enhanced(foreign, flags=2) + enhanced(foreign, flags=1)
    assert [(s.skip, s.direction) for s in steps(data)][1:] == [(Skip.NONE, Direction.OUT), (Skip.NONE, Direction.IN)]
    assert steps(data)[0].skip is Skip.NOT_OURS


def test_our_hardware_address_gives_away_an_address_that_was_not_named() -> None:
    privacy = OUTWARD / IPv6(src="2001:db8::abcd", dst="2001:db8:1::1") / UDP(sport=1, dport=2)
    before, _, after = steps(pcap(privacy, OUTWARD / OUT4, privacy))
    assert before.skip is Skip.NOT_OURS
    assert (after.skip, after.direction, after.outcome) == (Skip.NONE, Direction.OUT, Outcome.REJECT)


def test_a_packet_answers_a_flow_that_went_out_and_was_accepted() -> None:
    question = OUTWARD / IP(src=ME, dst=str(RELAY.ip)) / UDP(sport=51820, dport=51820)
    answer = INWARD / IP(src=str(RELAY.ip), dst=ME) / UDP(sport=51820, dport=51820)
    ours = Sender(mark=0x6D6F6C65)
    unasked, _, answered = steps(pcap(answer, question, answer), sender=ours)
    assert (unasked.outcome, answered.outcome) == (Outcome.DROP, Outcome.ACCEPT)
    *_, blocked = steps(pcap(question, answer))  # somebody else's: rejected, so nothing is an answer to it
    assert blocked.outcome is Outcome.DROP


def test_a_later_fragment_shares_the_verdict_of_its_first() -> None:
    compiled = compile_policy(policy(CONNECTED.state))
    whole = IP(src=ME, dst=THERE, id=7) / UDP(sport=5000, dport=53) / Raw(bytes(2000))
    audit = fed(pcap(*[OUTWARD / part for part in whole.fragment(800)]), code=compiled.code)
    assert {outcome for _, outcome in audit.rows()} == {Outcome.REJECT, Outcome.FRAGMENT_UNKNOWN}


def test_what_snaplen_cut_off_is_judged_if_the_ports_are_there() -> None:
    frame = bytes(OUTWARD / IP(src=ME, dst=THERE) / UDP(sport=5000, dport=443) / Raw(bytes(1000)))
    header = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 64, 1)

    def cut(length: int) -> bytes:
        return header + struct.pack("<IIII", 0, 0, length, len(frame)) + frame[:length]

    (judged,) = steps(cut(14 + 28))
    assert (judged.skip, judged.outcome, judged.facts.dport) == (Skip.NONE, Outcome.REJECT, 443)
    assert fed(cut(14 + 28)).totals().bytes == 1028
    for length in (0, 5, 14, 20, 14 + 27):
        (skipped,) = steps(cut(length))
        assert skipped.skip is Skip.CUT, length


def test_a_length_that_the_card_was_to_fill_in_is_taken_from_the_frame() -> None:
    frame = bytearray(bytes(OUTWARD / OUT4))
    frame[16:18] = b"\0\0"
    (step,) = steps(pcap(bytes(frame)))
    assert (step.outcome, step.facts.total_len) == (Outcome.REJECT, 40)


def test_arp_strange_links_and_strangers_are_counted_and_passed_over() -> None:
    arp = Ether(src=HERE_HARDWARE, type=0x806) / Raw(bytes(28))
    other = INWARD / IP(src="172.16.0.9", dst="172.16.0.10") / UDP(sport=1, dport=2)
    skipped = fed(pcap(arp, other)).totals().skipped
    assert (skipped[Skip.NOT_IP], skipped[Skip.NOT_OURS]) == (1, 1)
    assert fed(pcap(arp, link=105)).totals().skipped[Skip.LINK] == 1


def test_a_packet_that_contradicts_itself_is_malformed_and_still_a_leak() -> None:
    audit = fed(pcap(OUTWARD / IP(src=ME, dst=THERE, len=5000) / UDP(sport=1, dport=2)))
    (((rule, outcome), (packets, _)),) = audit.rows().items()
    assert (outcome, packets, audit.totals().leaks) == (Outcome.MALFORMED, 1, 1)
    assert rule == len(compile_policy(CONNECTED).rules)


def test_damaged_packet_blocks_are_skipped_and_reading_goes_on() -> None:
    raw = bytes(OUT4)
    data = SECTION + RAW_INTERFACE + enhanced(raw, captured=2**31) + enhanced(raw, interface=9) + block(6, b"short")
    totals = fed(data + enhanced(raw)).totals()
    assert (totals.packets, totals.skipped[Skip.DAMAGED], totals.problem) == (4, 3, None)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x1f\x8b\x08\0" + bytes(40), "compressed"),
        (b"\x28\xb5\x2f\xfd" + bytes(40), "compressed"),
        (b"hello, world, this is text", "neither a pcap nor a pcapng"),
        (pcap(OUTWARD / OUT4) + struct.pack("<IIII", 0, 0, 2**31, 5) + bytes(100), "a record's length is impossible"),
        (SECTION + struct.pack("<II", 6, 13) + bytes(40), "a block's length is impossible"),
        (SECTION + struct.pack("<II", 6, 2**30) + bytes(40), "a block's length is impossible"),
        (SECTION + struct.pack("<II", 6, 16) + bytes(40), "two lengths contradict"),
        (SECTION[:8] + b"zzzz" + SECTION[12:], "no byte order"),
        (SECTION + block(1, b"ab"), "an interface block is too short"),
        (SECTION + RAW_INTERFACE * 1025, "more than 1024 interfaces"),
    ],
)
def test_a_file_that_cannot_be_read_further_says_why(data: bytes, problem: str) -> None:
    assert problem in (fed(data).totals().problem or "")


def test_a_capture_cut_anywhere_is_judged_up_to_there() -> None:
    data = pcap(*[OUTWARD / OUT4] * 3)
    record = (len(data) - 24) // 3
    for length in range(24, len(data)):
        totals = fed(data[:length]).totals()
        assert (totals.packets, totals.problem) == ((length - 24) // record, None)


def test_the_top_flows_are_those_with_most_packets() -> None:
    frames = [OUTWARD / IP(src=ME, dst=THERE) / UDP(sport=1000 + n, dport=2) for n in range(5) for _ in range(n + 1)]
    audit = fed(pcap(*frames), code=PASS_ALL)
    flows = audit.top(0, Outcome.ACCEPT, 3)
    assert [(flow.sport, flow.packets) for flow in flows] == [(1004, 5), (1003, 4), (1002, 3)]
    assert flows[0].bytes == 5 * 28
    assert audit.top(1, Outcome.ACCEPT, 3) == []


def test_what_would_leak_is_written_as_pcapng_with_its_reason() -> None:
    audit = Audit(compile_policy(CONNECTED).code, LOCAL)
    rule = len(compile_policy(CONNECTED).rules) - 1
    audit.collect({(rule, Outcome.REJECT): "because of P-0"})
    _, written, again = audit.feed(memoryview(pcap(OUTWARD / OUT4, INWARD / IP(src=THERE, dst=ME) / UDP())))
    assert not again
    ((_, packet),) = dpkt.pcapng.Reader(io.BytesIO(SECTION + written)).readpkts()
    assert packet == bytes(OUTWARD / OUT4)
    assert b"because of P-0" in written


def test_what_is_no_program_is_refused() -> None:
    with pytest.raises(ValueError, match="not a verdict program"):
        Audit(b"nonsense", LOCAL)
    with pytest.raises(ValueError, match="interface's name"):
        Audit(PASS_ALL, LOCAL, tunnel="x" * 64)
