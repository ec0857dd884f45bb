"""Allowed IPs: the longest prefix wins, in either family, and nothing else does."""

from ipaddress import ip_address, ip_network

import pytest

from native.allowedips import AllowedIPs

TABLE = AllowedIPs(
    (ip_network(prefix), prefix)
    for prefix in (
        "0.0.0.0/0",
        "10.0.0.0/8",
        "10.1.0.0/16",
        "10.1.2.0/24",
        "10.1.2.3/32",
        "192.168.0.0/17",
        "fd00::/8",
        "fd00:1::/32",
        "fd00:1::7/128",
    )
)


@pytest.mark.parametrize(
    ("address", "prefix"),
    [
        ("0.0.0.0", "0.0.0.0/0"),
        ("255.255.255.255", "0.0.0.0/0"),
        ("10.255.0.1", "10.0.0.0/8"),
        ("10.1.255.1", "10.1.0.0/16"),
        ("10.1.2.255", "10.1.2.0/24"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("192.168.127.255", "192.168.0.0/17"),
        ("192.168.128.0", "0.0.0.0/0"),
        ("fdff::1", "fd00::/8"),
        ("fd00:1:ffff::1", "fd00:1::/32"),
        ("fd00:1::7", "fd00:1::7/128"),
        ("fd00:1::6", "fd00:1::/32"),
        ("2001:db8::1", None),
        ("::ffff:10.1.2.3", None),
    ],
)
def test_the_longest_prefix_that_contains_an_address_owns_it(address: str, prefix: str | None) -> None:
    assert TABLE.find(ip_address(address)) == prefix


def test_an_empty_table_owns_nothing() -> None:
    table: AllowedIPs[str] = AllowedIPs([])
    assert table.find(ip_address("10.0.0.1")) is None
    assert table.find(ip_address("fd00::1")) is None


def test_a_default_route_owns_its_whole_family_and_no_other() -> None:
    table = AllowedIPs([(ip_network("::/0"), "six")])
    assert table.find(ip_address("::")) == "six"
    assert table.find(ip_address("ffff:" * 7 + "ffff")) == "six"
    assert table.find(ip_address("0.0.0.0")) is None


def test_of_equal_prefixes_the_last_wins() -> None:
    table = AllowedIPs([(ip_network("10.0.0.0/8"), owner) for owner in ("first", "second", "third")])
    assert table.find(ip_address("10.0.0.1")) == "third"


def test_owners_that_are_false_are_found_all_the_same() -> None:
    table = AllowedIPs([(ip_network("10.0.0.0/8"), 0)])
    assert table.find(ip_address("10.0.0.1")) == 0
