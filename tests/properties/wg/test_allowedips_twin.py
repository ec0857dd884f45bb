"""The prefix table against a naive twin: a list that is searched from end to end."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from engine.wg.allowedips import AllowedIPs, Network

# Few bits vary, so that prefixes nest and collide.
v4 = st.integers(0, 15).map(lambda n: 0x0A000000 | (n & 3) | (n & 12) << 14)
v6 = st.integers(0, 15).map(lambda n: 0xFD << 120 | (n & 3) | (n & 12) << 62)
networks: st.SearchStrategy[Network] = st.one_of(
    st.builds(lambda bits, length: IPv4Network((bits, length), strict=False), v4, st.integers(0, 32)),
    st.builds(lambda bits, length: IPv6Network((bits, length), strict=False), v6, st.integers(0, 128)),
)
owners = st.sampled_from("abc")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), networks, owners),
        st.tuples(st.just("remove"), networks, owners),
        st.tuples(st.just("replace"), st.lists(networks, unique=True, max_size=3).map(tuple), owners),
        st.tuples(st.just("remove_owner"), st.none(), owners),
    ),
    max_size=30,
)


@given(steps, st.lists(st.one_of(v4.map(IPv4Address), v6.map(IPv6Address)), max_size=10))
def test_the_table_finds_what_a_search_through_all_prefixes_finds(
    steps: list[tuple[str, Any, str]], addresses: list[IPv4Address | IPv6Address]
) -> None:
    table: AllowedIPs[str] = AllowedIPs()
    twin: dict[Network, str] = {}
    for action, network, owner in steps:
        if action == "add":
            table.add(network, owner)
            twin[network] = owner
        elif action == "remove":
            table.remove(network, owner)
            if twin.get(network) == owner:
                del twin[network]
        else:
            if action == "replace":
                table.replace(owner, network)
            else:
                table.remove_owner(owner)
            twin = {network: other for network, other in twin.items() if other != owner}
            twin |= dict.fromkeys(network or (), owner)
    assert dict(table) == twin
    for owner in "abc":
        assert set(table.of(owner)) == {network for network, other in twin.items() if other == owner}
    for address in addresses:
        covering = [network for network in twin if address.version == network.version and address in network]
        longest = max(covering, key=lambda network: network.prefixlen, default=None)
        assert table.find(address.packed) == (twin[longest] if longest else None)
