"""The scripts inside cluster bundles, run: choosing weights, copying them to a node, fetching, warming up."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.render.orders import DISTILLED, order
from tests.render.schema_check import objects_of, of_kind

from sextant.render import render
from sextant.render.kubernetes.compiled import KEEP
from sextant.render.kubernetes.weights import AHEAD, CHOOSE

ALL = objects_of(render(order("private-cloud", **DISTILLED)))


def script_of(kind: str, name: str) -> str:
    """The shell script that a pod runs."""
    body = next(each for each in of_kind(ALL, kind) if each["metadata"]["name"].startswith(name))
    command = body["spec"]["template"]["spec"]["containers"][0]["command"]
    return str(command[-1])


FETCH, COPY = script_of("Job", "fetch"), script_of("DaemonSet", "node-cache")


def run(script: str, root: Path, *arguments: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a script whose folders are below `root`."""
    moved = re.sub(r"(?<![\w$}.])/(weights-cache|weights|models|compiled)(?=[/\n])", rf"{root}/\1", script)
    environment = {"PATH": f"{path}:{os.environ['PATH']}" if path else os.environ["PATH"]}
    return subprocess.run(
        ["/bin/sh", "-eu", "-c", moved, "script", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("weights", "weights-cache", "models", "compiled"):
        (tmp_path / name).mkdir()
    return tmp_path


def put(folder: Path, mark: str) -> None:
    """A model's folder, whole."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / ".whole").write_text(mark)


def test_the_nodes_copy_is_taken_when_it_is_whole_and_current(root: Path) -> None:
    put(root / "weights" / "m", "v1")
    put(root / "weights-cache" / "m", "v1")
    assert run(CHOOSE, root, "m").returncode == 0
    assert (root / "models" / "m").readlink() == root / "weights-cache" / "m"


def test_an_old_copy_is_not_taken(root: Path) -> None:
    put(root / "weights" / "m", "v2")
    put(root / "weights-cache" / "m", "v1")
    assert run(CHOOSE, root, "m").returncode == 0
    assert (root / "models" / "m").readlink() == root / "weights" / "m"


def test_half_a_copy_is_not_taken(root: Path) -> None:
    put(root / "weights" / "m", "v1")
    (root / "weights-cache" / "m").mkdir()
    assert run(CHOOSE, root, "m").returncode == 0
    assert (root / "models" / "m").readlink() == root / "weights" / "m"


def test_without_weights_it_says_who_brings_them(root: Path) -> None:
    done = run(CHOOSE, root, "m")
    assert done.returncode == 1
    assert "the job fetch-m puts them there" in done.stderr


def test_compiled_code_is_kept_in_a_folder_that_nobody_else_may_write(root: Path) -> None:
    assert run(KEEP, root, "m", "m-1", "leave").returncode == 0
    kept = root / "compiled" / "m-1"
    assert kept.stat().st_mode & 0o7777 == 0o700
    assert (root / "models" / ".compiled").readlink() == kept
    (kept / "graph").write_text("x")
    assert run(KEEP, root, "m", "m-1", "leave").returncode == 0
    assert (root / "models" / ".compiled" / "graph").read_text() == "x"


def test_a_folder_that_others_could_write_is_closed_to_them(root: Path) -> None:
    (root / "compiled" / "m-1").mkdir(mode=0o700)
    (root / "compiled" / "m-1").chmod(0o777)
    assert run(KEEP, root, "m", "m-1", "leave").returncode == 0
    assert (root / "compiled" / "m-1").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("planted", ["link", "nothing", "another's"])
def test_a_folder_that_is_not_its_own_is_not_used(root: Path, planted: str) -> None:
    elsewhere = root / "elsewhere"
    elsewhere.mkdir()
    if planted == "link":
        (root / "compiled" / "m-1").symlink_to(elsewhere)
    elif planted == "nothing":
        (root / "compiled").rmdir()
        (root / "compiled").write_text("no folder")
    else:
        if os.geteuid() != 0:
            pytest.skip("only root can give a folder to somebody else")
        (root / "compiled" / "m-1").mkdir()
        os.chown(root / "compiled" / "m-1", 4711, 4711)
    done = run(KEEP, root, "m", "m-1", "leave")
    assert done.returncode == 0
    own = root / "models" / ".compiled"
    assert own.is_dir() and not own.is_symlink()
    assert "keeps no compiled code" in done.stderr


def test_an_engine_that_compiles_nothing_has_no_folder(root: Path) -> None:
    assert run(KEEP, root, "m", "", "leave").returncode == 0
    assert list((root / "compiled").iterdir()) == list((root / "models").iterdir()) == []


def test_weights_are_read_ahead_where_they_have_room(root: Path) -> None:
    put(root / "weights" / "m", "v1")
    for number in range(20):
        (root / "weights" / "m" / f"{number}.safetensors").write_bytes(bytes(100_000))
    done = run(CHOOSE + KEEP + AHEAD, root, "m", "m-1", "read")
    assert done.returncode == 0 and "m was read into memory in" in done.stdout
    left = run(CHOOSE + KEEP + AHEAD, root, "m", "m-1", "leave")
    assert left.returncode == 0 and "read into memory" not in left.stdout


def fake_sextant(folder: Path, found: Path) -> str:
    """A `sextant model pull` that answers at once; the real one needs a hub."""
    folder.mkdir()
    program = folder / "sextant"
    program.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\necho \'{{"path": "{found}"}}\'\n')
    program.chmod(0o755)
    return str(folder)


def test_what_is_fetched_is_whole_and_fetched_once(root: Path) -> None:
    put(root / "hub", "")
    path = fake_sextant(root / "bin", root / "hub")
    for _ in range(2):
        assert run(FETCH, root, "m", "hf:a/b@v1", path=path).returncode == 0
    assert (root / "weights" / "m" / ".whole").read_text() == "hf:a/b@v1\n"
    assert (root / "weights" / "m" / "config.json").read_text() == "{}"
    assert (root / "bin" / "asked").read_text().count("model pull hf:a/b@v1") == 1


def test_another_version_takes_the_place_of_the_first(root: Path) -> None:
    put(root / "hub", "")
    path = fake_sextant(root / "bin", root / "hub")
    run(FETCH, root, "m", "hf:a/b@v1", path=path)
    (root / "hub" / "config.json").write_text('{"new": 1}')
    assert run(FETCH, root, "m", "hf:a/b@v2", path=path).returncode == 0
    assert (root / "weights" / "m" / "config.json").read_text() == '{"new": 1}'
    assert (root / "weights" / "m" / ".whole").read_text() == "hf:a/b@v2\n"


def test_a_single_file_gets_the_name_that_engines_ask_for(root: Path) -> None:
    (root / "file.gguf").write_bytes(b"GGUF")
    path = fake_sextant(root / "bin", root / "file.gguf")
    assert run(FETCH, root, "m", "hf:a/b:file.gguf", path=path).returncode == 0
    assert (root / "weights" / "m" / "model.gguf").read_bytes() == b"GGUF"


def test_a_failed_fetch_leaves_no_mark(root: Path) -> None:
    (root / "bin").mkdir()
    program = root / "bin" / "sextant"
    program.write_text("#!/bin/sh\nexit 3\n")
    program.chmod(0o755)
    assert run(FETCH, root, "m", "hf:a/b", path=str(root / "bin")).returncode != 0
    assert not (root / "weights" / "m").exists()


def test_a_node_copies_what_is_whole(root: Path) -> None:
    put(root / "weights" / "m", "v1")
    assert run(_once(COPY), root, "m").returncode == 0
    assert (root / "weights-cache" / "m" / ".whole").read_text() == "v1"
    (root / "weights" / "m" / ".whole").write_text("v2")
    assert run(_once(COPY), root, "m").returncode == 0
    assert (root / "weights-cache" / "m" / ".whole").read_text() == "v2"


def test_a_node_that_may_not_write_says_so_and_goes_on(root: Path) -> None:
    put(root / "weights" / "m", "v1")
    shutil.rmtree(root / "weights-cache")
    (root / "weights-cache").write_text("no folder")
    done = run(_once(COPY), root, "m")
    assert done.returncode == 0
    assert "engines read the shared volume" in done.stderr


def _once(script: str) -> str:
    """One round of the loop."""
    assert "sleep 60 & wait $!" in script
    return script.replace("sleep 60 & wait $!", "exit 0")


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
@pytest.mark.parametrize("script", [CHOOSE, FETCH, COPY], ids=["choose", "fetch", "copy"])
def test_shellcheck_finds_nothing(script: str) -> None:
    done = subprocess.run(["shellcheck", "--shell=sh", "-"], input=script, capture_output=True, text=True)
    assert done.stdout == ""
    bad = subprocess.run(
        ["shellcheck", "--shell=sh", "-"], input="rm -rf $1/x\n" + script, capture_output=True, text=True
    )
    assert bad.stdout != ""


Heard = tuple[str, list[dict[str, Any]], list[int]]
"""Where it answers, the chats it was asked, how often it was asked whether it is ready."""


class FakeGateway(http.server.BaseHTTPRequestHandler):
    """Ready at the second question; answers every chat."""

    asked: list[dict[str, Any]]
    looks: list[int]

    def do_GET(self) -> None:
        self.looks[0] += 1
        self._answer(200 if self.looks[0] > 1 else 503)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append({**body, "key": self.headers["authorization"]})
        self._answer(200)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps quiet."""


@pytest.fixture
def gateway() -> Iterator[Heard]:
    asked: list[dict[str, Any]] = []
    looks = [0]
    handler = type("Handler", (FakeGateway,), {"asked": asked, "looks": looks})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", asked, looks
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_the_job_warms_every_replica_up(tmp_path: Path, gateway: Heard) -> None:
    base, asked, looks = gateway
    (configuration,) = [each for each in of_kind(ALL, "ConfigMap") if each["metadata"]["name"] == "warm-up"]
    for name in ("key/api-key", "ca/ca.crt"):
        (tmp_path / name).parent.mkdir()
    (tmp_path / "key/api-key").write_text("sk-warm\n")
    script = configuration["data"]["warm_up.py"].replace("/etc/warm-up", str(tmp_path))
    script = script.replace('ssl.create_default_context(cafile="' + str(tmp_path), 'None and ("')
    prompts = json.loads(configuration["data"]["prompts.json"])
    prompts[0]["replicas"] = 3
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    done = subprocess.run([sys.executable, "-c", script, base], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert looks[0] == 2  # it was not ready at first
    assert [each["model"] for each in asked] == ["r1-7b"] * 3
    assert {each["key"] for each in asked} == {"Bearer sk-warm"}
