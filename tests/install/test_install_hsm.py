"""The rendered front with its TLS key in an HSM: nginx, OpenSSL's engine and SoftHSM, as the unit starts
them.

Real: the bundle's files and scripts, the unit's commands with its environment and its credential, TLS 1.3.
Not here: systemd as process 1, a real HSM; process 1's users are not there either, so nginx's workers are
nobody's.
"""

from __future__ import annotations

import dataclasses
import http.server
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from install.conftest import RUNNER, write_bundle
from security.softhsm_kit import PIN, SoftHsm, soft_hsm
from stack import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FRONT = "sextant-front.service"
WITHIN_S = 60.0
DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: plant}}
spec:
  mode: on-prem
  profile: finance
  model: {{name: sextant-nano}}
  engine: {{kind: embedded}}
  gateway: {{host: 127.0.0.2, port: {port}, tls: {{cert_file: server.pem, key_file: server.key}}}}
  security:
    hsm:
      module: /usr/lib/softhsm/libsofthsm2.so
      token: front
      pin: file:/etc/sextant/hsm-pin
      tls_key: front
      environment: {{SOFTHSM2_CONF: {conf}}}
"""


@dataclasses.dataclass(frozen=True)
class Server:
    """A scratch root with the bundle's files in place, as its scripts put them."""

    root: Path
    hsm: SoftHsm
    bundle: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "SEXTANT_ROOT": str(self.root), "UNIT_RUNNER_OWNER": str(os.getpid())}

    @property
    def pin(self) -> Path:
        return self.root / "etc/sextant/hsm-pin"

    @property
    def document(self) -> Path:
        return self.root / "opt/sextant/current/bundle/sextant.yaml"

    @property
    def certificate(self) -> Path:
        return self.root / "etc/sextant/tls/server.pem"

    def shell(self, text: str) -> subprocess.CompletedProcess[str]:
        """Commands that know what the bundle's scripts know."""
        return self.run("sh", "-euc", f"cd {self.bundle}; . ./settings.sh; . ./lib.sh; {text}")

    def asks(self) -> subprocess.CompletedProcess[str]:
        """The question that install.sh and upgrade.sh put to the HSM before they change anything."""
        release = 'mkdir -p "$base/releases"; ln -sfn ../current "$base/releases/here"; staged=here'
        return self.shell(f"{release}; hsm_answers {self.certificate}")

    def run(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            list(map(str, words)), env=self.environment, capture_output=True, text=True, timeout=120
        )

    def unit(self, verb: str) -> None:
        done = self.run(sys.executable, RUNNER, verb, FRONT)
        assert done.returncode == 0, done.stderr

    def log(self) -> str:
        return (self.root / f"run/unit-runner/{FRONT}.log").read_text()

    def said(self, words: str) -> None:
        """Returns once the unit's log has them."""
        until(lambda: words in self.log(), self.log)

    def handshake(self) -> str | None:
        """The version of TLS that callers get, verified; None while nobody listens."""
        context = ssl.create_default_context(cafile=str(self.root / "ca.pem"))
        try:
            plain = socket.create_connection(("127.0.0.2", self.port), timeout=10)
            with plain, context.wrap_socket(plain, server_hostname="127.0.0.2") as tls:
                tls.sendall(b"GET /health HTTP/1.1\r\nHost: plant\r\nConnection: close\r\n\r\n")
                assert b"200 OK" in tls.recv(1000)
                return tls.version()
        except ConnectionRefusedError:
            return None


def until(met: Callable[[], object], otherwise: Callable[[], str]) -> None:
    """Waits for something that must come."""
    end_s = time.monotonic() + WITHIN_S
    while not met():
        assert time.monotonic() < end_s, otherwise()
        time.sleep(0.1)


@pytest.fixture
def server() -> Iterator[Server]:
    root = Path(tempfile.mkdtemp(prefix="sx-hsm-", dir="/var/tmp"))
    root.chmod(0o755)
    hsm = soft_hsm(root / "hsm", "front")
    (port,) = free_ports(1)
    bundle = write_bundle(DOCUMENT.format(port=port, conf=hsm.conf), root / "plant")
    made = Server(root, hsm, bundle, port)
    _laid_out(made)
    yield made
    print(made.log() if (root / "run/unit-runner").exists() else "the front was not started")
    made.unit("stop")
    shutil.rmtree(root)


def _laid_out(server: Server) -> None:
    """What `stage` and `switch_to` do, but for Sextant itself, which is this one."""
    programs = server.root / "opt/sextant/current/venv/bin"
    programs.mkdir(parents=True)
    (programs / "sextant").write_text(f'#!/bin/sh\nexec {sys.executable} -m sextant.cli.main "$@"\n')
    (programs / "sextant").chmod(0o755)
    copied = server.shell(
        'mkdir -p "$etc/tls" "$unit_dir" "$base/current/bundle" "$root/run"; '
        'for file in systemd/*; do relocated "$file" >"$unit_dir/${file##*/}"; done; '
        'for file in front/*; do relocated "$file" >"$etc/${file##*/}"; done; '
        'relocated sextant.yaml >"$base/current/bundle/sextant.yaml"'
    )
    assert copied.returncode == 0, copied.stderr
    server.pin.write_text(PIN)
    server.pin.chmod(0o600)


def _certified(server: Server) -> None:
    """The key made in the token, its request signed by an authority."""
    made = server.hsm.sextant("hsm", "init", server.document)
    assert made.returncode == 0, made.stderr
    csr = server.root / "csr"
    server.hsm.sextant("hsm", "request", server.document, "--name", "127.0.0.2", "-o", csr)
    ca = ("-keyout", server.root / "ca.key", "-out", server.root / "ca.pem", "-subj", "/CN=ca")
    kind = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    server.run("openssl", *kind, *ca)
    signed = ("-CA", server.root / "ca.pem", "-CAkey", server.root / "ca.key", "-copy_extensions", "copy")
    issued = server.run(
        "openssl", "x509", "-req", "-in", csr, *signed, "-days", "2", "-out", server.certificate
    )
    assert issued.returncode == 0, issued.stderr
    server.run("chmod", "-R", "a+rX", server.hsm.folder / "tokens", server.hsm.conf)


@pytest.fixture
def gateway(server: Server) -> Iterator[None]:
    """Who stands behind the front."""

    class Healthy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"ok")

        def log_message(self, *_: object) -> None:
            pass

    found = re.search(r"url=http://127.0.0.1:(\d+)", (server.bundle / "settings.sh").read_text())
    assert found is not None
    behind = http.server.ThreadingHTTPServer(("127.0.0.1", int(found[1])), Healthy)
    thread = threading.Thread(target=behind.serve_forever)
    thread.start()
    yield
    behind.shutdown()
    thread.join()
    behind.server_close()


@pytest.mark.usefixtures("gateway")
def test_callers_are_answered_with_a_key_that_never_leaves_the_token(server: Server) -> None:
    _certified(server)
    assert not list(server.root.glob("etc/sextant/tls/*.key")), "there is no key in a file"
    for path in [*server.bundle.rglob("*"), *server.root.glob("etc/sextant/*.c*")]:
        assert path.is_dir() or PIN not in path.read_text(), path
    server.unit("start")
    until(server.handshake, server.log)
    assert [server.handshake() for _ in range(20)] == ["TLSv1.3"] * 20, "by every worker"
    server.unit("reload")
    assert server.handshake() == "TLSv1.3"
    asked = server.asks()
    assert asked.returncode == 0, asked.stderr


def test_a_wrong_pin_is_tried_once_and_the_front_says_so(server: Server) -> None:
    _certified(server)
    server.pin.write_text("000000")
    server.unit("start")
    server.said("refused the PIN")
    server.said("so it is not tried again: tokens lock")
    assert server.log().count("refused the PIN") == 1 and server.handshake() is None
    server.pin.write_text(PIN)
    assert server.hsm.sextant("hsm", "check", server.document, "--after-wrong-pin").returncode == 0
    until(lambda: _listens(server), server.log)


def _listens(server: Server) -> bool:
    with socket.socket() as to:
        return to.connect_ex(("127.0.0.2", server.port)) == 0


def test_without_its_token_nothing_starts_and_nothing_is_installed(server: Server) -> None:
    _certified(server)
    shutil.rmtree(server.hsm.folder / "tokens")
    (server.hsm.folder / "tokens").mkdir()
    server.unit("start")
    server.said("has no token front")
    refused = server.asks()
    assert refused.returncode == 1
    assert "has no token front" in refused.stderr and "nothing was changed" in refused.stderr


def test_the_installer_wants_a_certificate_and_no_key(server: Server) -> None:
    (server.root / "key").write_text("a key")
    none = server.run(server.bundle / "install.sh")
    assert "a TLS certificate is needed, for the key in the HSM: --cert FILE" in none.stderr
    both = server.run(
        server.bundle / "install.sh", "--cert", server.root / "key", "--key", server.root / "key"
    )
    assert "the front's key is in the HSM; leave --key away" in both.stderr


def test_another_keys_certificate_is_refused_before_nginx_sees_it(server: Server) -> None:
    _certified(server)
    made = (
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        "/CN=x",
    )
    server.run("openssl", *made, "-days", "2", "-keyout", server.root / "x.key", "-out", server.certificate)
    server.unit("start")
    server.said("is not the certificate of the key front")
    assert not _listens(server)
