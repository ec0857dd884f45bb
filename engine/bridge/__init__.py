"""The first hop over a bridge: WireGuard's datagrams inside a TCP connection, or inside Shadowsocks packets.

It knows addresses, ports and bytes, nothing of policies or tunnels. A bridge hides what is carried from an observer of
the wire, in part; it is no security boundary, and nothing rests on it.
"""

from engine.bridge.client import Bridge, open_bridge
from engine.bridge.settings import BridgeError, BridgeSettings, Cipher, Kind, endpoint_text, parse_endpoint

__all__ = [
    "Bridge",
    "BridgeError",
    "BridgeSettings",
    "Cipher",
    "Kind",
    "endpoint_text",
    "open_bridge",
    "parse_endpoint",
]
