"""Endpoints as values, as text, and as the 48 bytes the native side shares."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.endpoint import ENDPOINT_LEN, Endpoint

ports = st.integers(1, 65535)
numbers = st.integers(0, 2**32 - 1)
endpoints = st.one_of(
    st.builds(Endpoint, st.ip_addresses(v=4), ports, st.just(0), st.none() | st.ip_addresses(v=4), numbers),
    st.builds(Endpoint, st.ip_addresses(v=6), ports, numbers, st.none() | st.ip_addresses(v=6), numbers),
)


@given(endpoints)
def test_packing_loses_nothing(endpoint: Endpoint) -> None:
    back = Endpoint.unpack(endpoint.pack())
    assert back is not None
    assert (back, back.local, back.ifindex) == (endpoint, endpoint.local, endpoint.ifindex)


def test_no_endpoint_is_none() -> None:
    assert Endpoint.unpack(bytes(ENDPOINT_LEN)) is None


def test_the_sticky_source_is_no_part_of_the_identity() -> None:
    plain = Endpoint(IPv4Address("192.0.2.1"), 51820)
    sticky = Endpoint(IPv4Address("192.0.2.1"), 51820, local=IPv4Address("192.0.2.9"), ifindex=3)
    assert plain == sticky
    assert hash(plain) == hash(sticky)


@pytest.mark.parametrize(
    ("endpoint", "text"),
    [
        (Endpoint(IPv4Address("192.0.2.1"), 51820), "192.0.2.1:51820"),
        (Endpoint(IPv6Address("2001:db8::1"), 1), "[2001:db8::1]:1"),
        (Endpoint(IPv6Address("fe80::1"), 1, scope=3), "[fe80::1%3]:1"),
    ],
)
def test_it_reads_as_wg_writes_it(endpoint: Endpoint, text: str) -> None:
    assert str(endpoint) == text


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_a_port_outside_its_range_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="1 to 65535"):
        Endpoint(IPv4Address("192.0.2.1"), port)


def test_a_local_address_of_the_other_family_is_refused() -> None:
    with pytest.raises(ValueError, match="not of the family"):
        Endpoint(IPv4Address("192.0.2.1"), 1, local=IPv6Address("::1"))
