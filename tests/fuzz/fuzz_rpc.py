"""Fuzz the management interface's requests: python tests/fuzz/fuzz_rpc.py -runs=100000 [libFuzzer options].

Any line is a request that the schema allows, or a refusal of one line; a request means the same when it is written
again, and what it sets is taken or refused with a sentence. JSON is decoded by C that the fuzzer does not see into, so
the lines are made of the schema's own words, and then damaged or not.
"""

import json
import sys
from pathlib import Path
from typing import Any

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["engine.daemon", "engine.explain.settings", "engine.bridge.settings"]):
    from engine.daemon import relays, rpc, settings

import msgspec

from engine.management import schema

KEY = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
WORDS = [
    "", "tunnel", "relay", "se", "me", "9.9.9.9", "192.168.1.53", "2001:db8::1", "0.0.0.0", "::", "::ffff:1.2.3.4",
    "203.0.113.7:443/tcp", "[2001:db8::7]:443/udp", "203.0.113.9:443", "[2001:db8::9]:443", "udp-over-tcp",
    "shadowsocks", "aes-256-gcm", "rot13", KEY, "\n", "\u0000", "\ud7ff", "x" * 100,
]  # fmt: skip
RELAY = {
    "hostname": "a", "country": "se", "city": "b", "public_key": KEY, "ipv4": "198.51.100.1", "ipv6": "2001:db8::1",
    "port": 51820, "gateways": ["10.64.0.1", "fc00::1"], "weight": 1, "active": True,
    "bridges": [{"kind": "shadowsocks", "port": 443, "cipher": "aes-256-gcm"}],
}  # fmt: skip
RIGHT: list[tuple[str, Any]] = [
    *((name, {}) for name, method in schema.METHODS.items() if not method.params.__struct_fields__),
    ("settings.set", {"dns": ["9.9.9.9", "10.0.0.53"], "mtu": 1400, "api": "[2001:db8::7]:443/tcp"}),
    ("settings.set", {"choice": {"by": "relay", "identity": "me", "country": "se", "ip_version": 6}}),
    ("settings.set", {"choice": {"by": "tunnel", "name": "se1"}, "allow_lan": True, "auto_connect": False}),
    (
        "bridge.set",
        {"bridge": {"kind": "shadowsocks", "endpoint": "1.2.3.4:5", "cipher": "aes-256-gcm"}, "password": "x"},
    ),
    ("bridge.set", {"bridge": {"kind": "udp-over-tcp", "endpoint": "[2001:db8::9]:443"}}),
    ("tunnel.import", {"name": "se1", "conf": "[Interface]", "replace": True}),
    ("tunnel.remove", {"name": "se1"}),
    ("relay.load", {"version": 1, "relays": [RELAY, {**RELAY, "hostname": "b", "weight": 0}]}),
    ("explain", {"packet": "out other udp 1.2.3.4:5 > 6.7.8.9:10"}),
    ("log", {"lines": 10}),
    ("subscribe", {"log": True}),
]


def value(data: atheris.FuzzedDataProvider, depth: int = 2) -> Any:
    """Any JSON, of words that mean something somewhere."""
    match data.ConsumeIntInRange(0, 7 if depth else 5):
        case 0:
            return None
        case 1:
            return data.ConsumeBool()
        case 2:
            return data.ConsumeIntInRange(-1, 70000)
        case 3:
            return data.ConsumeInt(8)
        case 4:
            return data.PickValueInList(WORDS)
        case 5:
            return data.ConsumeFloat()
        case 6:
            return [value(data, depth - 1) for _ in range(data.ConsumeIntInRange(0, 3))]
        case _:
            return {data.PickValueInList(WORDS): value(data, depth - 1)}


def damaged(data: atheris.FuzzedDataProvider, right: Any) -> Any:
    """The same with here and there something else in a thing's place, or nothing."""
    if data.ConsumeIntInRange(0, 15) == 15:
        return value(data)
    if isinstance(right, dict):
        return {key: damaged(data, it) for key, it in right.items() if data.ConsumeIntInRange(0, 31) != 31}
    if isinstance(right, list):
        return [damaged(data, it) for it in right]
    return right


def line(data: atheris.FuzzedDataProvider) -> bytes:
    """A request, or nearly one."""
    method, params = data.PickValueInList(RIGHT)
    asked = damaged(data, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
    text = bytearray(json.dumps(asked).encode())
    if data.ConsumeIntInRange(0, 15) == 15:
        at = data.ConsumeIntInRange(0, len(text))
        text[at : at + data.ConsumeIntInRange(0, 3)] = data.ConsumeBytes(4)
    return bytes(text)


def one_input(raw: bytes) -> None:
    data = atheris.FuzzedDataProvider(raw)
    judge(raw if data.ConsumeIntInRange(0, 15) == 15 else line(data))


def judge(text: bytes) -> None:
    try:
        request = rpc.parse(text)
    except rpc.Refused as refused:
        said = rpc.refusal(refused)
        if said.count(b"\n") != 1 or not said.endswith(b"\n"):
            raise RuntimeError(f"a refusal that is not a line: {said!r}") from refused
        return
    if not isinstance(request.params, schema.METHODS[request.method].params):
        raise RuntimeError("parameters of another method")
    again = {"jsonrpc": "2.0", "id": request.number, "method": request.method, "params": request.params}
    if rpc.parse(msgspec.json.encode(again)) != request:
        raise RuntimeError("the request changed on its way through its text")
    try:
        match request.params:
            case schema.SettingsPatch():
                settings.patched(schema.Settings(), request.params)
            case schema.RelayList():
                relays.check(request.params)
                relays.choose(request.params, schema.RelayChoice("me"), bytes(16))
            case schema.SetBridge(schema.Bridge() as bridge, password):
                settings.bridge_of(bridge, password or "")
    except ValueError as error:
        if not str(error):
            raise RuntimeError("a refusal without a word") from error


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-max_len=400", *sys.argv[1:]], one_input)
    atheris.Fuzz()
