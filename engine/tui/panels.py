"""The parts of the screen. Each shows what it is given and draws itself to the width it has; none asks the daemon."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.content import Content
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.widget import Widget
from textual.widgets import Label

from engine.management.schema import LogEvent, Settings, Status
from engine.tui import words
from engine.tui.letters import big
from engine.tui.meter import Meter, sparkline

_LEVELS = {"warning": ("$text-warning", "! "), "error": ("$text-error", "! ")}

STATES = ("connected", "connecting", "disconnecting", "disconnected", "locked", "error", "leaking", "unknown")
"""How the hero can look, as CSS classes."""


class Top(Horizontal):
    """The first line: the program, and what enforces."""

    _text = ""

    def compose(self) -> ComposeResult:
        """The name left, the mode right."""
        yield Label("molehill", id="name")
        yield Label("", id="mode", markup=False)

    def show(self, status: Status | None) -> None:
        """What enforces, and on which interface."""
        text = f"{status.mode} mode, {status.interface}" if status is not None else ""
        if text != self._text:
            self._text = text
            self.query_one("#mode", Label).update(text)


class Hero(Vertical):
    """The state: one big word, a sentence, where to, since when."""

    _said = ("", "")  # the word and the sentence that are shown

    def compose(self) -> ComposeResult:
        """The warning and the word, then the lines; empty ones take no room."""
        yield Label(words.LEAKING, id="leaking")
        yield Label("", id="word", markup=False)
        yield Label("", id="sentence", markup=False)
        yield Rows("", id="facts")
        yield Rows("", id="notices")

    def show(self, status: Status, now: float) -> None:
        """What the daemon says."""
        look, sentence = status.state, words.sentence(status)
        if not status.enforced:
            look, sentence = "leaking", words.failure(status)
        elif status.state == "disconnected" and status.blocks:
            look = "locked"
        self._show(look, words.word(status), sentence, words.facts(status, now), words.notices(status))

    def show_gone(self, sentence: str, more: Iterable[str]) -> None:
        """That the daemon says nothing."""
        self._show("unknown", words.NO_ANSWER, sentence, [("", line) for line in more], [])

    def _show(self, look: str, word: str, sentence: str, facts: list[tuple[str, str]], notices: list[str]) -> None:
        for name in STATES:
            self.set_class(name == look, name)
        if (word, sentence) != self._said:
            self._said = (word, sentence)
            self._show_word()
            self.query_one("#sentence", Label).update(sentence)
        self.query_one("#facts", Rows).show((f"{name:7}" if name else "", text) for name, text in facts)
        self.query_one("#notices", Rows).show(("! ", notice) for notice in notices)
        self.query_one("#notices").display = bool(notices)

    def on_resize(self) -> None:
        """The big word may have room now, or none any more."""
        self._show_word()

    def _show_word(self) -> None:
        word, large = self._said[0], big(self._said[0])
        fits = len(large.partition("\n")[0]) <= self.content_size.width
        self.query_one("#word", Label).update(large if fits else word)


class Rows(Widget):
    """Names and texts side by side; a text that is too long goes on below itself, not below the name."""

    def __init__(self, name_style: str, empty: str = "", **of_widget: Any) -> None:
        super().__init__(**of_widget)
        self._name_style, self._empty = name_style, empty
        self._rows: list[tuple[str, Content]] = []

    def show(self, rows: Iterable[tuple[str, str | Content]]) -> None:
        """These; names of one column are padded to one width by who gives them."""
        before, width = self._rows, self.size.width
        self._rows = [(name, Content(text) if isinstance(text, str) else text) for name, text in rows]
        if self._rows != before:
            self.refresh(layout=not width or len(self._lines(width)) != self.size.height)

    def get_content_height(self, container: Size, viewport: Size, width: int) -> int:
        """As many lines as the texts need at this width."""
        return len(self._lines(width))

    def render(self) -> Content:
        """At the width there is."""
        return Content("\n").join(self._lines(self.size.width))

    def _lines(self, width: int) -> list[Content]:
        if not self._rows:
            return [Content.styled(self._empty, "$text-muted")]
        lines = []
        for name, text in self._rows:
            for number, part in enumerate(text.wrap(max(10, width - len(name)))):
                lines.append(Content.styled(" " * len(name) if number else name, self._name_style) + part)
        return lines


class Panel(Widget):
    """A titled part whose text is drawn to its size."""

    TITLE = ""

    def on_mount(self) -> None:
        """Titles are drawn into the line above."""
        self.border_title = f" {self.TITLE} "


class Traffic(Panel):
    """Throughput both ways, now and in the last minutes."""

    TITLE = "Traffic"

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter
        self._live = False
        self._total = (0, 0)

    def show(self, status: Status | None) -> None:
        """The meter has been fed with this; None: nothing is known now."""
        self._live = status is not None
        if status is not None:
            self._total = (sum(p.rx_bytes for p in status.peers), sum(p.tx_bytes for p in status.peers))
        self.refresh()

    def render(self) -> Content:
        """Two blocks of a rate and its bars, and what came together."""
        width, height = self.size.width - 18, max(1, (self.size.height - 1) // 2)
        parts: list[Content | tuple[str, str]] = []
        for name, values in (("in", self._meter.received), ("out", self._meter.sent)):
            now = words.rate(values[-1] if values else 0.0) if self._live else "unknown"
            label = f"{name:4}{now:>12}  "
            for number, bars in enumerate(sparkline(values, width, height).split("\n")):
                parts.append((label if number == height - 1 else " " * len(label), "bold"))
                parts.append((bars + "\n", "$accent"))
        received, sent = map(words.size, self._total)
        parts.append((f"sum  {received} in, {sent} out", "$text-muted"))
        return Content.assemble(*parts)


class Dropped(Panel):
    """What was dropped in the TUN and by the machine's firewall, how often and why."""

    TITLE = "Dropped"

    def __init__(self) -> None:
        super().__init__()
        self._rows: list[tuple[int, str, str]] = []

    def show(self, status: Status) -> None:
        """The counters now."""
        rows = words.drops(status)
        if rows != self._rows:
            self._rows = rows
            self.refresh()

    def render(self) -> Content:
        """As many rows as there is room for; the last one says how many more there are."""
        room = max(1, self.size.height)
        if not self._rows:
            return Content.styled("none so far", "$text-muted")
        shown = self._rows if len(self._rows) <= room else self._rows[: room - 1]
        lines = []
        for count, why, id in shown:
            left = f"{words.number(count):>6}  {why}"
            gap = self.size.width - len(left) - len(id)
            lines.append(
                Content.assemble((f"{words.number(count):>6}", "bold"), f"  {why}")
                + (Content.styled(" " * gap + id, "$text-muted") if gap > 0 else Content(""))
            )
        if len(shown) < len(self._rows):
            rest = self._rows[len(shown) :]
            lines.append(
                Content.assemble(
                    (f"{words.number(sum(row[0] for row in rest)):>6}", "bold"),
                    (f"  for {len(rest)} more reasons", "$text-muted"),
                )
            )
        return Content("\n").join(lines)


@dataclass(frozen=True)
class Row:
    """One setting: the key that changes it, its name, its field in `Settings`."""

    key: str
    name: str
    field: str


ROWS = (
    Row("l", "Local network", "allow_lan"),
    Row("v", "Always require VPN", "always_require_vpn"),
    Row("a", "Auto-connect", "auto_connect"),
    Row("n", "DNS servers", "dns"),
    Row("m", "MTU", "mtu"),
    Row("t", "Connect to", "choice"),
)


class SettingsPanel(Panel, can_focus=True):
    """The settings, one a row; Enter changes the one that is marked."""

    TITLE = "Settings"
    BINDINGS = [  # noqa: RUF012  # as Textual wants it
        Binding("up,k", "move(-1)", "Up", show=False),
        Binding("down,j", "move(1)", "Down", show=False),
        Binding("enter,space", "change", "Change", show=False),
    ]

    cursor: reactive[int] = reactive(0)

    class Change(Message):
        """The user wants to change a setting."""

        def __init__(self, field: str) -> None:
            super().__init__()
            self.field = field

    def __init__(self) -> None:
        super().__init__()
        self._settings: Settings | None = None
        self._mtu: int | None = None
        self._shown: list[tuple[str, bool]] = []

    def show(self, settings: Settings | None, status: Status | None) -> None:
        """The settings now; `status` knows the MTU in use."""
        self._settings = settings
        self._mtu = status.mtu if status is not None and status.state != "disconnected" else None
        shown = [self._value(row.field) for row in ROWS]
        if shown != self._shown:
            self._shown = shown
            self.refresh(layout=True)

    def action_move(self, by: int) -> None:
        """Mark another row."""
        self.cursor = (self.cursor + by) % len(ROWS)

    def action_change(self) -> None:
        """Change the marked one."""
        self.post_message(self.Change(ROWS[self.cursor].field))

    def mark(self, field: str) -> None:
        """Mark a row by its field."""
        self.cursor = next(number for number, row in enumerate(ROWS) if row.field == field)

    def render(self) -> Content:
        """A row: mark, key, name, value; a long value begins further left, or has the next line to itself."""
        width = self.size.width
        lines = []
        for number, row in enumerate(ROWS):
            marked = number == self.cursor and self.has_focus
            value, on = self._value(row.field)
            room = width - 4 - len(row.name)  # beside mark, key and name
            column = max(1, min(room - len(value), 20 - len(row.name)))
            name, more = f" {row.name}{' ' * column}", ""
            if len(value) >= room:
                name, value, more = f" {row.name}", "", "\n" + value.rjust(width)
            line = Content.assemble(
                ("› " if marked else "  ", "bold $accent"), (row.key, "$accent"), name, (value, "bold" if on else "")
            )
            line = line.pad_right(max(0, width - line.cell_length))
            lines.append((line.stylize("on $primary 25%") if marked else line) + Content.styled(more, "bold"))
        return Content("\n").join(lines)

    def _value(self, field: str) -> tuple[str, bool]:
        """In words, and whether it is another than the default."""
        if self._settings is None:
            return "", False
        value = getattr(self._settings, field)
        if field == "allow_lan":
            return ("● allowed" if value else "○ blocked"), value
        if field in ("always_require_vpn", "auto_connect"):
            return ("● on" if value else "○ off"), value
        if field == "dns":
            return words.dns(value), bool(value)
        if field == "mtu":
            automatic = f"auto, {self._mtu}" if self._mtu else "auto"
            return (str(value) if value else automatic), value is not None
        return words.choice(value), value is not None


class Gaps(Rows):
    """What this mode cannot block."""

    def __init__(self) -> None:
        super().__init__("$text-muted", "nothing that is known")

    def on_mount(self) -> None:
        """The title is drawn into the line above."""
        self.border_title = " Cannot be blocked in this mode "

    def show_gaps(self, status: Status) -> None:
        """The gaps of the mode, by id."""
        self.show((f"{gap.id:8}", gap.text) for gap in status.cannot_block)


class Events(VerticalScroll, can_focus=False):
    """The newest lines of the daemon's log, the newest first."""

    def compose(self) -> ComposeResult:
        """What does not fit is scrolled."""
        yield Rows("$text-muted", "none yet")

    def on_mount(self) -> None:
        """The title is drawn into the line above."""
        self.border_title = " Events "

    def show(self, lines: Iterable[LogEvent], now: float) -> None:
        """These, the oldest of them first."""
        rows = []
        for line in lines:
            style, mark = _LEVELS.get(line.level, ("", ""))
            rows.append((words.moment(line.at, now) + "  ", Content.styled(mark + line.text, style)))
        self.query_one(Rows).show(rows[::-1])
