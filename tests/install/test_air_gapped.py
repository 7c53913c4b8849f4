"""The air-gapped kit: collected on a machine with an index and a hub, installed where there is no network.

Real: collect.sh with pip and the product's own fetching, the closed machine's network (a namespace with
nothing but its loopback), the scripts, the processes. Stand-ins: the hub is a local one, the index a folder
of wheels that pip's own configuration names.
"""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import sextant
from app.fake_hub import FakeHub, serve
from install.conftest import TIMEOUT_S, Server, write_bundle
from stack import free_ports

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

MODEL = Path(sextant.__file__).parent / "models/nano/sextant-nano.gguf"
DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: vault}}
spec:
  mode: on-prem
  model: {{name: nano, source: "hf:plant/nano"{more}}}
  engine: {{kind: embedded}}
  gateway: {{host: 0.0.0.0, port: {front}, tls: {{cert_file: server.pem, key_file: server.key}}}}
  control: {{port: {control}}}
"""
LOOPBACK_UP = """
import fcntl, os, socket, struct, sys, time
with socket.socket() as any:
    fcntl.ioctl(any, 0x8914, struct.pack("16sh14x", b"lo", 1 | 64))  # SIOCSIFFLAGS: up, running
print("up", flush=True)
sys.stdin.read()
"""
ASK = """
import json, ssl, sys, urllib.request
url, key, authority = sys.argv[1:]
body = {"model": "nano", "messages": [{"role": "user", "content": "What is 58 + 67?"}]}
headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
context = ssl.create_default_context(cafile=authority)
answer = json.load(urllib.request.urlopen(request, context=context, timeout=20))
print(answer["choices"][0]["message"]["content"])
"""


@pytest.fixture
def closed() -> Iterator[tuple[str, ...]]:
    """What runs a command in a network that has nothing but its own loopback."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    keeper = subprocess.Popen(
        ["unshare", *user, "--net", sys.executable, "-c", LOOPBACK_UP],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert keeper.stdin is not None and keeper.stdout is not None
    assert keeper.stdout.readline() == "up\n"
    enter = ("--net",) if os.geteuid() == 0 else ("--user", "--preserve-credentials", "--net")
    yield ("nsenter", f"--target={keeper.pid}", *enter)
    keeper.stdin.close()
    keeper.wait(20)
    keeper.stdout.close()


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serve() as served:
        served.add("plant/nano", {"nano-Q8_0.gguf": MODEL.read_bytes()})
        yield served


@dataclasses.dataclass(frozen=True)
class Connected:
    """The machine that has an index and a hub."""

    folder: Path
    hub: FakeHub
    wheels: Path
    ports: tuple[int, int]

    def bundle(self, name: str, *, more: str = "") -> Path:
        front, control = self.ports
        return write_bundle(DOCUMENT.format(front=front, control=control, more=more), self.folder / name)

    def collect(self, bundle: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """collect.sh, with Sextant from a file, since no index has it yet."""
        (ours,) = self.wheels.glob("sextant_llm-*.whl")
        index = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels), "PIP_NO_COMPILE": "1"}
        return subprocess.run(
            [bundle / "collect.sh", *(arguments or ("--wheel", str(ours)))],
            env={
                **os.environ,
                "SEXTANT_PYTHON": sys.executable,
                "HF_ENDPOINT": self.hub.url,
                **index,
                **environment,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )


def test_from_a_connected_machine_to_a_closed_one(
    server: Server, wheels: Path, hub: FakeHub, closed: tuple[str, ...], tmp_path: Path
) -> None:
    connected = Connected(tmp_path, hub, wheels, free_ports(2))
    kit = connected.bundle("kit")
    certificate = _certificate(tmp_path)
    server = dataclasses.replace(server, within=closed)
    done = server.run(kit / "install-offline.sh", *certificate)
    assert done.returncode == 1 and "was not collected" in done.stderr

    _says_what_is_missing(connected, kit)
    done = connected.collect(kit)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in kit.glob("cache/hf/plant/nano/snapshots/*/*.gguf")] == ["nano-Q8_0.gguf"]
    listed = (kit / "SHA256SUMS").read_text().splitlines()
    assert len(listed) == sum(path.is_file() for path in kit.rglob("*")) - 1, "every file but the list itself"
    assert not (kit / ".collect").exists()

    _refuses_what_is_not_as_collected(server, kit, certificate)
    reached = f"import urllib.request as u; u.urlopen({hub.url!r}, timeout=5)"
    assert server.run(Path(sys.executable), "-c", reached).returncode == 1, "no way out of here"
    done = server.run(kit / "install-offline.sh", *certificate)
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert "= 125" in _asked(server, connected)

    later = connected.bundle("later", more=", aliases: [deepseek-chat]")
    assert connected.collect(later).returncode == 0
    done = server.run(later / "upgrade.sh")
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert "Bringing" not in done.stdout, "the same model is not brought twice"
    assert "= 125" in _asked(server, connected)


def _says_what_is_missing(connected: Connected, kit: Path) -> None:
    done = connected.collect(kit, PIP_FIND_LINKS=str(connected.folder))
    assert done.returncode == 1 and "pip could not fetch" in done.stderr
    done = connected.collect(kit, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode == 1 and "hf:plant/nano could not be fetched" in done.stderr
    assert not (kit / "SHA256SUMS").exists(), "what was not collected whole has no list"


def _refuses_what_is_not_as_collected(server: Server, kit: Path, certificate: tuple[str, ...]) -> None:
    (model,) = kit.glob("cache/hf/plant/nano/snapshots/*/*.gguf")
    wheel = next(kit.glob("wheels/msgspec-*.whl"))
    for file, text in ((kit / "wheels/more.whl", "not listed"), (kit / "kit/weights.txt", None)):
        before = file.read_text() if file.exists() else None
        file.unlink() if text is None else file.write_text(text)
        done = server.run(kit / "install-offline.sh", *certificate)
        assert done.returncode == 1 and f"({file.relative_to(kit)})" in done.stderr, done.stderr
        file.unlink() if before is None else file.write_text(before)
    for file in (wheel, kit / "systemd/sextant.service"):
        _refused_damaged(server, kit, file, certificate)
    assert not server.current.exists() and not (server.root / "etc/sextant").exists()
    extra = model.with_name("more")
    extra.write_text("not listed")
    done = server.run(kit / "install-offline.sh", *certificate)
    assert done.returncode == 1 and f"({extra.relative_to(kit)})" in done.stderr, done.stderr
    extra.unlink()
    _refused_damaged(server, kit, model, certificate)
    assert not (server.root / "etc/sextant/installed").exists()


def _refused_damaged(server: Server, kit: Path, file: Path, certificate: tuple[str, ...]) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = server.run(kit / "install-offline.sh", *certificate)
    assert done.returncode == 1, done.stdout
    assert f"is damaged or was changed ({file.relative_to(kit)})" in done.stderr, done.stderr
    file.write_bytes(whole)


def _asked(server: Server, connected: Connected) -> str:
    key = (server.state / "secrets/local-cli").read_text().strip()
    url = f"https://127.0.0.1:{connected.ports[0]}/v1/chat/completions"
    done = server.run(Path(sys.executable), "-c", ASK, url, key, str(connected.folder / "server.pem"))
    assert done.returncode == 0, done.stderr + server.logs()
    return done.stdout


def _certificate(folder: Path) -> tuple[str, ...]:
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1")
    made = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = ("-keyout", str(folder / "server.key"), "-out", str(folder / "server.pem"))
    subprocess.run([*made, *files, "-days", "2", *names], check=True, capture_output=True)
    return ("--cert", str(folder / "server.pem"), "--key", str(folder / "server.key"))


REPOSITORIES = ("library/python", "nginxinc/nginx-unprivileged")


@pytest.fixture
def registry() -> Iterator[str]:
    """A registry of container images on loopback, as its protocol has it; all of them are the same image."""
    layer = gzip.compress(b"\0" * 10240, mtime=0)
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [_digest(b"\0" * 10240)]},
        }
    ).encode()
    kind = "application/vnd.docker.distribution.manifest.v2+json"
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": kind,
            "config": _described("application/vnd.docker.container.image.v1+json", config),
            "layers": [_described("application/vnd.docker.image.rootfs.diff.tar.gzip", layer)],
        }
    ).encode()
    blobs = {_digest(data): data for data in (layer, config)}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name, _, what = self.path.removeprefix("/v2/").rpartition("/")
            found = blobs.get(what)
            if name.endswith("/manifests") and name.removesuffix("/manifests") in REPOSITORIES:
                found = manifest
            self.send_response(200 if found is not None or self.path == "/v2/" else 404)
            self.send_header("Content-Type", kind if found is manifest else "application/octet-stream")
            self.send_header("Content-Length", str(len(found or b"")))
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else found or b"")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _described(kind: str, data: bytes) -> dict[str, object]:
    return {"mediaType": kind, "size": len(data), "digest": _digest(data)}


def test_images_are_collected_from_a_registry(
    wheels: Path, hub: FakeHub, registry: str, tmp_path: Path
) -> None:
    front, control = free_ports(2)
    text = DOCUMENT.format(front=front, control=control, more="")
    delivery = f"  delivery: {{orchestration: compose, registry: '{registry}'}}\n"
    kit = write_bundle(text + delivery, tmp_path / "kit")
    script = kit / "collect.sh"
    # The wheels of this test are of this machine's Python, not of the image's.
    lines = [line for line in script.read_text().splitlines() if not line.startswith("platforms=")]
    script.write_text(
        "\n".join(lines).replace("python_version='3.13'", "python_version='' platforms=''") + "\n"
    )
    settings = tmp_path / "home/.config/containers/registries.conf"
    settings.parent.mkdir(parents=True)
    settings.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    connected = Connected(tmp_path, hub, wheels, (front, control))
    (tmp_path / "bare").mkdir()
    for program in ("sh", "dirname", "uname", "cat", "python3"):
        (tmp_path / "bare" / program).symlink_to(shutil.which(program) or "")
    done = connected.collect(kit, PATH=str(tmp_path / "bare"))
    assert done.returncode == 1 and "neither skopeo nor docker is here" in done.stderr
    done = connected.collect(kit, HOME=str(tmp_path / "home"))
    assert done.returncode == 0, done.stdout + done.stderr
    for repository in REPOSITORIES:
        (archive,) = kit.glob(f"images/*{repository.replace('/', '-')}*.tar")
        with tarfile.open(archive) as opened:
            (described,) = json.load(opened.extractfile("manifest.json"))  # type: ignore[arg-type]
        assert described["RepoTags"][0].startswith(f"{registry}/{repository}:"), (
            "under the name that compose has"
        )
        assert f"images/{archive.name}" in (kit / "SHA256SUMS").read_text()
