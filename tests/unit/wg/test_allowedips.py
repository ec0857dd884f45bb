"""Cryptokey routing: longest prefix, moves between owners."""

from ipaddress import ip_address, ip_network

from engine.wg.allowedips import AllowedIPs


def find(table: AllowedIPs[str], address: str) -> str | None:
    return table.find(ip_address(address).packed)


def test_the_longest_prefix_wins() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    table.add(ip_network("0.0.0.0/0"), "all")
    table.add(ip_network("10.0.0.0/8"), "ten")
    table.add(ip_network("10.1.2.3/32"), "one")
    assert find(table, "192.0.2.1") == "all"
    assert find(table, "10.9.9.9") == "ten"
    assert find(table, "10.1.2.3") == "one"
    assert find(table, "::") is None


def test_families_do_not_mix() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    table.add(ip_network("::/0"), "six")
    assert find(table, "0.0.0.0") is None
    assert find(table, "2001:db8::1") == "six"


def test_a_prefix_moves_to_its_new_owner() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    table.add(ip_network("10.0.0.0/8"), "a")
    table.add(ip_network("10.0.0.0/8"), "b")
    assert find(table, "10.0.0.1") == "b"
    assert table.of("a") == ()
    assert table.of("b") == (ip_network("10.0.0.0/8"),)
    table.remove(ip_network("10.0.0.0/8"), "a")
    assert find(table, "10.0.0.1") == "b"


def test_removing_uncovers_the_shorter_prefix() -> None:
    table: AllowedIPs[str] = AllowedIPs()
    table.add(ip_network("10.0.0.0/8"), "a")
    table.add(ip_network("10.1.0.0/16"), "b")
    table.remove_owner("b")
    assert find(table, "10.1.0.1") == "a"
    table.remove(ip_network("10.0.0.0/8"), "a")
    assert find(table, "10.1.0.1") is None
    assert len(table) == 0
    assert list(table) == []
