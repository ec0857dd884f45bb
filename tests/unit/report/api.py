"""An API on loopback: HTTP over real TLS, with a certificate from an authority made for the test."""

from __future__ import annotations

import datetime
import ssl
import threading
import time
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "127.0.0.1"
NAME = "api.example.net"


@dataclass(frozen=True)
class Authority:
    """An authority that trusts nobody and is trusted by who is given `file`."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    file: Path

    @classmethod
    def make(cls, folder: Path) -> Authority:
        """A new one; its certificate is in a file in the folder."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        certificate = (
            _dated(name, name, key)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                    key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
            .sign(key, hashes.SHA256())
        )  # fmt: skip
        file = folder / "authority.pem"
        file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return cls(key, certificate, file)

    def server_context(self, folder: Path, names: list[x509.GeneralName]) -> ssl.SSLContext:
        """A server's side of TLS with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _dated(x509.Name([]), self.certificate.subject, key)
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .sign(self.key, hashes.SHA256())
        )
        file = folder / "server.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context


def _dated(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1)).not_valid_after(now + datetime.timedelta(days=1))
    )  # fmt: skip


IP_NAME: list[x509.GeneralName] = [x509.IPAddress(ip_address(HOST))]
DNS_NAME: list[x509.GeneralName] = [x509.DNSName(NAME)]


class Api:
    """Takes reports, or answers as told; a context manager. `reports` has what it was sent."""

    def __init__(self, context: ssl.SSLContext, answers: list[int] | None = None, drips: bytes = b"") -> None:
        """`drips`: what it answers instead, again and again, a little at a time."""
        self.reports: list[tuple[str, str]] = []
        self.connections = 0
        self.refused: list[Exception] = []  # by TLS
        left = answers or []
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                api.reports.append((self.path, text))
                while drips:
                    self.wfile.write(drips)
                    time.sleep(0.05)
                self.send_response(left.pop(0) if left else 204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        class Server(HTTPServer):
            def finish_request(self, request: object, client_address: object) -> None:
                api.connections += 1
                try:
                    with context.wrap_socket(request, server_side=True) as secured:  # type: ignore[arg-type]
                        Handler(secured, client_address, self)  # type: ignore[arg-type]
                except OSError as error:
                    api.refused.append(error)

            def shutdown_request(self, request: object) -> None:
                request.close()  # type: ignore[attr-defined]

        self._server = Server((HOST, 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Api:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join(5)
        self._server.server_close()
