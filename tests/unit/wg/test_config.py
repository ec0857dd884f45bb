from ipaddress import ip_network

import pytest

from engine.wg.config import DeviceConfig, HostPort, PeerConfig, parse_network

KEY, OTHER = bytes([1]) * 32, bytes([2]) * 32
NET = ip_network("10.0.0.0/8")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("192.0.2.1:51820", "192.0.2.1", 51820),
        ("[2001:DB8:0::1]:1", "2001:db8::1", 1),
        ("[fe80::1%eth0]:65535", "fe80::1%eth0", 65535),
        ("relay-1.example.org:443", "relay-1.example.org", 443),
        ("localhost.:443", "localhost.", 443),
    ],
)
def test_an_endpoint_is_an_address_or_a_name_and_a_port(text: str, host: str, port: int) -> None:
    endpoint = HostPort.parse(text)
    assert (endpoint.host, endpoint.port) == (host, port)
    assert HostPort.parse(str(endpoint)) == endpoint
    assert (endpoint.address is None) == host[0].isalpha() or host.startswith("fe80")


@pytest.mark.parametrize(
    "text",
    ["", ":", "a", "a:", ":5", "a:65536", "a:0", "a:+5", "a:٥", "[::1]5", "[::1:5", "::1]:5", "fe80::1%a b:5",
     "[fe80::1%a/b]:5", "[fe80::1%]:5", "[fe80::1%a\n]:5", "1.2.3.4.5:6", "256.1.1.1:6", "-a:5", "a..b:5", "ä:5",
     "a/b:5", "x" * 254 + ":5"],
)  # fmt: skip
def test_everything_else_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match=r"port|host|brackets"):
        HostPort.parse(text)


def test_a_network_loses_the_bits_beyond_its_length() -> None:
    assert parse_network("10.1.2.3/8") == NET
    assert parse_network("10.1.2.3") == ip_network("10.1.2.3/32")
    assert parse_network("2001:db8::1/32") == ip_network("2001:db8::/32")


@pytest.mark.parametrize(
    "text", ["", "/8", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/255.0.0.0", "::/129", "fe80::%1/64", "1/8"]
)
def test_everything_else_is_no_network(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_network(text)


def test_a_value_that_cannot_be_put_to_work_cannot_be_made() -> None:
    for make in (
        lambda: PeerConfig(b"short"),
        lambda: PeerConfig(KEY, preshared_key=bytes(32)),
        lambda: PeerConfig(KEY, preshared_key=b"short"),
        lambda: PeerConfig(KEY, persistent_keepalive=65536),
        lambda: PeerConfig(KEY, allowed_ips=(NET, NET)),
        lambda: DeviceConfig(private_key=bytes(32)),
        lambda: DeviceConfig(private_key=b"short"),
        lambda: DeviceConfig(listen_port=-1),
        lambda: DeviceConfig(fwmark=1 << 32),
        lambda: DeviceConfig(peers=(PeerConfig(KEY), PeerConfig(KEY))),
        lambda: DeviceConfig(peers=(PeerConfig(KEY, allowed_ips=(NET,)), PeerConfig(OTHER, allowed_ips=(NET,)))),
    ):
        with pytest.raises(ValueError, match=r"key|keepalive|address|port|mark"):
            make()


def test_roamed_endpoints_replace_the_configured_ones() -> None:
    here, there = HostPort("192.0.2.1", 1), HostPort("192.0.2.2", 2)
    config = DeviceConfig(peers=(PeerConfig(KEY, endpoint=here), PeerConfig(OTHER, endpoint=here)))
    roamed = config.with_endpoints({KEY: there})
    assert [peer.endpoint for peer in roamed.peers] == [there, here]
