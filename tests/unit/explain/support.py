"""Settings that the tests of this folder share."""

from engine.policy import Platform

LINUX = Platform.LINUX

EVERYTHING = {
    "peer": ["198.51.100.7:51820/udp"],
    "api": ["192.0.2.80:443/tcp"],
    "tunnel": ["wg0"],
    "tunnel-address": ["10.64.0.2", "fc00:bbbb::2"],
    "gateway": ["10.64.0.1", "fc00:bbbb::1"],
}
