"""`molehill audit` and `molehill explain --pcap` as a user meets them."""

import io
import json
import struct
from pathlib import Path

import dpkt
import pytest
from click.testing import CliRunner, Result

from engine.cli.main import molehill
from tests.unit.native.test_audit import (
    INWARD,
    IP,
    ME,
    OUT4,
    OUT6,
    OUTWARD,
    RAW_INTERFACE,
    SECTION,
    TCP,
    THERE,
    UDP,
    Raw,
    block,
    enhanced,
    pcap,
)

SETTINGS = ("--state", "connected", "--peer", "198.51.100.7:51820/udp", "--local", ME, "--local", "2001:db8::5")
TO_RELAY = OUTWARD / IP(src=ME, dst="198.51.100.7") / UDP(sport=51820, dport=51820) / Raw(b"x" * 40)


def run(*words: object) -> Result:
    result = CliRunner().invoke(molehill, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    path = tmp_path / "eth0.pcap"
    answer = INWARD / IP(src="198.51.100.7", dst=ME) / UDP(sport=51820, dport=51820)
    path.write_bytes(pcap(TO_RELAY, answer, OUTWARD / OUT4, OUTWARD / OUT6, INWARD / IP(src=THERE, dst=ME) / TCP()))
    return path


def test_a_capture_of_which_nothing_could_be_judged_is_not_called_clean(tmp_path: Path) -> None:
    path = tmp_path / "wlan0.pcap"
    data = bytearray(pcap(OUTWARD / OUT4))
    data[20:24] = struct.pack("<I", 105)  # IEEE 802.11
    path.write_bytes(data)
    result = run("audit", path, *SETTINGS)
    assert "whether anything would leak is not known: no packet could be judged" in result.output
    assert "nothing would leak" not in result.output


def test_audit_is_a_table_of_rules_and_what_would_leak(capture: Path, tmp_path: Path) -> None:
    out = tmp_path / "leaks.pcapng"
    result = run("audit", capture, *SETTINGS, "--out", out)
    assert result.exit_code == 0
    assert "5 of 5 packets judged" in result.output
    assert "out other tcp 192.168.1.5:5000 > 93.184.216.34:443 (1)" in result.output
    assert "1 passed as the service's own" in result.output
    assert "2 packets would leak" in result.output
    text = out.read_bytes()
    packets = [packet for _, packet in dpkt.pcapng.Reader(io.BytesIO(text)).readpkts()]
    assert packets == [bytes(OUTWARD / OUT4), bytes(OUTWARD / OUT6)]
    assert b"molehill: reject by P-0 (policy): Whatever no rule permits is blocked." in text
    assert b"molehill: reject by CTD-2 (policy): In Connected, DNS to anything" in text


def test_audit_json_is_one_object(capture: Path) -> None:
    report = json.loads(run("audit", capture, *SETTINGS, "--json").output)
    assert (report["packets"], report["judged"], report["leaks"]["packets"]) == (5, 5, 2)
    rows = {(row["rule"], row["verdict"]): row["packets"] for row in report["rows"]}
    assert rows == {("CTD-3", "accept"): 2, ("P-0", "reject"): 1, ("CTD-2", "reject"): 1, ("P-0", "drop"): 1}


def test_explain_reads_a_capture_packet_by_packet(capture: Path) -> None:
    result = run("explain", "--pcap", capture, *SETTINGS, "--json")
    found = [json.loads(line) for line in result.output.splitlines()]
    assert [(it["verdict"], it["rule"]) for it in found] == [
        ("accept", "CTD-3"), ("accept", "CTD-3"), ("reject", "P-0"), ("reject", "CTD-2"), ("drop", "P-0"),
    ]  # fmt: skip
    assert found[1]["packet"].endswith("state=reply")
    assert all(it["agree"] for it in found)


def test_a_truncated_capture_is_judged_and_says_so(capture: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.pcap"
    cut.write_bytes(capture.read_bytes()[:-7])
    result = run("audit", cut, *SETTINGS)
    assert result.exit_code == 0
    assert "4 of 4 packets judged" in result.output
    assert "the file ends in the middle of a packet" in result.output


def test_a_damaged_capture_is_judged_up_to_there_with_exit_code_1(capture: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pcap"
    broken.write_bytes(capture.read_bytes() + struct.pack("<IIII", 0, 0, 2**31, 0) + bytes(64))
    result = run("audit", broken, *SETTINGS)
    assert result.exit_code == 1
    assert "5 of 5 packets judged" in result.output
    assert "damaged after packet 5: a record's length is impossible" in result.output


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "too short to be a capture"),
        (b"\xd4\xc3", "too short to be a capture"),
        (b"just some text, nothing more", "neither a pcap nor a pcapng file"),
        (b"\x1f\x8b\x08\x00" + bytes(60), "compressed: unpack it first"),
    ],
)
def test_what_is_no_capture_is_one_sentence_and_exit_code_2(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "x.pcap"
    path.write_bytes(content)
    for words in (("audit", path), ("explain", "--pcap", path)):
        result = run(*words, *SETTINGS)
        assert result.exit_code == 2, words
        assert says in result.output


def test_bad_names_and_addresses_are_one_sentence(capture: Path, tmp_path: Path) -> None:
    assert "No such file" in run("audit", tmp_path / "none.pcap", "--state", "error").output
    assert "Is a directory" in run("audit", tmp_path, "--state", "error").output
    result = run("audit", capture, "--state", "error", "--local", "1.2.3")
    assert result.exit_code == 2
    assert "--local: '1.2.3' is no IP address" in result.output
    before = capture.read_bytes()
    result = run("audit", capture, *SETTINGS, "--out", capture)
    assert result.exit_code == 2
    assert "is the capture itself" in result.output
    assert capture.read_bytes() == before


def test_a_capture_larger_than_the_buffer_is_read_in_pieces(tmp_path: Path) -> None:
    record = pcap(TO_RELAY)[24:]
    count = (9 << 20) // len(record)
    path = tmp_path / "big.pcap"
    path.write_bytes(pcap()[:24] + record * count)
    report = json.loads(run("audit", path, *SETTINGS, "--json").output)
    assert (report["judged"], report["leaks"]["packets"], report["note"]) == (count, 0, None)


def test_a_block_larger_than_the_buffer_is_passed_over(tmp_path: Path) -> None:
    raw = bytes(OUT4)
    strange = block(0x0BAD, bytes((10 << 20) + 4))
    path = tmp_path / "huge.pcapng"
    path.write_bytes(SECTION + RAW_INTERFACE + enhanced(raw) + strange + enhanced(raw))
    report = json.loads(run("audit", path, *SETTINGS, "--json").output)
    assert (report["packets"], report["leaks"]["packets"], report["note"]) == (2, 2, None)


def test_a_disk_that_is_full_at_the_end_is_one_sentence_with_the_files_name(capture: Path) -> None:
    result = run("audit", capture, *SETTINGS, "--out", "/dev/full")
    assert (result.exit_code, result.stderr) == (1, "molehill: /dev/full: No space left on device\n")
