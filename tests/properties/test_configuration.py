"""Configuration values survive every text they are written in, and updates do what a naive model does."""

from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

from hypothesis import given
from hypothesis import strategies as st

from engine.wg.conf import Conf, ConfError, parse_conf, render_conf
from engine.wg.config import DeviceConfig, HostPort, IPNetwork, PeerConfig
from engine.wg.keys import ZERO_KEY, clamp, public_key
from engine.wg.uapi import (
    AllowedIP,
    Connection,
    PeerUpdate,
    UapiError,
    Update,
    apply_update,
    parse_request,
    render_get,
    render_set,
    update_from,
)

keys = st.binary(min_size=32, max_size=32).filter(any)
private_keys = keys.map(clamp)
networks: st.SearchStrategy[IPNetwork] = st.one_of(
    st.builds(lambda a, n: IPv4Network((a, n), strict=False), st.integers(0, 2**32 - 1), st.integers(0, 32)),
    st.builds(lambda a, n: IPv6Network((a, n), strict=False), st.integers(0, 2**128 - 1), st.integers(0, 128)),
)
ports = st.integers(1, 65535)
addresses = st.one_of(
    st.builds(HostPort, st.ip_addresses(v=4).map(str), ports),
    st.builds(HostPort, st.ip_addresses(v=6).map(str), ports),
    st.builds(HostPort, st.just("fe80::1%eth0"), ports),
)
names = st.builds(HostPort, st.from_regex(r"[a-z][a-z0-9-]{0,20}(\.[a-z]{1,9}){0,2}", fullmatch=True), ports)


def configs(endpoints: st.SearchStrategy[HostPort]) -> st.SearchStrategy[DeviceConfig]:
    """Valid devices: distinct peers, none of them the device itself, every network with one owner."""

    def build(
        private_key: bytes | None, port: int, mark: int, peers: list[PeerConfig], networks: dict[IPNetwork, int]
    ) -> DeviceConfig:
        own = None if private_key is None else public_key(private_key)
        peers = [peer for peer in peers if peer.public_key != own]
        owned = [tuple(net for net, n in networks.items() if n % len(peers) == i) for i in range(len(peers))]
        return DeviceConfig(
            private_key, port, mark, tuple(replace(p, allowed_ips=o) for p, o in zip(peers, owned, strict=True))
        )

    peers = st.builds(PeerConfig, keys, st.none() | keys, st.none() | endpoints, st.integers(0, 65535))
    return st.builds(
        build,
        st.none() | private_keys,
        st.integers(0, 65535),
        st.integers(0, 2**32 - 1),
        st.lists(peers, max_size=4, unique_by=lambda peer: peer.public_key),
        st.dictionaries(networks, st.integers(0, 3), max_size=8),
    )


words = st.from_regex(r"[a-z%/|=;'\"-]([ -\"$-~]{0,30}[a-z0-9])?", fullmatch=True)
hooks = st.lists(words, max_size=2).map(tuple)
confs = st.builds(
    Conf,
    device=configs(addresses | names),
    addresses=st.lists(
        st.builds(lambda a, n: IPv4Interface((a, n)), st.integers(0, 2**32 - 1), st.integers(0, 32))
        | st.builds(lambda a, n: IPv6Interface((a, n)), st.integers(0, 2**128 - 1), st.integers(0, 128)),
        max_size=3,
    ).map(tuple),
    dns=st.lists(st.ip_addresses(), max_size=2).map(tuple),
    dns_search=st.lists(st.from_regex(r"[a-z]{1,9}(\.[a-z]{1,9})?", fullmatch=True), max_size=2).map(tuple),
    mtu=st.none() | st.integers(68, 65535),
    table=st.sampled_from(["auto", "off", "main", "51820"]),
    pre_up=hooks,
    post_up=hooks,
    pre_down=hooks,
    post_down=hooks,
    save_config=st.booleans(),
)


@given(confs)
def test_a_configuration_survives_its_file(conf: Conf) -> None:
    assert parse_conf(render_conf(conf)) == conf


@given(configs(addresses), configs(addresses))
def test_a_configuration_survives_uapi_whatever_was_there_before(before: DeviceConfig, wanted: DeviceConfig) -> None:
    request = parse_request(render_set(update_from(wanted)).encode())
    assert isinstance(request, Update)
    assert apply_update(before, request) == wanted


@given(configs(addresses))
def test_what_get_shows_is_what_set_would_take(config: DeviceConfig) -> None:
    facts = ("last_handshake_time", "rx_bytes", "tx_bytes")
    lines = [line for line in render_get(config, {}).splitlines() if not line.startswith(facts)]
    request = parse_request(("set=1\n" + "\n".join(lines) + "\n").encode())
    assert isinstance(request, Update)
    assert apply_update(DeviceConfig(), request) == config


# Few keys and networks, so that changes meet: peers that exist, that come twice, networks that move.
few_keys = st.sampled_from([bytes([n]) * 32 for n in range(1, 4)] + [public_key(clamp(bytes([9]) * 32))])
few_networks = st.sampled_from([IPv4Network("10.0.0.0/8"), IPv4Network("10.0.0.0/16"), IPv6Network("::/0")])
peer_updates = st.builds(
    PeerUpdate,
    few_keys,
    remove=st.booleans(),
    update_only=st.booleans(),
    preshared_key=st.none() | st.just(ZERO_KEY) | keys,
    endpoint=st.none() | addresses,
    persistent_keepalive=st.none() | st.integers(0, 65535),
    replace_allowed_ips=st.booleans(),
    allowed_ips=st.lists(st.builds(AllowedIP, few_networks, st.booleans()), max_size=3).map(tuple),
)
updates = st.builds(
    Update,
    st.none() | st.sampled_from([ZERO_KEY, clamp(bytes([9]) * 32)]),
    st.none() | st.integers(0, 65535),
    st.none() | st.integers(0, 2**32 - 1),
    st.booleans(),
    st.lists(peer_updates, max_size=4).map(tuple),
)


def naive(config: DeviceConfig, update: Update) -> tuple[set[bytes], dict[IPNetwork, bytes]]:
    """Which peers there are and who owns each network, by the slowest possible means."""
    private = config.private_key if update.private_key is None else update.private_key
    own = public_key(private) if private and private != ZERO_KEY else None
    peers = set() if update.replace_peers else {peer.public_key for peer in config.peers}
    peers.discard(own)  # type: ignore[arg-type]
    owner = {net: peer.public_key for peer in config.peers for net in peer.allowed_ips if peer.public_key in peers}
    for change in update.peers:
        key = change.public_key
        if key == own or (change.update_only and key not in peers):
            continue
        if change.remove or change.replace_allowed_ips:
            owner = {net: holder for net, holder in owner.items() if holder != key}
        if change.remove:
            peers.discard(key)
            continue
        peers.add(key)
        for item in change.allowed_ips:
            if not item.remove:
                owner[item.network] = key
            elif owner.get(item.network) == key:
                del owner[item.network]
    return peers, owner


@given(st.lists(updates, max_size=3))
def test_any_sequence_of_updates_gives_the_peers_and_owners_of_the_naive_model(sequence: list[Update]) -> None:
    config = DeviceConfig()
    for update in sequence:
        peers, owner = naive(config, update)
        config = apply_update(config, update)
        assert {peer.public_key for peer in config.peers} == peers
        assert {net: peer.public_key for peer in config.peers for net in peer.allowed_ips} == owner


@given(updates)
def test_an_update_survives_its_text(update: Update) -> None:
    assert parse_request(render_set(update).encode()) == update


@given(st.lists(updates, min_size=1, max_size=3), st.data())
def test_requests_survive_any_tearing_of_the_stream(sequence: list[Update], data: st.DataObject) -> None:
    stream = "".join(map(render_set, sequence)).encode()
    connection, requests = Connection(), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        requests += connection.receive(stream[:size])
        stream = stream[size:]
    assert requests == sequence


conf_words = st.sampled_from([
    "[Interface]", "[Peer]", "PrivateKey", "PublicKey", "AllowedIPs", "Endpoint", "Address", "DNS", "MTU", "FwMark",
    "Table", "PostUp", "=", "=", "=", "#", ",", "\n", "\n", "\n", "::", "/", "%", "[", "]", ":", "10.0.0.0/8", "0x",
    "-1", "off", "true", "AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "\r", "\x00", "\ufeff", "é",
])  # fmt: skip


@given(st.lists(conf_words | st.text(max_size=5), max_size=40).map(" ".join))
def test_any_text_is_a_configuration_or_a_conf_error(text: str) -> None:
    try:
        conf = parse_conf(text)
    except ConfError as error:
        refusal = error
    else:
        assert parse_conf(render_conf(conf)) == conf
        return
    assert 1 <= refusal.line <= text.count("\n") + 1
    assert "\n" not in str(refusal)


@given(st.binary(max_size=200) | st.lists(st.sampled_from([b"set=1\n", b"public_key=", b"00" * 32, b"\n", b"endpoint=",
       b"allowed_ip=", b"-", b"::/0", b"[::1]:5", b"=", b"fwmark=", b"1"]), max_size=30).map(b"".join))  # fmt: skip
def test_any_bytes_are_requests_or_uapi_errors(data: bytes) -> None:
    connection = Connection()
    for request in [*connection.receive(data), *connection.receive(b"")]:
        if isinstance(request, UapiError):
            assert request.errno > 0
            assert "\n" not in str(request)
        elif isinstance(request, Update):
            apply_update(DeviceConfig(), request)
