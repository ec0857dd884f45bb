import errno
from collections.abc import Callable
from ipaddress import ip_network

import pytest

from engine.wg import uapi
from engine.wg.config import DeviceConfig, HostPort, PeerConfig
from engine.wg.keys import ZERO_KEY, clamp, public_key
from engine.wg.uapi import (
    AllowedIP,
    Connection,
    Get,
    PeerFacts,
    PeerUpdate,
    UapiError,
    Update,
    apply_update,
    parse_request,
    render_get,
    render_set,
    reply,
    update_from,
)

SECRET = clamp(bytes(range(7, 39)))
PSK = bytes(range(50, 82))
A, B, C = (bytes([n]) * 32 for n in (1, 2, 3))
NET, OTHER_NET = ip_network("10.0.0.0/8"), ip_network("2001:db8::/32")
HERE, THERE = HostPort("192.0.2.1", 1), HostPort("2001:db8::1", 2)


def peer_lines(key: bytes, *lines: str) -> bytes:
    return ("\n".join(["set=1", f"public_key={key.hex()}", *lines]) + "\n").encode()


def test_a_whole_set_request_is_understood() -> None:
    request = f"""set=1
private_key={SECRET.hex()}
listen_port=51820
fwmark=51966
replace_peers=true
public_key={A.hex()}
update_only=true
preshared_key={PSK.hex()}
endpoint=[2001:db8::1]:2
persistent_keepalive_interval=25
replace_allowed_ips=true
allowed_ip=10.0.0.0/8
allowed_ip=-2001:db8::/32
protocol_version=1
public_key={B.hex()}
remove=true
"""
    expected = Update(
        private_key=SECRET,
        listen_port=51820,
        fwmark=51966,
        replace_peers=True,
        peers=(
            PeerUpdate(A, False, True, PSK, THERE, 25, True, (AllowedIP(NET), AllowedIP(OTHER_NET, True))),
            PeerUpdate(B, remove=True),
        ),
    )
    assert parse_request(request.encode()) == expected
    assert parse_request(render_set(expected).encode()) == expected


def test_replacing_allowed_addresses_forgets_the_lines_before_it() -> None:
    request = peer_lines(A, "allowed_ip=10.0.0.0/8", "replace_allowed_ips=true", "allowed_ip=2001:db8::/32")
    assert parse_request(request) == Update(
        peers=(PeerUpdate(A, replace_allowed_ips=True, allowed_ips=(AllowedIP(OTHER_NET),)),)
    )


MALFORMED: list[tuple[bytes, int, str]] = [
    (b"", errno.EPROTO, "line 1: the request is neither get=1 nor set=1"),
    (b"get=2\n", errno.EPROTO, "line 1: the request is neither get=1 nor set=1"),
    (b"set=1\r\n", errno.EPROTO, "line 1: the request is neither get=1 nor set=1"),
    (b"get=1\nprivate_key=\n", errno.EINVAL, "line 2: a get request has one line"),
    (b"set=1\nfwmark=\xff\n", errno.EPROTO, "the request is not ASCII text"),
    (b"set=1\nhello\n", errno.EPROTO, "line 2: not a key=value line of at most 1024 bytes"),
    (b"set=1\nfwmark=" + b"1" * 1024, errno.EPROTO, "line 2: not a key=value line of at most 1024 bytes"),
    (b"set=1\nfoo=1\n", errno.EINVAL, "line 2: no such device key"),
    (b"set=1\nallowed_ip=::/0\n", errno.EINVAL, "line 2: no such device key"),
    (b"set=1\nprivate_key=00\n", errno.EINVAL, "line 2: private_key: a key is 64 hexadecimal digits"),
    (b"set=1\nlisten_port=65536\n", errno.EINVAL, "line 2: listen_port: not a number within 0..65535"),
    (b"set=1\nlisten_port=+1\n", errno.EINVAL, "line 2: listen_port: not a number within 0..65535"),
    (b"set=1\nfwmark=0x1\n", errno.EINVAL, "line 2: fwmark: not a number within 0..4294967295"),
    (b"set=1\nreplace_peers=false\n", errno.EINVAL, "line 2: replace_peers: the only value is true"),
    (b"set=1\npublic_key=xx\n", errno.EINVAL, "line 2: public_key: a key is 64 hexadecimal digits"),
    (peer_lines(A, "fwmark=1"), errno.EINVAL, "line 3: no such peer key"),
    (peer_lines(A, "remove=1"), errno.EINVAL, "line 3: remove: the only value is true"),
    (peer_lines(A, "update_only="), errno.EINVAL, "line 3: update_only: the only value is true"),
    (peer_lines(A, "replace_allowed_ips=no"), errno.EINVAL, "line 3: replace_allowed_ips: the only value is true"),
    (peer_lines(A, "preshared_key=0"), errno.EINVAL, "line 3: preshared_key: a key is 64 hexadecimal digits"),
    (peer_lines(A, "endpoint=host:5"), errno.EINVAL, "line 3: endpoint: the host is not an IP address"),
    (peer_lines(A, "endpoint=1.2.3.4"), errno.EINVAL, "line 3: endpoint: the port is missing"),
    (
        peer_lines(A, "persistent_keepalive_interval=65536"),
        errno.EINVAL,
        "line 3: persistent_keepalive_interval: not a number within 0..65535",
    ),
    (peer_lines(A, "allowed_ip=10.0.0.0"), errno.EINVAL, "line 3: allowed_ip: not ADDRESS/LENGTH"),
    (peer_lines(A, "allowed_ip=--10.0.0.0/8"), errno.EINVAL, "line 3: allowed_ip: not ADDRESS/LENGTH"),
    (peer_lines(A, "protocol_version=2"), errno.EINVAL, "line 3: protocol_version: the only protocol version is 1"),
]


@pytest.mark.parametrize(("request_bytes", "code", "sentence"), MALFORMED)
def test_each_malformed_line_gives_its_errno_and_one_sentence(request_bytes: bytes, code: int, sentence: str) -> None:
    with pytest.raises(UapiError) as caught:
        parse_request(request_bytes)
    assert (caught.value.errno, str(caught.value)) == (code, sentence)


@pytest.mark.parametrize(
    "line", ["private_key={}0", "{}", "{}={}", "preshared_key={}x", "endpoint={}", "public_key=x{}"]
)
@pytest.mark.parametrize("device", [True, False])
def test_no_error_repeats_a_key(line: str, device: bool) -> None:
    secret = SECRET.hex()
    text = line.format(secret, secret)
    with pytest.raises(UapiError) as caught:
        parse_request(f"set=1\n{text}\n".encode() if device else peer_lines(A, text))
    assert secret[:12] not in repr(caught.value)
    assert secret[-12:] not in repr(caught.value)


def configured(*peers: PeerConfig) -> DeviceConfig:
    return DeviceConfig(SECRET, 51820, 7, peers)


FULL = configured(PeerConfig(A, PSK, HERE, 25, (NET,)), PeerConfig(B, allowed_ips=(OTHER_NET,)))


def test_what_an_update_does_not_mention_stays() -> None:
    assert apply_update(FULL, Update()) == FULL
    assert apply_update(FULL, Update(peers=(PeerUpdate(A),))) == FULL


def test_device_lines_change_the_device_alone() -> None:
    changed = apply_update(FULL, Update(listen_port=0, fwmark=0))
    assert (changed.listen_port, changed.fwmark) == (0, 0)
    assert (changed.private_key, changed.peers) == (FULL.private_key, FULL.peers)


def test_a_zero_private_key_takes_the_identity_away() -> None:
    assert apply_update(FULL, Update(private_key=ZERO_KEY)).private_key is None


def test_a_zero_preshared_key_takes_the_preshared_key_away() -> None:
    assert apply_update(FULL, Update(peers=(PeerUpdate(A, preshared_key=ZERO_KEY),))).peers[0].preshared_key is None


def test_replace_peers_forgets_even_what_a_named_peer_had() -> None:
    changed = apply_update(FULL, Update(replace_peers=True, peers=(PeerUpdate(A, endpoint=THERE),)))
    assert changed.peers == (PeerConfig(A, endpoint=THERE),)


def test_an_allowed_address_moves_to_the_peer_that_names_it_last() -> None:
    changed = apply_update(FULL, Update(peers=(PeerUpdate(B, allowed_ips=(AllowedIP(NET),)),)))
    assert [peer.allowed_ips for peer in changed.peers] == [(), (OTHER_NET, NET)]


def test_allowed_addresses_are_replaced_only_when_asked() -> None:
    added = apply_update(FULL, Update(peers=(PeerUpdate(A, allowed_ips=(AllowedIP(ip_network("0.0.0.0/0")),)),)))
    assert added.peers[0].allowed_ips == (NET, ip_network("0.0.0.0/0"))
    replaced = apply_update(FULL, Update(peers=(PeerUpdate(A, replace_allowed_ips=True),)))
    assert replaced.peers[0].allowed_ips == ()


def test_removing_an_allowed_address_takes_it_from_its_own_peer_only() -> None:
    minus = (AllowedIP(NET, remove=True),)
    assert apply_update(FULL, Update(peers=(PeerUpdate(A, allowed_ips=minus),))).peers[0].allowed_ips == ()
    assert apply_update(FULL, Update(peers=(PeerUpdate(B, allowed_ips=minus),))) == FULL


def test_a_removed_peer_is_gone_and_its_addresses_are_free() -> None:
    update = Update(peers=(PeerUpdate(A, remove=True), PeerUpdate(B, allowed_ips=(AllowedIP(NET),))))
    assert apply_update(FULL, update).peers == (PeerConfig(B, allowed_ips=(OTHER_NET, NET)),)


def test_removing_an_unknown_peer_does_not_create_it() -> None:
    assert apply_update(FULL, Update(peers=(PeerUpdate(C, remove=True, endpoint=HERE),))) == FULL


def test_update_only_changes_a_known_peer_and_creates_no_other() -> None:
    update = Update(peers=tuple(PeerUpdate(key, update_only=True, endpoint=THERE) for key in (A, C)))
    changed = apply_update(FULL, update)
    assert [(peer.public_key, peer.endpoint) for peer in changed.peers] == [(A, THERE), (B, None)]


def test_a_peer_with_our_own_key_is_passed_over() -> None:
    own = public_key(SECRET)
    assert apply_update(FULL, Update(peers=(PeerUpdate(own, allowed_ips=(AllowedIP(NET),)),))) == FULL


def test_a_new_identity_drops_the_peer_that_has_it() -> None:
    other = clamp(bytes(range(90, 122)))
    config = configured(PeerConfig(public_key(other), allowed_ips=(NET,)), PeerConfig(B))
    changed = apply_update(config, Update(private_key=other, peers=(PeerUpdate(B, allowed_ips=(AllowedIP(NET),)),)))
    assert changed == DeviceConfig(other, 51820, 7, (PeerConfig(B, allowed_ips=(NET,)),))


def test_a_peer_named_twice_is_changed_twice() -> None:
    update = Update(peers=(PeerUpdate(A, remove=True), PeerUpdate(A, endpoint=THERE)))
    assert apply_update(FULL, update).peers[-1] == PeerConfig(A, endpoint=THERE)


def test_what_get_shows() -> None:
    facts = {A: PeerFacts(1_700_000_000_123_456_789, rx_bytes=5, tx_bytes=6)}
    assert render_get(FULL, facts) == (
        f"private_key={SECRET.hex()}\nlisten_port=51820\nfwmark=7\n"
        f"public_key={A.hex()}\npreshared_key={PSK.hex()}\nprotocol_version=1\nendpoint=192.0.2.1:1\n"
        "last_handshake_time_sec=1700000000\nlast_handshake_time_nsec=123456789\ntx_bytes=6\nrx_bytes=5\n"
        "persistent_keepalive_interval=25\nallowed_ip=10.0.0.0/8\n"
        f"public_key={B.hex()}\npreshared_key={'00' * 32}\nprotocol_version=1\n"
        "last_handshake_time_sec=0\nlast_handshake_time_nsec=0\ntx_bytes=0\nrx_bytes=0\n"
        "persistent_keepalive_interval=0\nallowed_ip=2001:db8::/32\n"
    )
    assert render_get(DeviceConfig(), {}) == ""


def test_a_reply_ends_with_errno_and_an_empty_line() -> None:
    assert reply() == "errno=0\n\n"
    assert reply(errno.EINVAL) == "errno=-22\n\n"
    assert reply(body="listen_port=1\n") == "listen_port=1\nerrno=0\n\n"


def test_an_update_from_a_configuration_needs_addresses() -> None:
    assert apply_update(configured(PeerConfig(C)), update_from(FULL)) == FULL
    with pytest.raises(ValueError, match=r"relay\.example\.org:5"):
        update_from(configured(PeerConfig(A, endpoint=HostPort("relay.example.org", 5))))


def bytewise(connection: Connection, data: bytes) -> list[object]:
    return [request for index in range(len(data)) for request in connection.receive(data[index : index + 1])]


@pytest.mark.parametrize("feed", [bytewise, Connection.receive])
def test_a_stream_is_cut_into_requests_wherever_it_is_torn(feed: Callable[[Connection, bytes], list[object]]) -> None:
    requests = feed(Connection(), b"get=1\n\nset=1\nfwmark=1\n\nset=1\nfwmark=x\n\nget=1\n\nget=1\n")
    assert requests[:2] == [Get(), Update(fwmark=1)]
    assert isinstance(requests[2], UapiError)
    assert requests[3:] == [Get()]


def test_the_closing_client_ends_a_set_but_not_a_get() -> None:
    connection = Connection()
    assert connection.receive(b"set=1\nfwmark=1\n") == []
    assert connection.receive(b"") == [Update(fwmark=1)]
    assert connection.closed
    idle = Connection()
    assert idle.receive(b"get=1\n") == idle.receive(b"") == []


def test_an_endless_request_is_refused_and_the_connection_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "MAX_REQUEST", 100)
    connection = Connection()
    assert connection.receive(b"set=1\n" + b"a" * 90) == []
    (error,) = connection.receive(b"a" * 10)
    assert isinstance(error, UapiError)
    assert error.errno == errno.E2BIG
    assert connection.closed
    assert connection.receive(b"get=1\n\n") == []
