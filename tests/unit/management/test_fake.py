"""The fake daemon keeps to the schema, so that what is tested against it means something."""

from pathlib import Path

import pytest

from engine.management import schema
from engine.management.client import Client, ManagementError
from tests.management_fake import FakeDaemon, Refused

CONF = """
[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.64.0.3/32
[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
Endpoint = 192.0.2.8:51820
"""


def test_it_answers_every_method_of_the_schema(tmp_path: Path) -> None:
    params = {
        "settings.set": schema.SettingsPatch(allow_lan=True),
        "bridge.set": schema.SetBridge(None),
        "tunnel.import": schema.ImportTunnel("work", CONF),
        "tunnel.remove": schema.Name("work"),
        "relay.load": schema.RelayList(),
        "explain": schema.Packet("out other udp 192.0.2.1:1 > 192.0.2.2:2"),
        "debug.block": schema.Detail("because"),
    }
    with FakeDaemon(tmp_path / "s") as daemon, Client(tmp_path / "s") as client:
        for name, method in schema.METHODS.items():
            daemon.show(state="connecting")  # in which every method means something
            client.call(name, params.get(name), method.result)
        assert {name for name, _ in daemon.asked} == set(schema.METHODS)


def test_a_connect_comes_to_connected_and_subscribers_see_each_step(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s") as daemon, Client(tmp_path / "s") as one, Client(tmp_path / "s") as other:
        one.call("subscribe", None, schema.Status)
        other.call("connect", None, schema.Status)
        daemon.log("not for who did not ask for the log")
        other.call("settings.set", schema.SettingsPatch(allow_lan=True), schema.Settings)
        seen = [next(one.events(5)) for _ in range(4)]
        assert [event.status.state for event in seen if isinstance(event, schema.StatusEvent)] == [
            "connecting",
            "connected",
            "connected",
        ]
        assert isinstance(seen[2], schema.SettingsEvent)


def test_it_refuses_what_it_is_told_to_and_comes_back_after_a_stop(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "s") as daemon:
        daemon.refuses["connect"] = Refused(schema.ErrorCode.FAILED, "no TUN device")
        with Client(tmp_path / "s") as client:
            with pytest.raises(ManagementError, match="no TUN device"):
                client.call("connect", None, schema.Status)
            daemon.stop()
            with pytest.raises(ManagementError, match="closed the connection"):
                client.call("status", None, schema.Status)
        with pytest.raises(ManagementError, match="not running"):
            Client(tmp_path / "s")
        daemon.start()
        with Client(tmp_path / "s") as client:
            assert client.call("status", None, schema.Status).state == "disconnected"
