"""The leak lab: real namespaces, a real TUN, a real capture on the provider's side of the wire."""
