"""JSON-RPC 2.0 as the management interface speaks it: a line in, a checked request out, and answers as lines. Pure.

Every request has an id and is answered; batches and notifications are refused. Whatever the bytes are, the outcome is
a `Request` or a `Refused`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from engine.management.schema import METHODS, ErrorCode, Event

Id = int | str


class Refused(Exception):
    """A request that is not carried out: a code and one sentence. `fatal`: the client speaks another language."""

    def __init__(self, code: ErrorCode, message: str, *, number: Id | None = None, fatal: bool = False) -> None:
        super().__init__(message)
        self.code, self.number, self.fatal = code, number, fatal


@dataclass(frozen=True)
class Request:
    """A request that the schema allows: its id, its method, its parameters."""

    number: Id
    method: str
    params: Any


class _Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    jsonrpc: str
    id: Id
    method: str
    params: msgspec.Raw = msgspec.Raw(b"{}")


class _Id(msgspec.Struct, frozen=True):
    """The id alone, for the answer to what is no request otherwise."""

    id: Id | None = None


def parse(line: bytes) -> Request:
    """The request of a line. Refused."""
    try:
        envelope = msgspec.json.decode(line, type=_Envelope)
    except msgspec.ValidationError as error:
        raise Refused(ErrorCode.INVALID_REQUEST, f"not a request: {error}", number=_id(line)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Refused(ErrorCode.PARSE, "not a line of JSON", fatal=True) from None
    number = envelope.id
    if envelope.jsonrpc != "2.0":
        raise Refused(ErrorCode.INVALID_REQUEST, 'not a request: jsonrpc must be "2.0"', number=number)
    method = METHODS.get(envelope.method)
    if method is None:
        known = ", ".join(METHODS)
        raise Refused(ErrorCode.METHOD_NOT_FOUND, f"there is no such method: use one of {known}", number=number)
    try:
        params = msgspec.json.decode(envelope.params, type=method.params)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise Refused(ErrorCode.INVALID_PARAMS, f"{envelope.method}: {error}", number=number) from None
    return Request(number, envelope.method, params)


def _id(line: bytes) -> Id | None:
    try:
        return msgspec.json.decode(line, type=_Id).id
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def answer(number: Id, result: msgspec.Struct) -> bytes:
    """The answer to a request, as a line."""
    return msgspec.json.encode({"jsonrpc": "2.0", "id": number, "result": result}) + b"\n"


def refusal(refused: Refused) -> bytes:
    """The answer to what was refused, as a line."""
    kind = refused.code.name.lower().replace("_", "-")
    error = {"code": int(refused.code), "message": str(refused), "data": {"kind": kind}}
    return msgspec.json.encode({"jsonrpc": "2.0", "id": refused.number, "error": error}) + b"\n"


def event(happened: Event) -> bytes:
    """An event, as a line."""
    return msgspec.json.encode({"jsonrpc": "2.0", "method": "event", "params": happened}) + b"\n"
