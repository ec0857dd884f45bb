"""The application: what the daemon says goes to the panels, what the user presses goes to the daemon.

Order of a change: the key, a question if it opens something, the call, and then nothing: what is shown is what the
daemon says happened, never what was asked for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import msgspec
from textual import work
from textual.app import App, ComposeResult
from textual.binding import Binding
from textual.containers import Container, Vertical
from textual.theme import Theme
from textual.widget import Widget
from textual.widgets import Footer

from engine.management import schema
from engine.management.client import ManagementError
from engine.management.schema import SettingsPatch
from engine.tui import texts, words
from engine.tui.dialogs import Choose, Confirm, Edit, Reading
from engine.tui.link import LOG_LINES, Arrived, Gone, Link, Told
from engine.tui.meter import Meter
from engine.tui.panels import ROWS, Dropped, Events, Gaps, Hero, SettingsPanel, Top, Traffic

DARK = Theme(
    "molehill-dark", dark=True, primary="#7aa2f7", accent="#7aa2f7", success="#5fd38d", warning="#e8b64c",
    error="#ff6b68", foreground="#d8dce3", background="#12151a", surface="#1a1f26", panel="#232a33",
    variables={"text-muted": "#8b94a3"},
)  # fmt: skip
LIGHT = Theme(
    "molehill-light", dark=False, primary="#2456b8", accent="#2456b8", success="#14793f", warning="#8a5a00",
    error="#b3261e", foreground="#1d222a", background="#fbfbf9", surface="#f0f0ec", panel="#e4e4de",
    variables={"text-muted": "#666d78"},
)  # fmt: skip

W = TypeVar("W", bound=Widget)

DISCONNECT = "Nothing is blocked from then on: traffic leaves unprotected."


class MolehillApp(App[None]):
    """One screen. `wall` gives seconds since 1970, `clock` seconds that never jump."""

    CSS_PATH = "molehill.tcss"
    TITLE = "molehill"
    ENABLE_COMMAND_PALETTE = False
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (76, "-normal"), (110, "-wide")]  # noqa: RUF012  # as Textual wants it
    VERTICAL_BREAKPOINTS = [(0, "-short"), (34, "-tall")]  # noqa: RUF012
    BINDINGS = [  # noqa: RUF012
        Binding("c", "connect", "Connect"),
        Binding("d", "disconnect", "Disconnect"),
        Binding("r", "reconnect", "Reconnect"),
        *(Binding(row.key, f"change('{row.field}')", row.name, show=False) for row in ROWS),
        Binding("i", "details", "Details"),
        Binding("question_mark", "help", "Help", key_display="?"),
        Binding("q", "quit", "Quit"),
        Binding("ctrl+t", "theme", "Dark or light", show=False),
        Binding("pageup", "scroll(-1)", "Older events", show=False),
        Binding("pagedown", "scroll(1)", "Newer events", show=False),
    ]

    def __init__(
        self,
        path: Path | None = None,
        light: bool = False,
        wall: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._link = Link(path, self.told)
        self._wall, self._clock = wall, clock
        self.meter = Meter()
        self._hello: schema.Hello | None = None
        self._status: schema.Status | None = None  # None: the daemon does not answer
        self._settings: schema.Settings | None = None
        self._lines: deque[schema.LogEvent] = deque(maxlen=LOG_LINES)
        self._light = light

    def compose(self) -> ComposeResult:
        """From top to bottom."""
        yield Top(id="top")
        yield Hero(id="hero")
        with Container(id="middle"):
            with Vertical(id="left"):
                yield Traffic(self.meter)
                yield Dropped()
            with Vertical(id="right"):
                yield SettingsPanel()
                yield Gaps()
        yield Events(id="events")
        yield Footer(show_command_palette=False)

    def on_mount(self) -> None:
        """Colours; then the daemon."""
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self.theme = (LIGHT if self._light else DARK).name
        self.query_one(SettingsPanel).focus()
        self.run_worker(self._link.run())

    # What the daemon says

    def told(self, what: Told) -> None:
        """Show it, unless the panels are being taken down."""
        if not self.is_running:
            return
        match what:
            case Arrived():
                self._arrived(what)
            case Gone(why):
                self._gone(why)
            case schema.StatusEvent(status):
                self._show(status)
            case schema.SettingsEvent(settings):
                self._show_settings(settings)
            case schema.LogEvent():
                self._append(what)
            case _:
                pass  # tunnels and relays are read when there is something to choose

    def _arrived(self, what: Arrived) -> None:
        self._hello = what.hello
        self._lines.clear()
        self._lines.extend(what.log)
        self.screen_stack[0].set_class(False, "gone")
        self._show(what.status)
        self._show_settings(what.settings)
        self._show_log()

    def _gone(self, why: str) -> None:
        known = self._hello is not None
        self._status = None
        self.screen_stack[0].set_class(True, "gone")
        sentence = words.GONE if known else words.capital(why)
        again = "It is tried again every second."
        self._base(Hero).show_gone(sentence, [words.capital(why), again] if known else [again])
        self._base(Top).show(None)
        self._base(Traffic).show(None)
        self.refresh_bindings()

    def _show(self, status: schema.Status) -> None:
        before, self._status = self._status, status
        leaking = not status.enforced and (before is None or before.enforced)
        self.meter.feed(self._clock(), status)
        self._base(Top).show(status)
        self._base(Hero).show(status, self._wall())
        self._base(Traffic).show(status)
        self._base(Dropped).show(status)
        self._base(Gaps).show_gaps(status)
        self._base(SettingsPanel).show(self._settings, status)
        if before is None or before.state != status.state:
            self.refresh_bindings()
        if leaking:
            self.bell()

    def _show_settings(self, settings: schema.Settings) -> None:
        self._settings = settings
        self._base(SettingsPanel).show(settings, self._status)

    def _append(self, line: schema.LogEvent) -> None:
        if line not in self._lines:  # it may have come with the log's last lines already
            self._lines.append(line)
            self._show_log()

    def _show_log(self) -> None:
        lines = [line for line in self._lines if words.tells(line)]
        self._base(Events).show(lines, self._wall())

    # What the user wants

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Which keys mean something now; the others are shown dimmed."""
        state = self._status.state if self._status is not None else ""
        if action == "connect":
            return True if state in ("disconnected", "disconnecting", "error") else None
        if action in ("disconnect", "reconnect"):
            return True if state not in ("", "disconnected") else None
        if action in ("change", "details"):
            return True if state else None
        return True

    def action_connect(self) -> None:
        """Connect."""
        self._call("connect")

    def action_reconnect(self) -> None:
        """Connect anew."""
        self._call("reconnect")

    @work(group="disconnect", exclusive=True)
    async def action_disconnect(self) -> None:
        """Disconnect; asks where that opens something."""
        always = self._settings is not None and self._settings.always_require_vpn
        if always or await self.push_screen_wait(Confirm("Disconnect?", DISCONNECT)):
            self._call("disconnect")

    @work
    async def _call(self, method: str) -> None:
        try:
            await self._link.call(method, None, schema.Status)
        except ManagementError as error:
            self._refused(str(error))

    def on_settings_panel_change(self, event: SettingsPanel.Change) -> None:
        """Enter in the panel."""
        if self._status is not None:
            self.action_change(event.field)

    @work(group="change", exclusive=True)
    async def action_change(self, field: str) -> None:
        """Change a setting: at once, or by a dialog."""
        settings = self._settings
        if settings is None:
            return
        self._base(SettingsPanel).mark(field)
        if field == "dns":
            hint = "Servers by address, separated by spaces. Empty: the relay's own."
            await self.push_screen_wait(Edit("DNS servers", hint, " ".join(settings.dns), self._save_dns))
        elif field == "mtu":
            hint = "Bytes. Empty: from the route, then probed."
            await self.push_screen_wait(Edit("MTU", hint, str(settings.mtu or ""), self._save_mtu))
        elif field == "choice":
            await self._choose(settings)
        else:
            patch = msgspec.convert({field: not getattr(settings, field)}, SettingsPatch)
            refusal = await self._save(patch)
            if refusal:
                self._refused(refusal)

    async def _save_dns(self, text: str) -> str | None:
        servers = tuple(text.replace(",", " ").split())
        for server in servers:
            try:
                ip_address(server)
            except ValueError:
                return f"{server} is no IP address."
        return await self._save(SettingsPatch(dns=servers))

    async def _save_mtu(self, text: str) -> str | None:
        if not text.strip():
            return await self._save(SettingsPatch(mtu=None))
        if not text.strip().isdecimal():
            return f"{text} is no number."
        return await self._save(SettingsPatch(mtu=int(text)))

    async def _choose(self, settings: schema.Settings) -> None:
        try:
            tunnels = (await self._link.call("tunnel.list", None, schema.Tunnels)).tunnels
            relays = (await self._link.call("relay.list", None, schema.RelayList)).relays
        except ManagementError as error:
            self._refused(str(error))
            return
        if not tunnels:
            self._refused("There is no tunnel yet: molehill tunnel import FILE")
            return
        chosen = await self.push_screen_wait(Choose(tunnels, relays, settings.choice))
        if chosen is not None and chosen != settings.choice:
            refusal = await self._save(SettingsPatch(choice=chosen))
            if refusal:
                self._refused(refusal)

    async def _save(self, patch: SettingsPatch) -> str | None:
        """Change the settings, after a question if that opens something. Why not, if it was refused; "" if declined."""
        if self._settings is None or self._status is None:
            return "the daemon does not answer"
        opened = words.opens(self._settings, patch, self._status.state)
        if opened is not None and not await self.push_screen_wait(Confirm(*opened)):
            return ""
        try:
            self._show_settings(await self._link.call("settings.set", patch, schema.Settings))
        except ManagementError as error:
            return str(error)
        return None

    def action_details(self) -> None:
        """Everything the status has."""
        if self._status is not None:
            self.push_screen(Reading("Details", texts.details(self._status, self._hello, self._wall())))

    def action_help(self) -> None:
        """The keys."""
        self.push_screen(Reading("Help", texts.HELP))

    def action_theme(self) -> None:
        """Dark to light and back."""
        self.theme = DARK.name if self.theme == LIGHT.name else LIGHT.name

    def action_scroll(self, pages: int) -> None:
        """Scroll the events."""
        events = self._base(Events)
        events.scroll_relative(y=pages * max(1, events.size.height - 1), animate=False)

    def _refused(self, sentence: str) -> None:
        self.notify(sentence, severity="error", timeout=10, markup=False)

    def _base(self, kind: type[W]) -> W:
        """A panel, whatever dialog is open above it."""
        return self.screen_stack[0].query_one(kind)
