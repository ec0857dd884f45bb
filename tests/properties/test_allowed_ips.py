"""The allowed-IPs trie against a walk over the list, with prefixes that nest and crowd."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import given, settings
from hypothesis import strategies as st

from native.allowedips import AllowedIPs

Route = tuple[IPv4Network | IPv6Network, int]


def words(bits: int) -> st.SearchStrategy[int]:
    """Addresses that share long prefixes: a few set bits, a few clear ones, or anything."""
    sparse = st.sets(st.integers(0, bits - 1), max_size=3).map(lambda at: sum(1 << bit for bit in at))
    return st.one_of(sparse, sparse.map(lambda word: word ^ ((1 << bits) - 1)), st.integers(0, 2**bits - 1))


NETWORK4 = st.builds(lambda word, length: IPv4Network((word, length), strict=False), words(32), st.integers(0, 32))
NETWORK6 = st.builds(lambda word, length: IPv6Network((word, length), strict=False), words(128), st.integers(0, 128))
ROUTES = st.lists(st.tuples(st.one_of(NETWORK4, NETWORK6), st.integers()), max_size=60)
ADDRESSES = st.lists(st.one_of(words(32).map(IPv4Address), words(128).map(IPv6Address)), max_size=40)


def naive_find(routes: list[Route], address: IPv4Address | IPv6Address) -> int | None:
    best: Route | None = None
    for network, owner in routes:
        if address in network and (best is None or network.prefixlen >= best[0].prefixlen):
            best = (network, owner)
    return best[1] if best else None


@settings(max_examples=200, deadline=None)
@given(routes=ROUTES, addresses=ADDRESSES)
def test_the_trie_finds_what_a_walk_over_the_list_finds(
    routes: list[Route], addresses: list[IPv4Address | IPv6Address]
) -> None:
    table = AllowedIPs(routes)
    edges = [edge for network, _ in routes for edge in (network[0], network[-1])]
    for address in [*addresses, *edges]:
        assert table.find(address) == naive_find(routes, address)
