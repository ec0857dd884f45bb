"""What opens over the screen: a question, a line to edit, a list to choose from, a text. Escape changes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec
from textual import work
from textual.app import ComposeResult
from textual.binding import Binding
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import Input, Label, OptionList
from textual.widgets.option_list import Option

from engine.management.schema import Relay, RelayChoice, TunnelChoice, TunnelInfo
from engine.tui import words
from engine.tui.panels import Rows
from engine.tui.texts import Section

Choice = TunnelChoice | RelayChoice

T = TypeVar("T")


class Dialog(ModalScreen[T]):
    """A box in the middle with a title in its border and its keys in the last line."""

    BINDINGS = [Binding("escape", "leave", "Cancel", show=False)]  # noqa: RUF012  # as Textual wants it

    def __init__(self, title: str, keys: Sequence[tuple[str, str]]) -> None:
        super().__init__()
        self._title, self._keys = title, keys

    def content(self) -> ComposeResult:
        """What is in the box, above the keys."""
        raise NotImplementedError

    def compose(self) -> ComposeResult:
        """The box."""
        with Vertical(id="box") as box:
            box.border_title = self._title
            yield from self.content()
            parts = [Content.assemble((key, "bold $accent"), f" {what}") for key, what in self._keys]
            yield Label(Content("   ").join(parts), id="keys")

    def action_leave(self) -> None:
        """Change nothing."""
        self.dismiss(None)


class Confirm(Dialog[bool]):
    """A question that only `y` answers with yes."""

    BINDINGS = [  # noqa: RUF012
        Binding("y", "yes", "Yes", show=False),
        Binding("n,q,enter", "leave", "No", show=False),
    ]

    def __init__(self, question: str, consequence: str) -> None:
        super().__init__(question, (("y", "Yes"), ("n", "No")))
        self._consequence = consequence

    def content(self) -> ComposeResult:
        """What follows from a yes."""
        yield Label(self._consequence, classes="sentence", markup=False)

    def action_yes(self) -> None:
        """Do it."""
        self.dismiss(True)


def _line_to_edit(value: str = "", placeholder: str = "") -> Input:
    line = Input(value, placeholder, compact=True)
    line.cursor_blink = False
    return line


class Edit(Dialog[None]):
    """A line to edit. `save` takes it and gives the sentence why it will not do, or None: then the dialog closes."""

    def __init__(self, title: str, hint: str, value: str, save: Callable[[str], Awaitable[str | None]]) -> None:
        super().__init__(title, (("Enter", "Save"), ("Esc", "Cancel")))
        self._hint, self._value, self._save = hint, value, save

    def content(self) -> ComposeResult:
        """The line, with what may be in it."""
        yield Label(self._hint, classes="sentence", markup=False)
        yield _line_to_edit(self._value)
        yield Label("", id="refusal", markup=False)

    @work(exclusive=True)
    async def on_input_submitted(self, event: Input.Submitted) -> None:
        """Try it."""
        refusal = await self._save(event.value)
        if refusal is None:
            self.dismiss(None)
        else:
            self.query_one("#refusal", Label).update(refusal)


class Choose(Dialog[Choice]):
    """What to connect to: an imported tunnel, or relays by country, city or name; typing narrows the list."""

    BINDINGS = [  # noqa: RUF012
        Binding("up", "move(-1)", "Up", show=False, priority=True),
        Binding("down", "move(1)", "Down", show=False, priority=True),
        Binding("pageup", "move(-8)", "Up", show=False, priority=True),
        Binding("pagedown", "move(8)", "Down", show=False, priority=True),
    ]

    def __init__(self, tunnels: Sequence[TunnelInfo], relays: Sequence[Relay], chosen: Choice | None) -> None:
        super().__init__("Connect to", (("↑↓", "Move"), ("Enter", "Choose"), ("Esc", "Cancel")))
        self._chosen = chosen
        self._choices = choices(tunnels, relays, chosen)
        self._shown: list[Choice] = []

    def content(self) -> ComposeResult:
        """The search and the list."""
        yield _line_to_edit(placeholder="type to search")
        yield OptionList(markup=False, compact=True)

    def on_mount(self) -> None:
        """All of them, the chosen one marked."""
        self.query_one(OptionList).can_focus = False
        self._narrow("")

    def on_input_changed(self, event: Input.Changed) -> None:
        """Only what has every word."""
        self._narrow(event.value)

    def on_input_submitted(self) -> None:
        """The marked one."""
        number = self.query_one(OptionList).highlighted
        if number is not None:
            self.dismiss(self._shown[number])

    def on_option_list_option_selected(self, event: OptionList.OptionSelected) -> None:
        """By mouse."""
        self.dismiss(self._shown[event.option_index])

    def action_move(self, by: int) -> None:
        """Mark another one."""
        options = self.query_one(OptionList)
        if options.option_count:
            options.highlighted = min(options.option_count - 1, max(0, (options.highlighted or 0) + by))

    def _narrow(self, text: str) -> None:
        wanted = text.lower().split()
        found = [(choice, line) for choice, line in self._choices if all(word in line.plain.lower() for word in wanted)]
        self._shown = [choice for choice, _ in found]
        options = self.query_one(OptionList)
        options.set_options([Option(line) for _, line in found])
        if found:
            options.highlighted = self._shown.index(self._chosen) if self._chosen in self._shown else 0


def choices(
    tunnels: Sequence[TunnelInfo], relays: Sequence[Relay], chosen: Choice | None
) -> list[tuple[Choice, Content]]:
    """Everything there is to choose, each with its line. Relays take the keys of the tunnel that is chosen now."""
    lines: list[tuple[Choice, Content]] = [
        (TunnelChoice(tunnel.name), _line(tunnel.name, "tunnel", tunnel.endpoint or "")) for tunnel in tunnels
    ]
    active = sorted((r for r in relays if r.active), key=lambda relay: (relay.country, relay.city, relay.hostname))
    if not tunnels or not active:
        return lines
    if isinstance(chosen, RelayChoice):
        base = msgspec.structs.replace(chosen, country="", city="", hostname="")
    else:
        base = RelayChoice(chosen.name if chosen is not None else tunnels[0].name)
    lines.append((base, _line(words.choice(base), f"keys of {base.identity}", _count(active))))
    country = city = ""
    for relay in active:
        if relay.country != country:
            country, city = relay.country, ""
            here = [r for r in active if r.country == country]
            lines.append((msgspec.structs.replace(base, country=country), _line(country, "", _count(here))))
        if relay.city != city:
            city = relay.city
            here = [r for r in active if (r.country, r.city) == (country, city)]
            line = _line(f"  {city}", country, _count(here))
            lines.append((msgspec.structs.replace(base, country=country, city=city), line))
        one = msgspec.structs.replace(base, country=country, city=city, hostname=relay.hostname)
        lines.append((one, _line(f"    {relay.hostname}", f"{country}, {city}", relay.ipv4)))
    return lines


def _count(relays: Sequence[Relay]) -> str:
    return "1 relay" if len(relays) == 1 else f"{len(relays)} relays"


def _line(name: str, what: str, more: str) -> Content:
    return Content.assemble(f"{name:24} ", (f"{what:20} {more}", "$text-muted"))


class Reading(Dialog[None]):
    """A text to read and to scroll."""

    BINDINGS = [  # noqa: RUF012
        Binding("q,enter,question_mark,i", "leave", "Close", show=False),
    ]

    def __init__(self, title: str, sections: Sequence[Section]) -> None:
        super().__init__(title, (("↑↓", "Scroll"), ("Esc", "Close")))
        self._sections = sections

    def content(self) -> ComposeResult:
        """The sections, one below the other."""
        with VerticalScroll(id="text"):
            yield Rows("$accent")

    def on_mount(self) -> None:
        """A line without text between the sections."""
        rows: list[tuple[str, str | Content]] = []
        for title, lines in self._sections:
            rows += [("", "")] if rows else []
            rows.append(("", Content.styled(title, "bold")))
            rows += [(f"  {name:14}", text) for name, text in lines]
        self.query_one(Rows).show(rows)
