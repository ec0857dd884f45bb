"""Interop: our engine against Debian's wireguard-go, over real namespaces."""
