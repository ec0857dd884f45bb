"""The report goes over verified TLS 1.3 or not at all; what may pass is tried three times."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from engine.report.send import TRIES, Endpoint, SendError, send
from tests.unit.report.api import DNS_NAME, HOST, IP_NAME, NAME, Api, Authority

REPORT = "molehill problem report\nwith an \u00fc\n"


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.make(tmp_path)


def test_ui1_a_report_arrives_whole_over_tls_1_3(authority: Authority, tmp_path: Path) -> None:
    context = authority.server_context(tmp_path, IP_NAME)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    with Api(context) as api:
        send(REPORT, Endpoint(HOST, api.port), authority=authority.file)
    assert api.reports == [("/problem-report", REPORT)]


def test_ui1_an_older_tls_is_refused(authority: Authority, tmp_path: Path) -> None:
    context = authority.server_context(tmp_path, IP_NAME)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Api(context) as api, pytest.raises(SendError, match="did not take it in 3 tries"):
        send(REPORT, Endpoint(HOST, api.port), authority=authority.file, pause=lambda _: None)
    assert api.reports == []


def test_ui1_an_unknown_authority_is_refused_at_once(authority: Authority, tmp_path: Path) -> None:
    with Api(authority.server_context(tmp_path, IP_NAME)) as api:
        with pytest.raises(SendError, match="certificate is not good: unable to get local issuer certificate"):
            send(REPORT, Endpoint(HOST, api.port))
        assert (api.reports, api.connections) == ([], 1)


def test_ui1_a_certificate_for_another_name_is_refused_and_the_right_name_can_be_told(
    authority: Authority, tmp_path: Path
) -> None:
    with Api(authority.server_context(tmp_path, DNS_NAME)) as api:
        endpoint = Endpoint(HOST, api.port)
        with pytest.raises(SendError, match=r"certificate is not good: .*127\.0\.0\.1"):
            send(REPORT, endpoint, authority=authority.file)
        with pytest.raises(SendError, match="certificate is not good"):
            send(REPORT, endpoint, authority=authority.file, name="www.example.net")
        assert api.reports == []
        send(REPORT, endpoint, authority=authority.file, name=NAME)
    assert len(api.reports) == 1


def test_a_server_in_trouble_is_tried_again_with_growing_pauses(authority: Authority, tmp_path: Path) -> None:
    pauses: list[float] = []
    with Api(authority.server_context(tmp_path, IP_NAME), [503, 500]) as api:
        send(REPORT, Endpoint(HOST, api.port), authority=authority.file, pause=pauses.append)
    assert (len(api.reports), pauses) == (TRIES, [2.0, 4.0])


def test_after_the_third_try_the_last_reason_is_told(authority: Authority, tmp_path: Path) -> None:
    with Api(authority.server_context(tmp_path, IP_NAME), [503] * 9) as api:
        with pytest.raises(SendError, match="did not take it in 3 tries: it answered 503") as caught:
            send(REPORT, Endpoint(HOST, api.port), authority=authority.file, pause=lambda _: None)
        assert (len(api.reports), caught.value.unreachable) == (TRIES, False)


def test_a_refusal_is_final(authority: Authority, tmp_path: Path) -> None:
    with Api(authority.server_context(tmp_path, IP_NAME), [400]) as api:
        with pytest.raises(SendError, match="refused the report: it answered 400"):
            send(REPORT, Endpoint(HOST, api.port), authority=authority.file)
        assert len(api.reports) == 1


def test_where_nobody_listens_it_says_so(authority: Authority) -> None:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(SendError, match="in 3 tries: Connection refused") as caught:
        send(REPORT, Endpoint(HOST, port), authority=authority.file, pause=lambda _: None)
    assert caught.value.unreachable


def test_an_authority_that_is_none_is_named(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.touch()
    for path in (tmp_path / "none.pem", empty):
        with pytest.raises(SendError, match=str(path)):
            send(REPORT, Endpoint(HOST, 1), authority=path)


@pytest.mark.parametrize("drips", [b"HTTP/1.1 100 Continue\r\n\r\n", b"H"])
def test_an_answer_without_an_end_is_not_waited_for(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drips: bytes
) -> None:
    monkeypatch.setattr("engine.report.send._TRY_SECONDS", 0.5)
    monkeypatch.setattr("engine.report.send.TRIES", 1)
    with Api(authority.server_context(tmp_path, IP_NAME), drips=drips) as api:
        with pytest.raises(SendError, match=r"no whole answer in 0\.5 s"):
            send(REPORT, Endpoint(HOST, api.port), authority=authority.file)
        assert len(api.reports) == 1


def test_what_the_other_end_says_is_shown_as_a_terminal_can_be_shown_it(authority: Authority, tmp_path: Path) -> None:
    with Api(authority.server_context(tmp_path, IP_NAME), drips=b"\x1b[2Jnonsense" + b"x" * 1000 + b"\n") as api:
        with pytest.raises(SendError, match=r"\?\[2Jnonsensex*$") as caught:
            send(REPORT, Endpoint(HOST, api.port), authority=authority.file, pause=lambda _: None)
        assert len(str(caught.value)) < 300
        assert len(api.reports) == 3


def test_a_name_that_no_certificate_can_have_is_one_sentence(authority: Authority, tmp_path: Path) -> None:
    with (
        Api(authority.server_context(tmp_path, IP_NAME)) as api,
        pytest.raises(SendError, match=r"'a\.\.b' is no host name"),
    ):
        send(REPORT, Endpoint(HOST, api.port), name="a..b", authority=authority.file)


def test_the_endpoint_is_an_address_and_a_tcp_port() -> None:
    assert Endpoint.parse("203.0.113.7:443/tcp") == Endpoint("203.0.113.7", 443)
    assert Endpoint.parse("[2001:db8::7]:443/tcp") == Endpoint("2001:db8::7", 443)
    for text in ("203.0.113.7:443/udp", "203.0.113.7:443"):
        with pytest.raises(SendError, match="is not TCP"):
            Endpoint.parse(text)
    for text in ("api.example.net:443/tcp", "203.0.113.7/tcp"):
        with pytest.raises(SendError, match="is no address and port"):
            Endpoint.parse(text)
