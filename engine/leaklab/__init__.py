"""The leak lab: molehill from outside, in network namespaces, by everything that might get a packet past it."""
