"""Send the report to the API: HTTP POST /problem-report over TLS 1.3, three tries, and nothing else.

The certificate is verified by the system's authorities, or by one's own (`authority`), for the endpoint's address or
for `name`. It is never asked for by name: in blocking states there is no DNS, and the policy lets only the endpoint's
address through (API-1).
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from engine import __version__

TRIES = 3
PAUSE_SECONDS = 2.0  # before the second try, twice that before the third
_TIMEOUT_SECONDS = 15.0  # without a word
_TRY_SECONDS = 120.0  # with however many
_MOST_WORDS = 200
_PATH = "/problem-report"


class SendError(Exception):
    """Why it was not sent, in one sentence. `unreachable`: the API did not answer at all."""

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


@dataclass(frozen=True)
class Endpoint:
    """Where the API is."""

    host: str  # an IP address
    port: int

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """From the setting, such as "203.0.113.7:443/tcp". SendError if TLS cannot go there."""
        address, _, protocol = text.partition("/")
        host, _, port = address.rpartition(":")
        if protocol != "tcp":
            raise SendError(f"the API's endpoint {text} is not TCP: reports are sent over TLS")
        try:
            return cls(str(ip_address(host.strip("[]"))), int(port))
        except ValueError:
            raise SendError(f"the API's endpoint {text} is no address and port") from None


def send(
    report: str,
    endpoint: Endpoint,
    *,
    name: str | None = None,
    authority: Path | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Send it. SendError when the third try has failed, or at once when another would not help."""
    try:
        (name or "").encode("idna")
    except UnicodeError:
        raise SendError(f"{name!r} is no host name that a certificate could be for") from None
    context = _context(authority)
    body = report.encode()
    for number in range(1, TRIES + 1):
        try:
            _post(body, endpoint, name or endpoint.host, context)
            return
        except ssl.SSLCertVerificationError as error:
            raise SendError(f"the API's certificate is not good: {error.verify_message}") from None
        except (OSError, http.client.HTTPException, _Later) as error:
            if number == TRIES:
                reason = _seen(getattr(error, "strerror", None) or str(error) or type(error).__name__)
                raise SendError(
                    f"the API at {endpoint.host} did not take it in {TRIES} tries: {reason}",
                    unreachable=not isinstance(error, _Later),
                ) from None
        pause(PAUSE_SECONDS * number)


def _seen(words: str) -> str:
    """What may be the other end's own words, as a terminal can be shown them."""
    return "".join(c if c.isprintable() else "?" for c in words[:_MOST_WORDS])


class _Later(Exception):
    """The API answered that it cannot now."""


def _context(authority: Path | None) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=authority)
    except (OSError, ssl.SSLError) as error:
        raise SendError(f"{authority}: {error.strerror or 'there is no certificate in it'}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


@contextmanager
def _within(connection: socket.socket, seconds: float) -> Iterator[None]:
    """End the connection if what is done with it takes longer; the timeout of a socket is one for each read."""
    late = threading.Event()

    def end() -> None:
        late.set()
        with suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    with connection.dup() as other:  # the first one is detached by TLS
        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except (OSError, http.client.HTTPException):
            if late.is_set():
                raise TimeoutError(f"no whole answer in {seconds:g} s") from None
            raise
        finally:
            timer.cancel()
            timer.join()


def _post(body: bytes, endpoint: Endpoint, name: str, context: ssl.SSLContext) -> None:
    """One try."""
    with (
        socket.create_connection((endpoint.host, endpoint.port), _TIMEOUT_SECONDS) as plain,
        _within(plain, _TRY_SECONDS),
        context.wrap_socket(plain, server_hostname=name) as secured,
    ):
        connection = http.client.HTTPConnection(name, endpoint.port)
        connection.sock = secured
        headers = {
            "Content-Type": "text/plain; charset=utf-8",
            "User-Agent": f"molehill/{__version__}",
            "Connection": "close",
        }
        connection.request("POST", _PATH, body, headers)
        with closing(connection.getresponse()) as answer:
            status = answer.status
    if status >= 500:
        raise _Later(f"it answered {status}")
    if not 200 <= status < 300:
        raise SendError(f"the API refused the report: it answered {status}")
