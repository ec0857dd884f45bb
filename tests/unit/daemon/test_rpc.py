"""JSON-RPC lines: whatever comes in, the outcome is a request or a refusal."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.daemon import rpc
from engine.daemon.rpc import Refused
from engine.management.schema import METHODS, ErrorCode, SettingsPatch, TunnelChoice, TunnelsEvent


def line(**fields: object) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": 7, **fields}).encode()


def refused(text: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        rpc.parse(text)
    return caught.value


def test_a_request_is_decoded_by_the_schema() -> None:
    request = rpc.parse(line(method="settings.set", params={"choice": {"by": "tunnel", "name": "se1"}}))
    assert (request.number, request.method) == (7, "settings.set")
    assert request.params == SettingsPatch(choice=TunnelChoice("se1"))


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if not method.params.__struct_fields__])
def test_parameters_may_be_left_out_where_there_are_none(method: str) -> None:
    assert rpc.parse(line(method=method)).method == method
    assert rpc.parse(line(method=method, params={})).method == method


@pytest.mark.parametrize("text", [b"", b"{", b"GET / HTTP/1.1\r", b"\xff\xfe", b"Host: localhost"])
def test_what_is_not_json_is_another_language(text: bytes) -> None:
    assert refused(text).code is ErrorCode.PARSE
    assert refused(text).fatal


@pytest.mark.parametrize(
    ("text", "code", "number"),
    [
        (b"17", ErrorCode.INVALID_REQUEST, None),
        (b"[]", ErrorCode.INVALID_REQUEST, None),
        (b"[" * 50_000, ErrorCode.INVALID_REQUEST, None),
        (b"[" + line(method="status") + b"]", ErrorCode.INVALID_REQUEST, None),
        (b"{}", ErrorCode.INVALID_REQUEST, None),
        (b'{"jsonrpc": "2.0", "method": "status"}', ErrorCode.INVALID_REQUEST, None),
        (b'{"jsonrpc": "2.0", "method": "status", "id": null}', ErrorCode.INVALID_REQUEST, None),
        (line(), ErrorCode.INVALID_REQUEST, 7),
        (line(method=3), ErrorCode.INVALID_REQUEST, 7),
        (line(method="status", more=1), ErrorCode.INVALID_REQUEST, 7),
        (line(method="status", jsonrpc="1.0"), ErrorCode.INVALID_REQUEST, 7),
        (line(method="format"), ErrorCode.METHOD_NOT_FOUND, 7),
        (line(method="status", params={"x": 1}), ErrorCode.INVALID_PARAMS, 7),
        (line(method="status", params=[]), ErrorCode.INVALID_PARAMS, 7),
        (line(method="settings.set", params={"allow_lan": "yes"}), ErrorCode.INVALID_PARAMS, 7),
        (line(method="settings.set", params={"bridge": None}), ErrorCode.INVALID_PARAMS, 7),
        (line(method="tunnel.import"), ErrorCode.INVALID_PARAMS, 7),
    ],
)
def test_a_request_that_is_none_is_refused_by_code_and_id(text: bytes, code: ErrorCode, number: int | None) -> None:
    refusal = refused(text)
    assert (refusal.code, refusal.number, refusal.fatal) == (code, number, False)


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_any_bytes_are_a_request_or_refused_and_the_refusal_is_one_line(text: bytes) -> None:
    with suppress(Refused):
        rpc.parse(text)
        return
    refusal = refused(text)
    sent = rpc.refusal(refusal)
    assert sent.endswith(b"\n")
    assert sent.count(b"\n") == 1
    assert json.loads(sent)["error"]["code"] == refusal.code


def test_answers_and_events_are_single_lines() -> None:
    assert json.loads(rpc.answer("x", TunnelChoice("a\nb")))["result"] == {"by": "tunnel", "name": "a\nb"}
    told = rpc.event(TunnelsEvent(()))
    assert told.count(b"\n") == 1
    assert json.loads(told)["params"] == {"type": "tunnels", "tunnels": []}
    error = json.loads(rpc.refusal(Refused(ErrorCode.WRONG_STATE, "not now", number=3)))
    assert error == {
        "jsonrpc": "2.0",
        "id": 3,
        "error": {"code": 3, "message": "not now", "data": {"kind": "wrong-state"}},
    }
