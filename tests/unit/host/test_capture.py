"""The capture's rules and routes as values."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from engine.host.capture import (
    LOWEST_END,
    MAIN,
    PRIORITIES,
    PRIORITY_ALL,
    PRIORITY_API,
    PRIORITY_DNS,
    PRIORITY_END,
    PRIORITY_LAN,
    PRIORITY_LOCAL_DNS,
    PRIORITY_MARKED,
    Capture,
    Endpoint,
    Rule,
    rules,
)

MARK = 0x6D6F6C65


def test_all_unmarked_packets_of_both_families_go_to_our_table() -> None:
    for version in (4, 6):
        found = rules(Capture("mh0", MARK), version)
        assert Rule(version, PRIORITY_ALL, MARK, mark=MARK, unmarked=True) in found


def test_the_engines_own_packets_skip_every_exception() -> None:
    own = next(rule for rule in rules(Capture("mh0", MARK), 4) if rule.priority == PRIORITY_MARKED)
    assert (own.mark, own.goto, own.table) == (MARK, PRIORITY_END, None)


def test_without_exceptions_nothing_asks_the_main_table() -> None:
    for version in (4, 6):
        assert all(rule.table != MAIN for rule in rules(Capture("mh0", MARK), version))


def test_dns_is_caught_before_the_lan_is_let_past() -> None:
    capture = Capture("mh0", MARK, lan=(ip_network("192.168.0.0/16"),))
    assert PRIORITY_DNS < PRIORITY_LAN
    ports = [(rule.protocol, rule.port) for rule in rules(capture, 4) if rule.priority == PRIORITY_DNS]
    assert ports == [(17, 53), (6, 53)]


def test_a_lan_range_counts_only_where_main_has_a_route_of_its_own_for_it() -> None:
    capture = Capture("mh0", MARK, lan=(ip_network("10.0.0.0/8"), ip_network("fe80::/10")))
    for version in (4, 6):
        lan = [rule for rule in rules(capture, version) if rule.priority == PRIORITY_LAN]
        assert [(rule.table, rule.specific) for rule in lan] == [(MAIN, True)]


def test_multicast_and_broadcast_of_the_lan_may_use_the_default_route() -> None:
    nets = (ip_network("239.0.0.0/8"), ip_network("255.255.255.255/32"))
    lan = [r for r in rules(Capture("mh0", MARK, lan=nets), 4) if r.priority == PRIORITY_LAN]
    assert [rule.specific for rule in lan] == [False, False]


def test_a_local_dns_server_is_reached_outside_by_port_53_alone() -> None:
    capture = Capture("mh0", MARK, local_dns=(ip_address("192.168.1.53"),))
    dns = [rule for rule in rules(capture, 4) if rule.priority == PRIORITY_LOCAL_DNS]
    assert [(str(r.to), r.protocol, r.port, r.table) for r in dns] == [
        ("192.168.1.53/32", 17, 53, MAIN),
        ("192.168.1.53/32", 6, 53, MAIN),
    ]
    assert not [rule for rule in rules(capture, 6) if rule.priority == PRIORITY_LOCAL_DNS]


def test_the_api_is_reached_outside_by_root_itself_at_its_port_alone() -> None:
    capture = Capture("mh0", MARK, api=Endpoint(ip_address("203.0.113.7"), 443, 6))
    [api] = [rule for rule in rules(capture, 4) if rule.table == MAIN]
    assert (api.priority, str(api.to), api.protocol, api.port, api.uid, api.incoming) == (
        PRIORITY_API, "203.0.113.7/32", 6, 443, 0, "lo"
    )  # fmt: skip
    assert all(rule.table != MAIN for rule in rules(capture, 6))


def test_a_scope_stays_out_of_the_rules() -> None:
    scoped = ip_address("fe80::1%eth0")
    capture = Capture("mh0", MARK, local_dns=(scoped,), api=Endpoint(scoped, 443, 6))
    found = [rule.to for rule in rules(capture, 6) if rule.to is not None]
    assert found == [ip_network("fe80::1/128")] * 3


def test_a_list_of_included_users_captures_nobody_else() -> None:
    found = rules(Capture("mh0", MARK, included_uids=(1000,)), 4)
    assert all(rule.uid == 1000 for rule in found if rule.table == MARK)


def test_at_the_front_the_rules_are_the_same_in_the_same_order() -> None:
    capture = Capture(
        "mh0", MARK, lan=(ip_network("10.0.0.0/8"),), local_dns=(ip_address("192.168.1.53"),), guests=True,
        api=Endpoint(ip_address("203.0.113.7"), 443, 6), excluded_uids=(7,),
    )  # fmt: skip
    for version in (4, 6):
        usual, low = rules(capture, version), rules(capture, version, low=True)
        assert [PRIORITIES[rule.priority - 1] for rule in low] == [rule.priority for rule in usual]
        assert max(rule.priority for rule in low) == LOWEST_END < PRIORITY_MARKED
        assert [rule.goto for rule in low if rule.goto is not None] == [LOWEST_END]
