"""`engine: remote` and TLS: another stack plays the endpoint that somebody else runs."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack import RunningStack
from stack_under_test import SEXTANT, Stack, sextant, until
from stack_under_test import stack as own_stack

pytestmark = pytest.mark.slow

HEAD = "apiVersion: sextant.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {name: t}\nspec:\n"


def document(folder: Path, text: str) -> Path:
    path = folder / "deployment.yaml"
    path.write_text(HEAD + text)
    return path


def remote(base_url: str, key: str) -> str:
    return (
        "  model: {name: far, aliases: [deepseek-chat]}\n"
        f"  engine: {{kind: remote, base_url: '{base_url}', api_key: '{key}', upstream_model: "
        f"sextant-nano}}\n"
    )


def ask(made: Stack, model: str = "far") -> tuple[int, str]:
    body = {"model": model, "messages": [{"role": "user", "content": "What is 2 + 3?"}], "temperature": 0}
    answer = made.ask("POST", "/v1/chat/completions", body)
    return answer.status, answer.body.decode()


def test_a_remote_endpoint_is_served_under_our_names(stack: RunningStack, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text(f"{stack.key}\n")
    key.chmod(0o600)
    with own_stack(document=document(tmp_path, remote(stack.openai_url, f"file:{key}"))) as made:
        for model in ("far", "deepseek-chat"):
            status, body = ask(made, model)
            assert status == 200, body
            assert json.loads(body)["choices"][0]["message"]["content"] == "2 + 3 = 5"
        assert [process["kind"] for process in made.status()["processes"]].count("engine") == 1
        assert made.engine()["pid"] == 0
        assert made.stop() == 0


def test_the_key_comes_from_the_environment_and_reaches_the_gateway_alone(
    stack: RunningStack, tmp_path: Path
) -> None:
    path = document(tmp_path, remote(stack.openai_url, "env:FAR_KEY"))
    state = tmp_path / "s"
    made = Stack(state, document=path)
    done = sextant("up", *made.arguments)
    assert done.returncode == 1
    assert "FAR_KEY is not set" in done.stderr
    done = subprocess.run(
        [*SEXTANT, "up", "--detach", *made.arguments], env={**os.environ, "FAR_KEY": stack.key},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    try:
        assert ask(made)[0] == 200
        holding = {
            name
            for name, process in made.processes().items()
            if process["pid"] and stack.key.encode() in Path(f"/proc/{process['pid']}/environ").read_bytes()
        }
        assert holding == {"gateway"}
        assert stack.key not in (state / "run" / "routes.json").read_text()
    finally:
        assert sextant("down", "--state", str(state)).returncode == 0


@pytest.mark.parametrize(
    ("url", "key", "said"),
    [
        ("http://127.0.0.1:1/v1", "good", "nothing listens there"),
        ("{stack}/v1", "bad", "its API key is not accepted"),
        ("{stack}/nowhere", "good", "is the base URL the API's root"),
    ],
)
def test_an_endpoint_that_is_not_well_is_told_and_stops_nothing(
    stack: RunningStack, tmp_path: Path, url: str, key: str, said: str
) -> None:
    secret = tmp_path / "key"
    secret.write_text(stack.key if key == "good" else "sk-wrong")
    secret.chmod(0o600)
    text = remote(url.format(stack=stack.url), f"file:{secret}")
    with own_stack(document=document(tmp_path, text)) as made:
        assert "not ready yet:" in made.said()
        assert said in made.said()
        until(lambda: made.ask("GET", "/ready").status == 503, "not ready")
        assert ask(made)[0] == 503
        assert made.stop() == 0


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A self-signed certificate for 127.0.0.1; `cert.pem` and `key.pem` in one folder."""
    folder = tmp_path_factory.mktemp("tls")
    made = subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-days", "2", "-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1",
         "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    yield folder


def tls(certificate: Path, *, clients: bool = False) -> str:
    files = f"cert_file: {certificate}/cert.pem, key_file: {certificate}/key.pem"
    ca = f", client_ca_file: {certificate}/cert.pem" if clients else ""
    return (
        "  model: {name: sextant-nano}\n  engine: {kind: embedded}\n"
        f"  gateway: {{tls: {{{files}{ca}}}}}\n  control: {{tls: {{{files}}}}}\n"
    )


def get(port: int, path: str, context: ssl.SSLContext, secret: str) -> int:
    connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=20)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {secret}"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("clients", [False, True])
def test_tls_is_1_3_alone(certificate: Path, tmp_path: Path, clients: bool) -> None:
    with own_stack(document=document(tmp_path, tls(certificate, clients=clients))) as made:
        assert f"https://127.0.0.1:{made.port}/v1" in made.said()
        context = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        if clients:
            with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
                get(made.port, "/v1/models", context, made.key)
            context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
        assert get(made.port, "/v1/models", context, made.key) == 200
        assert get(made.control_port, "/health", context, made.admin) == 200
        old = ssl.create_default_context(cafile=str(certificate / "cert.pem"))
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for port in (made.port, made.control_port):
            with pytest.raises(ssl.SSLError):
                get(port, "/health", old, made.admin)
        assert sextant("key", "list", "--state", str(made.root)).returncode == 0
        if not clients:
            asked = sextant("chat", "What is 2 + 3?", "--state", str(made.root))
            assert asked.stdout == "2 + 3 = 5\n", asked.stderr
        assert made.stop() == 0


def test_wrong_tls_files_are_told(tmp_path: Path) -> None:
    made = Stack(tmp_path / "s", document=document(tmp_path, tls(tmp_path)))
    done = sextant("up", *made.arguments)
    assert done.returncode == 1
    assert "the TLS files cannot be used" in done.stderr
    assert "Traceback" not in done.stderr


def test_plain_http_beyond_this_machine_works_when_asked_for() -> None:
    with own_stack("--host", "0.0.0.0", "--insecure") as made:
        assert "warning: the API listens on 0.0.0.0 without TLS" in made.said()
        assert made.chat().status == 200
        assert made.stop() == 0
