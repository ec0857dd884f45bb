"""The keys, the settings, and a daemon that goes and comes back: the real application before a fake daemon."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot

from engine.management import schema
from engine.management.schema import ErrorCode, SettingsPatch
from engine.tui import link
from engine.tui.app import MolehillApp
from engine.tui.letters import big
from tests import management_fake as fake
from tests.management_fake import FakeDaemon, Refused
from tests.unit.tui.scenes import HOME, LATER, RELAY, SCENES, STRICT, Scene, hero, playing, text_of, until

SIZE = (80, 24)


class Played:
    """A scene being played: what a user does and sees."""

    def __init__(self, app: MolehillApp, pilot: Pilot[None], daemon: FakeDaemon) -> None:
        self.app, self.pilot, self.daemon = app, pilot, daemon

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()

    async def sees(self, text: str) -> None:
        await until(self.pilot, lambda: text in "\n".join(text_of(self.app)))

    async def until(self, reached: Callable[[], bool]) -> None:
        await until(self.pilot, reached)

    def dialog(self) -> str:
        """The name of what is open above the screen, or nothing."""
        return type(self.app.screen).__name__ if len(self.app.screen_stack) > 1 else ""

    async def settled(self) -> None:
        """All that was asked of the daemon before is answered."""
        await self.until(lambda: all(worker.name == "run" for worker in self.app.workers))


@asynccontextmanager
async def played(folder: Path, scene: Scene) -> AsyncIterator[Played]:
    async with playing(scene, folder, SIZE) as (app, pilot, daemon):
        yield Played(app, pilot, daemon)


def shows(app: MolehillApp, word: str, *, large: bool) -> bool:
    """Whether this word alone is there, whole, in letters of this size."""
    text, rows = "\n".join(text_of(app)), big(word).splitlines()
    return all((row in text) is large for row in rows) and (word in text) is not large


# Keys


def test_c_connects_and_r_reconnects_and_the_screen_follows(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["disconnected"]) as it:
            await it.press("r")  # means nothing while disconnected
            await it.press("c")
            await it.until(lambda: "connected" in hero(it.app))
            await it.press("c")  # nor this while connected
            await it.press("r")
            await it.until(lambda: bool(it.daemon.asked_for("reconnect")))
            await it.settled()
            assert len(it.daemon.asked_for("connect")) == len(it.daemon.asked_for("reconnect")) == 1

    asyncio.run(story())


def test_ks1_a_disconnect_that_opens_is_asked_about_and_only_y_means_yes(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            for no in ("escape", "n", "enter", "q"):
                await it.press("d")
                assert it.dialog() == "Confirm"
                await it.press(no)
                assert it.dialog() == ""
            await it.settled()
            assert not it.daemon.asked_for("disconnect")
            await it.press("d", "y")
            await it.until(lambda: "disconnected" in hero(it.app))
            assert len(it.daemon.asked_for("disconnect")) == 1

    asyncio.run(story())


def test_a_disconnect_that_opens_nothing_is_not_asked_about(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, Scene(fake.CONNECTED, STRICT)) as it:
            await it.press("d")
            await it.until(lambda: "locked" in hero(it.app))
            await it.sees("Everything is blocked: a VPN is required")

    asyncio.run(story())


def test_what_the_daemon_refuses_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["disconnected"]) as it:
            it.daemon.refuses["connect"] = Refused(ErrorCode.BAD_INPUT, "no tunnel is [chosen]")
            await it.press("c")
            await it.sees("no tunnel is [chosen]")

    asyncio.run(story())


def test_help_and_details_open_and_close_and_keys_below_them_do_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            for key in ("question_mark", "i"):
                await it.press(key)
                assert it.dialog() == "Reading"
                await it.press("escape")
                assert it.dialog() == ""

    asyncio.run(story())


def test_dark_and_light_change_places(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            before = it.app.theme
            await it.press("ctrl+t")
            assert it.app.theme != before
            await it.press("ctrl+t")
            assert it.app.theme == before

    asyncio.run(story())


def test_events_scroll_by_keys(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            assert "molehill 0.1.0 serves" not in "\n".join(text_of(it.app))
            await it.press(*["pagedown"] * 6)
            await it.sees("molehill 0.1.0 serves")
            await it.press(*["pageup"] * 6)
            await it.sees("the resolver's file was overwritten")

    asyncio.run(story())


@pytest.mark.parametrize(("name", "word"), [("connected", "CONNECTED"), ("disconnected", "DISCONNECTED")])
def test_the_word_is_in_large_letters_where_they_have_room_and_follows_the_window(
    tmp_path: Path, name: str, word: str
) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES[name]) as it:
            await it.sees(big(word).splitlines()[0])
            for size in ((40, 12), (60, 14), SIZE):
                await it.pilot.resize_terminal(*size)
                large = size == SIZE or (size[0] == 60 and word == "CONNECTED")
                await it.until(lambda large=large: shows(it.app, word, large=large))

    asyncio.run(story())


@pytest.mark.parametrize(("size", "large"), [((40, 12), False), ((60, 14), False), (SIZE, True)])
def test_a_window_that_is_small_from_the_start_has_the_plain_word(
    tmp_path: Path, size: tuple[int, int], large: bool
) -> None:
    async def story() -> None:
        async with playing(SCENES["disconnected"], tmp_path, size) as (app, pilot, _):
            app.screen.scroll_home(animate=False)  # it begins at the settings, which have the focus
            await until(pilot, lambda: shows(app, "DISCONNECTED", large=large))

    asyncio.run(story())


# Settings


@pytest.mark.parametrize(
    ("key", "before", "patch"),
    [
        ("l", RELAY, SettingsPatch(allow_lan=False)),
        ("v", HOME, SettingsPatch(always_require_vpn=True)),
        ("a", HOME, SettingsPatch(auto_connect=True)),
    ],
)
def test_a_setting_that_tightens_changes_at_once(
    tmp_path: Path, key: str, before: schema.Settings, patch: SettingsPatch
) -> None:
    async def story() -> None:
        async with played(tmp_path, Scene(fake.CONNECTED, before)) as it:
            await it.press(key)
            await it.until(lambda: bool(it.daemon.asked_for("settings.set")))
            assert it.daemon.asked_for("settings.set") == [patch]
            assert it.dialog() == ""

    asyncio.run(story())


def test_a_setting_that_opens_is_asked_about_first(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            await it.press("l")
            await it.sees("Devices in the local network can then be reached")
            await it.press("escape")
            await it.settled()
            assert not it.daemon.asked_for("settings.set")
            await it.press("l", "y")
            await it.sees("● allowed")
            assert it.daemon.asked_for("settings.set") == [SettingsPatch(allow_lan=True)]

    asyncio.run(story())


def test_settings_are_reached_by_arrows_and_enter_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            await it.press("down", "enter")
            await it.sees("● on")
            assert it.daemon.asked_for("settings.set") == [SettingsPatch(always_require_vpn=True)]
            await it.press("up", "up", "enter")  # round to the last one
            assert it.dialog() == "Choose"

    asyncio.run(story())


def test_a_setting_changed_elsewhere_is_seen_here(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            other = await link.AsyncClient.connect(it.daemon.path)
            await other.call("settings.set", SettingsPatch(allow_lan=True, mtu=1280), schema.Settings)
            await other.close()
            await it.sees("● allowed")
            await it.sees("1280")

    asyncio.run(story())


def test_dns_servers_are_edited_checked_and_asked_about_where_they_are_local(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            await it.press("n", *"9.9.9.x", "enter")
            await it.sees("9.9.9.x is no IP address.")
            await it.press("backspace", "9", "space", *"10.0.0.1", "enter")
            await it.sees("10.0.0.1: a local address")
            await it.press("n")
            assert it.dialog() == "Edit"  # still open, nothing is lost
            await it.press("enter")
            await it.sees("10.0.0.1: a local address")
            await it.press("y")
            await it.until(lambda: it.dialog() == "")
            assert it.daemon.settings.dns == ("9.9.9.9", "10.0.0.1")
            await it.sees("2 custom")

    asyncio.run(story())


def test_an_mtu_that_the_daemon_refuses_stays_in_the_dialog_with_the_reason(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            await it.press("m", "9", "enter")
            await it.sees("mtu: 9 is not between 576 and 65535")
            await it.press("backspace", *"1300", "enter")
            await it.until(lambda: it.dialog() == "")
            assert it.daemon.settings.mtu == 1300
            await it.press("m", *["backspace"] * 4, "enter")
            await it.until(lambda: it.daemon.settings.mtu is None)

    asyncio.run(story())


def test_a_relay_is_found_by_typing_and_takes_the_keys_of_the_tunnel(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            await it.press("t")
            await it.until(lambda: it.dialog() == "Choose")
            await it.press(*"goth", "down", "enter")
            await it.until(lambda: bool(it.daemon.asked_for("settings.set")))
            assert it.daemon.settings.choice == schema.RelayChoice("home", "se", "gothenburg", "se-got-1")
            await it.press("t")
            await it.until(lambda: it.dialog() == "Choose")
            await it.press(*"tunnel", "enter")
            await it.until(lambda: it.daemon.settings.choice == schema.TunnelChoice("home"))

    asyncio.run(story())


def test_without_a_tunnel_the_choice_says_how_to_get_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, Scene(fake.DISCONNECTED, schema.Settings())) as it:
            it.daemon.tunnels = ()
            await it.press("t")
            await it.sees("There is no tunnel yet")

    asyncio.run(story())


# The daemon


def test_a_daemon_that_goes_is_told_and_one_that_comes_back_is_asked_anew(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            it.daemon.stop()
            await it.sees("The daemon is gone: what was blocked stays blocked.")
            await it.press("c", "d", "l", "i")  # mean nothing now
            assert it.dialog() == ""
            it.daemon.status, it.daemon.settings = fake.ERROR, RELAY
            it.daemon.start()
            await it.sees("Everything is blocked: the peer's host name could not be resolved")
            await it.sees("● allowed")

    asyncio.run(story())


def test_a_daemon_that_goes_while_a_dialog_is_open_is_a_sentence_not_a_crash(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            await it.press("m", *"1300")
            it.daemon.stop()
            await it.until(lambda: "unknown" in hero(it.app))
            await it.press("enter")
            await it.sees("the daemon does not answer")
            await it.press("escape")
            await it.sees("The daemon is gone")

    asyncio.run(story())


def test_a_daemon_of_another_protocol_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, Scene(None, speaks=False)) as it:
            it.daemon.protocol = 99
            it.daemon.start()
            await it.sees("The daemon speaks protocol 99")

    asyncio.run(story())


def test_counters_move_without_an_event_and_are_asked_for_no_faster_than_once_a_second(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            begin, before = time.monotonic(), len(it.daemon.asked_for("status"))
            it.daemon.status = msgspec.structs.replace(it.daemon.status, drops={"auth": 77}, firewall_drops=())
            await it.sees("77  forged or damaged")
            asked = len(it.daemon.asked_for("status")) - before
            assert asked <= (time.monotonic() - begin) / 1.0 + 1

    asyncio.run(story())


def test_lines_of_the_log_come_as_they_are_written_and_debug_stays_out(tmp_path: Path) -> None:
    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            it.daemon.log("only for developers", "debug", LATER)
            it.daemon.log("event: Online() only for developers", "info", LATER)
            it.daemon.log("[b]the peer[/b] has fallen silent", "warning", LATER)
            await it.sees("20:55:35  ! [b]the peer[/b] has fallen silent")
            assert "only for developers" not in "\n".join(text_of(it.app))

    asyncio.run(story())


def test_ui1_the_screen_opens_no_socket_but_the_daemons(tmp_path: Path) -> None:
    where: list[object] = []
    watching = True

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if watching and event in ("socket.connect", "socket.getaddrinfo", "urllib.Request"):
            where.append(args[1] if event == "socket.connect" else args)

    sys.addaudithook(watch)  # for good: there is no way to remove one

    async def story() -> None:
        async with played(tmp_path, SCENES["connected"]) as it:
            await it.press("question_mark", "escape", "i", "escape", "t", "escape", "ctrl+t", "l", "y")
            await it.sees("● allowed")

    asyncio.run(story())
    watching = False
    assert {str(address) for address in where} == {str(tmp_path / "management.socket")}
