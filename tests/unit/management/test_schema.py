"""The management interface's schema, and the client against a server of a few lines."""

import asyncio
import json
import socket
import threading
from pathlib import Path

import msgspec
import pytest

from engine.management import schema
from engine.management.__main__ import text
from engine.management.client import AsyncClient, Client, ManagementError


def test_every_method_has_a_sentence_and_the_schema_names_them_all() -> None:
    exported = schema.json_schema()
    assert set(exported["methods"]) == set(schema.METHODS)
    assert all(method["does"].endswith(".") for method in exported["methods"].values())
    assert exported["errors"]["wrong-state"] == 3
    json.dumps(exported)  # plain data


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown"):
        msgspec.json.decode(b'{"allow_lan": true, "allow_wan": true}', type=schema.SettingsPatch)


def test_a_patch_tells_left_out_from_none() -> None:
    patch = msgspec.json.decode(b'{"mtu": null}', type=schema.SettingsPatch)
    assert patch.mtu is None
    assert patch.api is msgspec.UNSET
    assert msgspec.json.encode(patch) == b'{"mtu":null}'


def test_no_result_has_a_field_for_a_secret() -> None:
    told = json.dumps({name: method["result"] for name, method in schema.json_schema()["methods"].items()})
    types = [schema.Settings, schema.Bridge, schema.TunnelInfo, schema.Relay, schema.Status, schema.PeerInfo]
    fields = {field for struct in types for field in struct.__struct_fields__}
    assert not {f for f in fields if "password" in f or "private" in f or "preshared" in f}
    assert "password" not in told


class Server(threading.Thread):
    """Answers each request with the next of the given texts; `{id}` is the request's."""

    def __init__(self, path: Path, answers: list[str]) -> None:
        super().__init__(daemon=True)
        self._answers, self.asked = answers, list[str]()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self.start()

    def run(self) -> None:
        connection, _ = self._socket.accept()
        with connection, self._socket, connection.makefile("rwb", buffering=0) as lines:
            for answer, line in zip(self._answers, lines, strict=False):
                self.asked.append(line.decode())
                lines.write(answer.replace("{id}", str(json.loads(line)["id"])).encode())


HELLO = '{"jsonrpc":"2.0","id":{id},"result":{"protocol":1,"version":"0","pid":1,"netns":2}}\n'
EVENT = '{"jsonrpc":"2.0","method":"event","params":{"type":"relays","count":3}}\n'
REFUSAL = '{"jsonrpc":"2.0","id":{id},"error":{"code":3,"message":"not connected","data":{"kind":"wrong-state"}}}\n'


def test_a_call_gives_its_result_and_keeps_the_events_that_came_before_it(tmp_path: Path) -> None:
    server = Server(tmp_path / "s", [EVENT + HELLO])
    with Client(tmp_path / "s") as client:
        assert client.call("hello", None, schema.Hello).pid == 1
        assert next(client.events()) == schema.RelaysEvent(count=3)
    server.join(5)
    assert json.loads(server.asked[0]) == {"jsonrpc": "2.0", "id": 1, "method": "hello"}


def test_a_refusal_is_an_error_with_the_daemons_sentence_and_code(tmp_path: Path) -> None:
    server = Server(tmp_path / "s", [REFUSAL])
    with Client(tmp_path / "s") as client, pytest.raises(ManagementError, match="not connected") as caught:
        client.call("reconnect", None, schema.Status)
    server.join(5)
    assert caught.value.code is schema.ErrorCode.WRONG_STATE


def test_a_daemon_that_hangs_up_or_talks_nonsense_is_an_error_in_words(tmp_path: Path) -> None:
    for number, answer in enumerate(['{"id"', "nonsense\n", '{"jsonrpc":"2.0","id":{id},"result":{"protocol":"x"}}\n']):
        server = Server(tmp_path / f"s{number}", [answer])
        with Client(tmp_path / f"s{number}") as client, pytest.raises(ManagementError, match="daemon"):
            client.call("hello", None, schema.Hello)
        server.join(5)


def test_where_nobody_listens_the_user_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ManagementError, match="systemctl start molehill"):
        Client(tmp_path / "none")


def test_the_asyncio_client_does_the_same(tmp_path: Path) -> None:
    async def ask() -> None:
        client = await AsyncClient.connect(tmp_path / "s")
        assert (await client.call("hello", None, schema.Hello)).netns == 2
        assert await anext(client.events()) == schema.RelaysEvent(count=3)
        with pytest.raises(ManagementError, match="not connected"):
            await client.call("reconnect", None, schema.Status)
        await client.close()

    server = Server(tmp_path / "s", [EVENT + HELLO, REFUSAL])
    asyncio.run(ask())
    server.join(5)


DOCS = Path(__file__).parents[3] / "docs"


def test_the_exported_schema_is_current() -> None:
    shown = (DOCS / "management.schema.json").read_text()
    assert shown == text(), "run: python -m engine.management > docs/management.schema.json"


def test_the_page_has_every_method_and_every_error() -> None:
    page = (DOCS / "management.md").read_text()
    for name, method in schema.METHODS.items():
        assert f"| `{name}` | {method.does} |\n" in page
    for name, number in schema.json_schema()["errors"].items():
        assert number < 0 or f"`{name}` {number}" in page
