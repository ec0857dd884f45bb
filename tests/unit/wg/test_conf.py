import subprocess
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest

from engine.wg.conf import MAX_SIZE, Conf, ConfError, parse_conf, render_conf
from engine.wg.config import DeviceConfig, HostPort, PeerConfig
from engine.wg.keys import clamp, key_to_base64, public_key

SECRET = clamp(bytes(range(7, 39)))
PRESHARED = bytes(range(100, 132))
PEERS = [bytes([n]) * 32 for n in (1, 2, 3)]
SECRET_TEXT, PRESHARED_TEXT = key_to_base64(SECRET), key_to_base64(PRESHARED)
PEER_TEXTS = [key_to_base64(key) for key in PEERS]

FULL = f"""\
# a client
[Interface]
PrivateKey = {SECRET_TEXT}
ListenPort = 51820
FwMark = 0xca6c
Address = 10.64.0.2/32, fc00::2/128
Address = 192.0.2.7
DNS = 10.64.0.1, example.org fc00::1
MTU = 1380
Table = 51
PreUp = echo "a=b, %i"
PostUp = one
PostUp = two # not this
PreDown = three
PostDown = four
SaveConfig = true

[Peer]
PublicKey = {PEER_TEXTS[0]}
PresharedKey = {PRESHARED_TEXT}
AllowedIPs = 0.0.0.0/0,::/0
AllowedIPs = 10.1.2.3/8
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25

[Peer]
PublicKey={PEER_TEXTS[1]}
AllowedIPs =
Endpoint = relay.example.org:443
PersistentKeepalive = off
"""

FULL_CONF = Conf(
    device=DeviceConfig(
        private_key=SECRET,
        listen_port=51820,
        fwmark=0xCA6C,
        peers=(
            PeerConfig(
                PEERS[0],
                PRESHARED,
                HostPort("2001:db8::1", 51820),
                25,
                (ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("10.0.0.0/8")),
            ),
            PeerConfig(PEERS[1], endpoint=HostPort("relay.example.org", 443)),
        ),
    ),
    addresses=(ip_interface("10.64.0.2/32"), ip_interface("fc00::2/128"), ip_interface("192.0.2.7/32")),
    dns=(ip_address("10.64.0.1"), ip_address("fc00::1")),
    dns_search=("example.org",),
    mtu=1380,
    table="51",
    pre_up=('echo "a=b, %i"',),
    post_up=("one", "two"),
    pre_down=("three",),
    post_down=("four",),
    save_config=True,
)


def test_every_key_of_a_file_is_understood() -> None:
    assert parse_conf(FULL) == FULL_CONF


def test_a_rendered_file_is_read_back_as_the_same_value() -> None:
    assert parse_conf(render_conf(FULL_CONF)) == FULL_CONF


@pytest.mark.parametrize(
    "data",
    [
        FULL.replace("\n", "\r\n"),
        "\ufeff" + FULL,
        FULL.encode(),
        ("\ufeff" + FULL.replace("\n", "\r\n")).encode(),
        FULL.rstrip("\n"),
        FULL.replace("PrivateKey", "privatekey").replace("AllowedIPs", "ALLOWEDIPS").replace("[Peer]", "[ PEER ]"),
        FULL.replace(" = ", "\t=\t").replace("[Interface]", "  [Interface]  # section"),
    ],
    ids=["CRLF", "BOM", "bytes", "BOM and CRLF bytes", "no last newline", "other case", "tabs and spaces"],
)
def test_how_a_file_is_written_does_not_matter(data: str | bytes) -> None:
    assert parse_conf(data) == FULL_CONF


def test_an_empty_file_is_an_unconfigured_device() -> None:
    assert parse_conf("") == Conf()
    assert parse_conf("\n# nothing\n[Interface]\n").device == DeviceConfig()


def test_an_allowed_address_of_two_peers_belongs_to_the_later_one() -> None:
    peers = parse_conf(
        f"[Peer]\nPublicKey={PEER_TEXTS[0]}\nAllowedIPs=10.0.0.0/8,192.0.2.0/24\n"
        f"[Peer]\nPublicKey={PEER_TEXTS[1]}\nAllowedIPs=192.0.2.9/24\n"
    ).device.peers
    assert [peer.allowed_ips for peer in peers] == [(ip_network("10.0.0.0/8"),), (ip_network("192.0.2.0/24"),)]


def test_private_keys_are_clamped_as_wireguard_shows_them() -> None:
    raw = bytes([255]) * 32
    assert parse_conf(f"[Interface]\nPrivateKey={key_to_base64(raw)}\n").device.private_key == clamp(raw)


@pytest.mark.parametrize(
    ("text", "mark"), [("off", 0), ("OFF", 0), ("0", 0), ("51820", 51820), ("0xFFffFFff", 2**32 - 1)]
)
def test_a_firewall_mark_is_off_decimal_or_hexadecimal(text: str, mark: int) -> None:
    assert parse_conf(f"[Interface]\nFwMark = {text}").device.fwmark == mark


IFACE, PEER = "[Interface]\n", f"[Peer]\nPublicKey = {PEER_TEXTS[0]}\n"

MALFORMED = [
    ("PrivateKey = x", 1, None, "the file must begin with [Interface] or [Peer]"),
    ("[Peers]", 1, None, "the only sections are [Interface] and [Peer]"),
    ("[Interface", 1, None, "the only sections are [Interface] and [Peer]"),
    (IFACE + "hello", 2, None, "neither a [Section] nor a Key = value line"),
    (IFACE + "ListenPort", 2, None, "neither a [Section] nor a Key = value line"),
    (IFACE + "= 5", 2, None, "there is no such key in this section"),
    (IFACE + "PublicKey = x", 2, "PublicKey", "there is no such key in this section"),
    (IFACE + "PrivatKey = x", 2, "PrivatKey", "there is no such key in this section"),
    (PEER + "PrivateKey = x", 3, "PrivateKey", "there is no such key in this section"),
    (IFACE + "PrivateKey =", 2, "PrivateKey", "a key is 44 characters of base64, as `wg genkey` prints it"),
    (IFACE + f"PrivateKey = {'A' * 43}=", 2, "PrivateKey", "the key is all zero"),
    (PEER + f"PresharedKey = {'A' * 43}=", 3, "PresharedKey", "the key is all zero"),
    (IFACE + "ListenPort = 65536", 2, "ListenPort", "'65536' is not a number from 0 to 65535"),
    (IFACE + "ListenPort = -1", 2, "ListenPort", "'-1' is not a number from 0 to 65535"),
    (IFACE + "ListenPort = ٣", 2, "ListenPort", "'٣' is not a number from 0 to 65535"),
    (IFACE + "ListenPort = 1\nlistenport = 2", 3, "ListenPort", "already given in line 2"),
    (IFACE + "FwMark = 0x100000000", 2, "FwMark", "'0x100000000' is not a number from 0 to 4294967295"),
    (IFACE + "Address = 10.0.0.1/33", 2, "Address", "'10.0.0.1/33' is not ADDRESS/LENGTH"),
    (IFACE + "Address = 10.0.0.1/255.0.0.0", 2, "Address", "'10.0.0.1/255.0.0.0' is not ADDRESS/LENGTH"),
    (IFACE + "Address = fe80::1%eth0/64", 2, "Address", "'fe80::1%eth0/64' is not ADDRESS/LENGTH"),
    (IFACE + "Address = ,", 2, "Address", "the address is missing"),
    (IFACE + "DNS =", 2, "DNS", "the server is missing"),
    (IFACE + "DNS = 10.0.0", 2, "DNS", "'10.0.0' is not an IP address"),
    (IFACE + "DNS = ::g", 2, "DNS", "'::g' is not an IP address"),
    (IFACE + "DNS = ex/ample", 2, "DNS", "'ex/ample' is neither an IP address nor a domain"),
    (IFACE + "MTU = 67", 2, "MTU", "'67' is not a number from 68 to 65535"),
    (IFACE + "Table = a b", 2, "Table", "'a b' is neither off, auto nor a routing table"),
    (IFACE + "PostUp = # nothing", 2, "PostUp", "the command is empty"),
    (IFACE + "SaveConfig = yes", 2, "SaveConfig", "'yes' is neither true nor false"),
    (IFACE + "Table = a\x00b", 2, None, "the line has a control character"),
    (IFACE + "[Peer]\n\n[Peer]\nPublicKey = " + PEER_TEXTS[0], 2, "PublicKey", "this [Peer] has none"),
    (PEER + "\n" + PEER, 5, "PublicKey", "the same peer as in line 2"),
    (PEER + f"PublicKey = {PEER_TEXTS[1]}", 3, "PublicKey", "already given in line 2"),
    (
        f"[Peer]\nPublicKey = {key_to_base64(public_key(SECRET))}\n[Interface]\nPrivateKey = {SECRET_TEXT}",
        2,
        "PublicKey",
        "this is the interface's own key",
    ),
    (PEER + "AllowedIPs = 10.0.0.0/8,", 3, "AllowedIPs", "'' is not ADDRESS/LENGTH"),
    (PEER + "AllowedIPs = 10.0.0.0/8 ::/0", 3, "AllowedIPs", "'10.0.0.0/8 ::/0' is not ADDRESS/LENGTH"),
    (PEER + "AllowedIPs = 10.0.0/8", 3, "AllowedIPs", "'10.0.0/8' is not ADDRESS/LENGTH"),
    (PEER + "AllowedIPs = ::/129", 3, "AllowedIPs", "'::/129' is not ADDRESS/LENGTH"),
    (PEER + "Endpoint =", 3, "Endpoint", "'' is not HOST:PORT: the port is missing"),
    (PEER + "Endpoint = 1.2.3.4", 3, "Endpoint", "'1.2.3.4' is not HOST:PORT: the port is missing"),
    (PEER + "Endpoint = [::1]", 3, "Endpoint", "'[::1]' is not HOST:PORT: the port is missing"),
    (PEER + "Endpoint = ::1:5", 3, "Endpoint", "'::1:5' is not HOST:PORT: an IPv6 address must stand in brackets"),
    (PEER + "Endpoint = [a]:5", 3, "Endpoint", "'[a]:5' is not HOST:PORT: brackets are for IPv6 addresses only"),
    (PEER + "Endpoint = a:0", 3, "Endpoint", "'a:0' is not HOST:PORT: the port is not within 1..65535"),
    (PEER + "Endpoint = a:99999", 3, "Endpoint", "'a:99999' is not HOST:PORT: the port is not within 1..65535"),
    (PEER + "Endpoint = 1.2.3:5", 3, "Endpoint", "'1.2.3:5' is not HOST:PORT: the host is not a whole IPv4 address"),
    (
        PEER + "Endpoint = a b:5",
        3,
        "Endpoint",
        "'a b:5' is not HOST:PORT: the host is neither an IP address nor a hostname",
    ),
    (PEER + "PersistentKeepalive = on", 3, "PersistentKeepalive", "'on' is not a number from 0 to 65535"),
    (b"[Interface]\nTable = \xff", 2, None, "the file is not UTF-8 text"),
    (" " * (MAX_SIZE + 1), 1, None, f"the file is longer than {MAX_SIZE} bytes"),
]


@pytest.mark.parametrize(("data", "line", "key", "problem"), MALFORMED, ids=[case[3][:50] for case in MALFORMED])
def test_each_malformed_line_gives_its_one_sentence(
    data: str | bytes, line: int, key: str | None, problem: str
) -> None:
    with pytest.raises(ConfError) as caught:
        parse_conf(data)
    assert (caught.value.line, caught.value.key) == (line, key)
    assert str(caught.value) == (f"line {line}: {key}: {problem}" if key else f"line {line}: {problem}")


@pytest.mark.parametrize("secret", [SECRET_TEXT, SECRET_TEXT[:-1], SECRET.hex(), SECRET_TEXT + "x", SECRET_TEXT[:30]])
@pytest.mark.parametrize(
    "template",
    [
        "{}",
        "[{}]",
        "[Interface]\n{}",
        "[Interface]\n{} = x",
        "[Interface]\nPrivatKey = {}",
        "[Interface]\nPrivateKey : {}",
        "[Interface]\nPrivateKey = \n{}",
        *(
            f"[Interface]\n{key} = {{}}"
            for key in ["PrivateKey", "ListenPort", "FwMark", "Address", "MTU", "SaveConfig", "ListenPort"]
        ),
        *(
            f"[Peer]\n{key} = {{}}"
            for key in ["PublicKey", "PresharedKey", "AllowedIPs", "Endpoint", "PersistentKeepalive"]
        ),
        "[Peer]\nEndpoint = {}:80/x",
    ],
)
def test_no_error_repeats_a_key_even_in_the_wrong_place(template: str, secret: str) -> None:
    with pytest.raises(ConfError) as caught:
        parse_conf(template.format(secret) + "\nBad")
    told = f"{caught.value} {caught.value.key} {caught.value.args}"
    assert not any(secret[start : start + 12] in told for start in range(len(secret) - 12))


def test_values_keep_their_secrets_out_of_repr() -> None:
    told = repr(FULL_CONF)
    assert repr(SECRET) not in told
    assert repr(PRESHARED) not in told


def test_wg_quick_strips_the_file_to_what_we_read_as_wireguards_part(tmp_path: Path) -> None:
    file = tmp_path / "wgx.conf"
    file.write_text(FULL)
    file.chmod(0o600)
    stripped = subprocess.run(["wg-quick", "strip", str(file)], capture_output=True, text=True, check=True).stdout
    assert parse_conf(stripped) == Conf(device=FULL_CONF.device)
