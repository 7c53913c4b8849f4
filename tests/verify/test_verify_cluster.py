"""`sextant verify` and `apply` against an API server: through the real kubectl, to a stand-in on loopback.

Where `KUBECONFIG` names a cluster that may be used for it, bundles are applied there too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.render.orders import DISTILLED, R1, document
from tests.render.schema_check import schemas
from tests.verify.bundles_under_test import change_objects, rendered, sign_again
from tests.verify.fake_api_server import FakeApiServer, kubeconfig, serving

from sextant.operations.verify.cluster_programs import DRY_RUN
from sextant.operations.verify.verifying import verify

Object = dict[str, Any]
BIN = Path(sys.executable).parent
KUBECTL = BIN / "kubectl"
CLUSTER = os.environ.get("KUBECONFIG", "") if os.environ.get("SEXTANT_CLUSTER_TESTS") == "1" else ""
FOREIGN = ("velero",)
"""Namespaces of the prerequisites."""


def objects_of(bundle: Path) -> list[Object]:
    """Every object of a bundle on disk."""
    files = sorted(bundle.rglob("*.yaml"))
    return [
        body for path in files for body in yaml.safe_load_all(path.read_text()) if body and "kind" in body
    ]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rendered(document("private-cloud", **DISTILLED), tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def api(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApiServer]:
    """A cluster with the prerequisites, and nothing of ours."""
    kinds = {(body["apiVersion"], body["kind"]) for body in objects_of(bundle)}
    with serving(FakeApiServer(kinds, schemas())) as server:
        for name in FOREIGN:
            server.objects[f"Namespace//{name}"] = {}
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, server.url)))
        monkeypatch.setenv("PATH", f"{BIN}:{os.environ['PATH']}")
        monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps what it discovered below it
        yield server


def apply(bundle: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """`sextant apply`, without a question."""
    command = [sys.executable, "-m", "sextant.cli.main", "apply", str(bundle), "--yes", *more]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def dry_run(bundle: Path) -> tuple[list[str], list[str]]:
    """What the API server's judgement of a bundle came to: faults, and why it was not given."""
    report = verify(bundle, kubernetes="1.36", kept=schemas())
    faults = [fault.what for fault in report.faults if fault.rule == DRY_RUN]
    return faults, [each.why for each in report.not_run if each.check == DRY_RUN]


@pytest.mark.slow
def test_a_bundle_is_tried_then_applied_whole(bundle: Path, api: FakeApiServer) -> None:
    faults, why_not = dry_run(bundle)
    assert faults == [] and "namespaces that the cluster does not have yet" in why_not[0]
    assert set(api.objects) == {f"Namespace//{name}" for name in FOREIGN}
    done = apply(bundle, "--context", "fake", "--k8s", "1.36")
    assert done.returncode == 0, done.stdout + done.stderr
    sent = [body for part in ("cluster", "manifests") for body in objects_of(bundle / part)]
    assert len(api.objects) == len(sent) + len(FOREIGN)
    assert f"Applied {len(objects_of(bundle / 'manifests'))} objects of manifests/" in done.stdout
    assert dry_run(bundle) == ([], [])
    again = apply(bundle)
    assert again.returncode == 0, again.stderr


def test_an_object_that_the_api_server_refuses_is_a_fault(
    bundle: Path, api: FakeApiServer, tmp_path: Path
) -> None:
    """The planted mistake for the check that takes a cluster; missing namespaces hide nothing."""
    api.refuse["PriorityClass/sextant-batch"] = (422, "Invalid", "PriorityClass is invalid: value: too high")
    faults, _ = dry_run(bundle)
    assert len(faults) == 1 and "value: too high" in faults[0]
    refused = apply(bundle)
    assert refused.returncode == 1 and "Refused" in refused.stdout
    assert len(api.objects) == len(FOREIGN)


@pytest.mark.slow
def test_a_kind_that_the_cluster_does_not_know_is_named(bundle: Path, api: FakeApiServer) -> None:
    api.kinds = {(version, kind) for version, kind in api.kinds if kind != "ScaledObject"}
    faults, _ = dry_run(bundle)
    assert any('no matches for kind "ScaledObject"' in fault for fault in faults)


REFUSALS = {
    "conflict": (
        409,
        "Conflict",
        'Apply failed with 1 conflict: conflict with "hpa": .spec',
        "--force-conflicts",
    ),
    "forbidden": (403, "Forbidden", 'deployments is forbidden: User "x" cannot patch', "this user may not"),
    "invalid": (422, "Invalid", 'Service "gateway" is invalid: spec.ports: Required', "refuses an object"),
    "no namespace": (404, "NotFound", 'namespaces "sextant" not found', "namespace of somebody else's"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSALS)
def test_what_was_applied_before_a_refusal_is_said(bundle: Path, api: FakeApiServer, name: str) -> None:
    """Between the try and the deed the cluster changed its mind: nothing is half applied in silence."""
    status, reason, message, hint = REFUSALS[name]
    api.changes_its_mind["Service/gateway"] = (status, reason, message)
    done = apply(bundle)
    assert done.returncode == 1
    words = " ".join(done.stderr.split())
    assert message in done.stdout and hint in words
    took = len(api.objects) - len(FOREIGN)
    before = len(objects_of(bundle / "cluster"))
    assert f"{before} objects of cluster/ and {took - before} objects of manifests/" in words
    assert took < before + len(objects_of(bundle / "manifests"))


def test_a_cluster_that_cannot_be_reached_is_said(bundle: Path, api: FakeApiServer, tmp_path: Path) -> None:
    kubeconfig(tmp_path, "http://127.0.0.1:1")
    done = apply(bundle)
    assert done.returncode == 1
    words = " ".join(done.stderr.split())
    assert "cannot be reached" in words and "Applied until then: nothing" in words


def test_a_context_that_is_not_there_is_said(bundle: Path, api: FakeApiServer) -> None:
    done = apply(bundle, "--context", "elsewhere")
    assert done.returncode == 1 and "cannot be reached" in " ".join(done.stderr.split())
    assert api.asked == []


CASES: dict[str, dict[str, Any]] = {
    "private-cloud": R1,
    "container": DISTILLED,
    "saas": {
        **DISTILLED,
        "delivery": {"ingress_host": "llm.example.com"},
        "portal": {"url": "https://portal.example.com"},
    },
}


@pytest.mark.cluster
@pytest.mark.slow
@pytest.mark.skipif(not CLUSTER, reason="KUBECONFIG names no cluster, or SEXTANT_CLUSTER_TESTS=1 is not said")
@pytest.mark.parametrize("mode", CASES)
def test_a_real_cluster_takes_the_bundle(tmp_path: Path, mode: str) -> None:
    """Into a namespace of its own: tried, applied, taken away. Kinds that the cluster does not know, and
    objects of namespaces that are others', are left out and named."""
    into_a_real_cluster(tmp_path, mode, CLUSTER)


@pytest.mark.slow
@pytest.mark.parametrize("mode", CASES)
def test_a_stand_in_takes_the_bundle_as_a_real_cluster_is_asked_to(tmp_path: Path, mode: str) -> None:
    """The same steps, so that they are known to work where there is a cluster; without KEDA there."""
    place = rendered(_in_namespace(mode, "probe"), tmp_path)
    kinds = {(body["apiVersion"], body["kind"]) for body in objects_of(place)}
    kinds = {each for each in kinds if each[1] != "ScaledObject"}
    (tmp_path / "cluster").mkdir()
    with serving(FakeApiServer(kinds, schemas())) as server:
        left_out = into_a_real_cluster(tmp_path / "cluster", mode, str(kubeconfig(tmp_path, server.url)))
        assert server.objects == {}
    assert any("ScaledObject" in each for each in left_out)


def _in_namespace(mode: str, namespace: str) -> str:
    spec = CASES[mode]
    return document(mode, **{**spec, "delivery": {**spec.get("delivery", {}), "namespace": namespace}})


def into_a_real_cluster(folder: Path, mode: str, config: str) -> list[str]:
    """Tries, applies and takes away a bundle; returns what was left out."""
    space = f"sextant-test-{uuid.uuid4().hex[:8]}"
    bundle = rendered(_in_namespace(mode, space), folder)
    environment = {**os.environ, "KUBECONFIG": config, "HOME": str(folder)}

    def kubectl(*words: str) -> str:
        done = subprocess.run(
            [KUBECTL, *words], env=environment, capture_output=True, text=True, check=False, timeout=100
        )
        assert done.returncode == 0, f"kubectl {words}: {done.stdout}{done.stderr}"
        return done.stdout

    known = {
        (row.split()[-3], row.split()[-1]) for row in kubectl("api-resources", "--no-headers").splitlines()
    }
    left_out: list[str] = []

    def leave_out(objects: list[Object]) -> None:
        own = {body["metadata"]["name"] for body in objects if body["kind"] == "Namespace"}
        for body in list(objects):
            where = body["metadata"].get("namespace")
            strange = (body["apiVersion"], body["kind"]) not in known
            if strange or (where is not None and not {where} & own) or not _ours(body, space):
                left_out.append(
                    f"{body['apiVersion']} {body['kind']} {where or ''}/{body['metadata']['name']}"
                )
                objects.remove(body)

    change_objects(bundle, leave_out)
    sign_again(bundle)
    parts = [str(bundle / part) for part in ("cluster", "manifests") if (bundle / part).is_dir()]
    print(f"{mode}: left out: {left_out}")
    try:
        for part in parts:
            kubectl("apply", "--server-side", "--field-manager=sextant-test", "-f", part)
            kubectl("apply", "--server-side", "--field-manager=sextant-test", "--dry-run=server", "-f", part)
    finally:
        for part in reversed(parts):
            kubectl("delete", "--ignore-not-found", "--wait=false", "-f", part)
    return left_out


def _ours(body: Object, space: str) -> bool:
    """Whether it stands in the test's own namespaces, or is named after them: nothing else is touched."""
    metadata = body["metadata"]
    return str(metadata.get("namespace", metadata["name"])).startswith(space)
