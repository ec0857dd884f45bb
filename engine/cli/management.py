"""What the commands that ask the daemon share: the connection, its errors as sentences with exit codes, `--json`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from engine.cli.main import BAD_INPUT, FAILED, MISSING, Fault

if TYPE_CHECKING:
    import msgspec

    from engine.management.client import Client, ManagementError

    R = TypeVar("R", bound=msgspec.Struct)

json_option = click.option("--json", "as_json", is_flag=True, help="For programs: one JSON object.")


@contextmanager
def daemon(instead: str = "") -> Iterator[Client]:
    """A connection to the daemon. Fault when nobody answers, and for whatever the daemon refuses.

    `instead`: what else the user can do where there is no daemon.
    """
    from engine.management.client import Client, ManagementError

    try:
        with Client() as client:
            yield client
    except ManagementError as error:
        raise as_fault(error, instead) from None


def as_fault(error: ManagementError, instead: str = "") -> Fault:
    """The daemon's sentence with our exit code; without a daemon with what there is to do."""
    from engine.cli.client import left_behind
    from engine.management.client import NotPermitted, NotRunning
    from engine.management.schema import ErrorCode

    if isinstance(error, NotRunning):
        return Fault("; ".join(filter(None, (str(error), instead, left_behind()))))
    if isinstance(error, NotPermitted):
        return Fault(str(error), MISSING)
    bad = error.code in (ErrorCode.BAD_INPUT, ErrorCode.NOT_FOUND, ErrorCode.INVALID_PARAMS)
    return Fault(str(error), BAD_INPUT if bad else FAILED)


def ask(method: str, params: msgspec.Struct | None, result: type[R]) -> R:
    """One question, one answer."""
    with daemon() as client:
        return client.call(method, params, result)


def echo_json(value: Any) -> None:
    """A struct of the schema, or plain data, as one line of JSON."""
    import msgspec

    click.echo(msgspec.json.encode(value).decode())


def names_of(listed: Callable[[Client], list[str]]) -> Callable[..., list[str]]:
    """A shell completion: those of the daemon's names that begin with what is typed; none if nobody answers."""

    def complete(_ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[str]:
        try:
            with daemon() as client:
                return [name for name in listed(client) if name.startswith(incomplete)]
        except Fault:
            return []

    return complete
