"""Prefill and decode apart: two engines and a router, each told what the others are called.

The routers are the real ones, started with the rendered arguments; the API server and the engines are stood
in for, since neither a cluster nor accelerators are here.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.render.fake_split_engines import KEY
from tests.render.orders import DISTILLED, R1, document, order
from tests.render.schema_check import faults_among, faults_of, objects_of, of_kind

from sextant.base.errors import Unsupported
from sextant.operations.bundles import render_document
from sextant.render import render
from sextant.render.kubernetes.router_watching import ROUTER_METRICS
from sextant.spec.bundle import Bundle
from sextant.spec.document import parse_document

SMALL = {**DISTILLED, "planning": {"split": True}}
LARGE = {
    **R1,
    "engine": {"kind": "sglang", "context_tokens": 16384},
    "planning": {"split": True},
    "sites": [{"name": "hall-1", "accelerators": [{"name": "H100", "count": 64}]}],
}
CASES: dict[str, dict[str, Any]] = {
    "vllm": SMALL,
    "sglang": {**SMALL, "engine": {"kind": "sglang"}},
    "vllm-groups": {**LARGE, "engine": {"kind": "vllm", "context_tokens": 16384}},
    "sglang-groups": LARGE,
}


@pytest.fixture(scope="module")
def bundles() -> dict[str, Bundle]:
    return {name: render(order("private-cloud", **spec)) for name, spec in CASES.items()}


def named(bundle: Bundle, kind: str, name: str) -> Any:
    """That object of the bundle."""
    return next(body for body in of_kind(objects_of(bundle), kind) if body["metadata"]["name"] == name)


@pytest.mark.parametrize("name", CASES)
def test_objects_pass_their_schemas_and_fit_each_other(bundles: dict[str, Bundle], name: str) -> None:
    objects = objects_of(bundles[name])
    assert [fault for body in objects for fault in faults_of(body)] == []
    assert faults_among(objects, bundles[name].needs) == []


@pytest.mark.parametrize("name", CASES)
def test_each_half_has_the_accelerators_that_the_plan_gives_it(bundles: dict[str, Bundle], name: str) -> None:
    layout = order("private-cloud", **CASES[name]).served[0].option.layout  # type: ignore[union-attr]
    scaled = {
        body["metadata"]["name"].rpartition("-")[2]: body["spec"]["minReplicaCount"]
        for body in of_kind(objects_of(bundles[name]), "ScaledObject")
    }
    counts = {
        body["metadata"]["name"].rpartition("-")[2]: int(
            body["metadata"]["annotations"]["sextant.dev/accelerators"]
        )
        for body in objects_of(bundles[name])
        if "sextant.dev/accelerators" in body["metadata"].get("annotations", {})
    }
    for phase in ("prefill", "decode"):
        half = getattr(layout, phase)
        assert scaled[phase] == half.dp
        assert counts[phase] == half.count


def test_the_manifest_counts_both_halves(tmp_path: Path) -> None:
    file = tmp_path / "sextant.yaml"
    file.write_text(document("private-cloud", **SMALL))
    manifest = json.loads(render_document(file).by_path["MANIFEST.json"].content)
    assert [each["model"] for each in manifest["planned"]] == ["r1-7b-prefill", "r1-7b-decode"]


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_the_gateway_calls_the_router_and_nobody_else(bundles: dict[str, Bundle], name: str) -> None:
    objects = objects_of(bundles[name])
    text = next(body["data"]["sextant.yaml"] for body in objects if "sextant.yaml" in body.get("data", {}))
    (model,) = parse_document(text).spec.models
    assert model.engine.base_url.startswith("http://router-r1-7b.sextant.svc:8090")  # type: ignore[union-attr]
    gateway = named(bundles[name], "NetworkPolicy", "gateway")["spec"]["egress"]
    components = [
        peer["podSelector"]["matchLabels"].get("app.kubernetes.io/component")
        for rule in gateway
        for peer in rule.get("to", [])
        if "podSelector" in peer
    ]
    assert components == ["router"]
    engine = named(bundles[name], "NetworkPolicy", "engine-r1-7b-prefill")["spec"]["ingress"]
    first = engine[0]["from"][0]["podSelector"]["matchLabels"]
    assert first["app.kubernetes.io/component"] == "router"
    beside = [peer["podSelector"]["matchLabels"]["sextant.dev/model"] for peer in engine[1]["from"]]
    assert beside == ["r1-7b-prefill", "r1-7b-decode"]


def test_both_halves_have_one_copy_of_the_weights(bundles: dict[str, Bundle]) -> None:
    objects = objects_of(bundles["vllm"])
    jobs = [
        body["metadata"]["name"] for body in of_kind(objects, "Job") if "fetch" in body["metadata"]["name"]
    ]
    assert jobs == ["fetch-r1-7b"]
    assert [body["metadata"]["name"] for body in of_kind(objects, "DaemonSet")] == ["node-cache-r1-7b"]
    whole = objects_of(render(order("private-cloud", **DISTILLED)))
    sizes = [
        named_["spec"]["resources"]["requests"]["storage"]
        for each in (objects, whole)
        for named_ in of_kind(each, "PersistentVolumeClaim")
        if named_["metadata"]["name"] == "weights"
    ]
    assert sizes[0] == sizes[1]


def test_a_half_of_several_machines_is_chosen_by_its_leader(bundles: dict[str, Bundle]) -> None:
    for phase in ("prefill", "decode"):
        group = named(bundles["sglang-groups"], "LeaderWorkerSet", f"engine-deepseek-r1-{phase}")
        templates = group["spec"]["leaderWorkerTemplate"]
        labels = templates["leaderTemplate"]["metadata"]["labels"]
        router = named(bundles["sglang-groups"], "Deployment", "router-deepseek-r1")
        chosen = _selectors(router["spec"]["template"]["spec"]["containers"][0]["command"])[phase]
        assert chosen.items() <= labels.items()
        workers = templates["workerTemplate"]["metadata"]["labels"]
        assert not chosen.items() <= workers.items()


def _selectors(command: list[str]) -> dict[str, dict[str, str]]:
    found = {}
    for phase in ("prefill", "decode"):
        start = command.index(f"--{phase}-selector") + 1
        rest = command[start:]
        end = next(number for number, each in enumerate(rest) if each.startswith("--"))
        found[phase] = dict(each.split("=", 1) for each in rest[:end])
    return found


def test_a_router_may_see_pods_of_its_namespace_and_nothing_else(bundles: dict[str, Bundle]) -> None:
    role = named(bundles["vllm"], "Role", "router-r1-7b")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch"]}]
    binding = named(bundles["vllm"], "RoleBinding", "router-r1-7b")
    router = named(bundles["vllm"], "Deployment", "router-r1-7b")["spec"]["template"]["spec"]
    assert binding["subjects"][0]["name"] == router["serviceAccountName"]
    assert router["automountServiceAccountToken"] is False
    identity = next(each for each in router["volumes"] if each["name"] == "identity")["projected"]["sources"]
    assert [next(iter(each)) for each in identity] == ["serviceAccountToken", "configMap", "downwardAPI"]


def test_a_vllm_pod_tells_the_other_half_its_own_address(bundles: dict[str, Bundle]) -> None:
    for phase in ("prefill", "decode"):
        engine = named(bundles["vllm"], "Deployment", f"engine-r1-7b-{phase}")["spec"]["template"]["spec"]
        variables = {each["name"]: each for each in engine["containers"][0]["env"]}
        told = variables["VLLM_NIXL_SIDE_CHANNEL_HOST"]["valueFrom"]
        assert told == {"fieldRef": {"fieldPath": "status.podIP"}}


@pytest.mark.parametrize(
    ("mode", "spec", "said"),
    [
        ("container", SMALL, "neither the mode `container`"),
        ("private-cloud", {**SMALL, "delivery": {"gpu_sharing": "mps"}}, "nor shared accelerators"),
        ("on-prem", SMALL, "splits prefill from decode, which needs a router"),
        ("private-cloud", {**SMALL, "engine": {"kind": "triton"}}, "splits prefill from decode"),
    ],
)
def test_what_cannot_be_split_is_refused(mode: str, spec: dict[str, Any], said: str) -> None:
    with pytest.raises(Unsupported, match=said):
        render(order(mode, **spec))


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_a_router_is_read_and_nobody_else_reaches_its_metrics(bundles: dict[str, Bundle], name: str) -> None:
    monitor = named(bundles[name], "ServiceMonitor", "router-r1-7b")["spec"]
    service = named(bundles[name], "Service", "router-r1-7b")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    (endpoint,) = monitor["endpoints"]
    (port,) = [each for each in service["spec"]["ports"] if each["name"] == endpoint["port"]]
    pod = named(bundles[name], "Deployment", "router-r1-7b")["spec"]["template"]["spec"]["containers"][0]
    (opened,) = [each["containerPort"] for each in pod["ports"] if each["name"] == port["targetPort"]]
    command = pod["command"]
    assert command[command.index("--prometheus-port") + 1] == str(opened)
    assert command[command.index("--prometheus-host") + 1] == "0.0.0.0"
    rules = named(bundles[name], "NetworkPolicy", "router-r1-7b")["spec"]["ingress"]
    let_in = [rule["from"] for rule in rules if {"protocol": "TCP", "port": opened} in rule["ports"]]
    labels = {"kubernetes.io/metadata.name": "monitoring"}
    assert let_in == [[{"namespaceSelector": {"matchLabels": labels}}]]


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_the_dashboard_has_a_row_for_routers_where_there_are_any(
    bundles: dict[str, Bundle], name: str
) -> None:
    titles = [panel["title"] for panel in _dashboard(bundles[name])["panels"]]
    assert titles[-3:] == [
        "Engines that routers reach", "Requests through routers", "Requests that routers lost",
    ]  # fmt: skip
    whole = _dashboard(render(order("private-cloud", **DISTILLED)))["panels"]
    assert len(whole) == len(titles) - 3


def _dashboard(bundle: Bundle) -> Any:
    body = named(bundle, "ConfigMap", "dashboard")
    assert body["metadata"]["labels"]["grafana_dashboard"] == "1"
    return json.loads(body["data"]["bank.json"])


ALERTED = """\
rule_files: [rules.yaml]
evaluation_interval: 15s
tests:
- interval: 15s
  input_series:
  - series: '{healthy}{{namespace="sextant",service="router-r1-7b",pod="a",worker="http://10.0.0.1:8000"}}'
    values: '1x40 0x300'
  - series: '{healthy}{{namespace="sextant",service="router-r1-7b",pod="a",worker="http://10.0.0.2:8000"}}'
    values: '1x340'
  - series: '{requests}{{namespace="sextant",service="router-r1-7b",pod="a"}}'
    values: '0+15x340'
  - series: '{failed},namespace="sextant",service="router-r1-7b",pod="a"}}'
    values: '0x100 0+5x239'
  alert_rule_test:
  - {{eval_time: 9m, alertname: SextantRouterEngineUnhealthy, exp_alerts: []}}
  - eval_time: 13m
    alertname: SextantRouterEngineUnhealthy
    exp_alerts:
    - exp_labels: {{severity: warning, model: {model}, worker: "http://10.0.0.1:8000"}}
      exp_annotations: {{summary: An engine of r1-7b stopped answering its router's checks.}}
  - {{eval_time: 60m, alertname: SextantRouterEngineUnhealthy, exp_alerts: []}}
  - {{eval_time: 20m, alertname: SextantRouterLosesRequests, exp_alerts: []}}
  - eval_time: 40m
    alertname: SextantRouterLosesRequests
    exp_alerts:
    - exp_labels: {{severity: critical, model: {model}}}
      exp_annotations: {{summary: More than 5 % of the requests for r1-7b get no answer from an engine.}}
  - {{eval_time: 40m, alertname: SextantRouterAway, exp_alerts: []}}
- interval: 15s
  input_series: []
  alert_rule_test:
  - eval_time: 40m
    alertname: SextantRouterAway
    exp_alerts:
    - exp_labels: {{severity: critical, model: {model}, namespace: sextant, service: router-r1-7b}}
      exp_annotations: {{summary: "No router of r1-7b answers, or none has found an engine."}}
"""
FAILED = {
    "vllm": 'vllm_router_pd_decode_errors_total{worker="x"',
    "sglang": 'smg_http_responses_total{status_code="502",error_code="x"',
}
PROMTOOL = shutil.which("promtool")


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_alerts_of_routers_come_and_go(bundles: dict[str, Bundle], kind: str, tmp_path: Path) -> None:
    groups = named(bundles[kind], "PrometheusRule", "alerts")["spec"]["groups"]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    names = {name: getattr(ROUTER_METRICS[kind], name).partition("{")[0] for name in ("healthy", "requests")}
    told = ALERTED.format(**names, failed=FAILED[kind], model="r1-7b")

    def asked(text: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test.yaml").write_text(text)
        command = [str(PROMTOOL), "test", "rules", "test.yaml"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

    done = asked(told)
    assert done.returncode == 0, done.stdout + done.stderr
    assert asked(told.replace("'1x40 0x300'", "'1x340'")).returncode != 0


# ---- the real routers --------------------------------------------------------------------------------------


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _pods(bundle: Bundle) -> list[dict[str, Any]]:
    """Two pods of each half and one of something else, with the labels and annotations of the templates."""
    found = []
    for number, phase in enumerate(("prefill", "decode", "prefill", "decode"), start=2):
        engine = named(bundle, "Deployment", f"engine-r1-7b-{phase}")
        found.append(_pod(engine["spec"]["template"]["metadata"], f"{phase}-{number}", f"127.0.0.{number}"))
    other = named(bundle, "Deployment", "gateway")["spec"]["template"]["metadata"]
    return [*found, _pod(other, "gateway-0", "127.0.0.9")]


def _pod(metadata: dict[str, Any], name: str, address: str) -> dict[str, Any]:
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}],
    }
    own = {"name": name, "namespace": "sextant", "uid": name, "resourceVersion": "10"}
    spec = {"containers": [{"name": "engine", "image": "none"}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**metadata, **own},
        "spec": spec,
        "status": status,
    }


@contextmanager
def _running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("w") as out:
        started = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env=environment, start_new_session=True
        )
        try:
            yield started
        finally:
            with suppress(ProcessLookupError):
                os.killpg(started.pid, signal.SIGKILL)
            started.wait()


def _asked(url: str, key: str) -> tuple[int, Any]:
    body = {"model": "r1-7b", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 5}
    head = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(url, json.dumps(body).encode(), head), timeout=10
        ) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def _ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the router was not ready within 60 s: {log.read_text()[-2000:]}")


@contextmanager
def _joined(
    bundle: Bundle, kind: str, tmp_path: Path
) -> Iterator[tuple[dict[str, int], subprocess.Popen[bytes], Path]]:
    """The real router with the bundle's arguments before stand-ins: ports, the engines' process, its log."""
    if importlib.util.find_spec(f"{kind}_router") is None:
        pytest.skip(f"{kind}-router is not installed (it is in the dependency group `test`)")
    ports = {"api": _free_port(), "engine": _free_port(), "router": _free_port(), "metrics": _free_port()}
    (tmp_path / "pods.json").write_text(json.dumps(_pods(bundle)))
    (tmp_path / "kubeconfig").write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{ports['api']}"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
        )
    )
    pod = named(bundle, "Deployment", "router-r1-7b")["spec"]["template"]["spec"]["containers"][0]
    command = _here(pod["command"], ports)
    variables = {each["name"]: each.get("value", KEY) for each in pod["env"]}
    environment = {"PATH": os.environ["PATH"], "KUBECONFIG": str(tmp_path / "kubeconfig"), **variables}
    stand_in = [sys.executable, str(Path(__file__).with_name("fake_split_engines.py"))]
    stand_in += [str(ports["api"]), str(ports["engine"]), str(tmp_path / "pods.json")]
    base = f"http://127.0.0.1:{ports['router']}"
    ready, alive = (pod[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe"))
    said = tmp_path / "router.log"
    with (
        _running(stand_in, tmp_path / "engines.log", dict(os.environ)) as engines,
        _running(command, tmp_path / "router.log", environment),
    ):
        _ready(base + ready, said)
        _ready(base + alive, said)
        yield ports, engines, said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_the_real_router_finds_both_halves_and_joins_them(
    bundles: dict[str, Bundle], kind: str, tmp_path: Path
) -> None:
    with _joined(bundles[kind], kind, tmp_path) as (ports, _, said):
        base = f"http://127.0.0.1:{ports['router']}"
        answered = [_asked(f"{base}/v1/chat/completions", KEY) for _ in range(4)]
        stranger = _asked(f"{base}/v1/chat/completions", "another-key")
        lines = [json.loads(line) for line in (tmp_path / "engines.log").read_text().splitlines()]
        metrics = ROUTER_METRICS[kind]
        served = _metrics(ports["metrics"])
        assert _values(served, metrics.healthy) == [1.0] * 4
        assert sum(_values(served, metrics.requests)) >= 4
        assert _values(served, metrics.failed) == []
    assert [status for status, _ in answered] == [200] * 4, (answered, said.read_text()[-2000:])
    asked = [each for each in lines if each["path"] == "/v1/chat/completions"]
    by_half = {"prefill": {"127.0.0.2", "127.0.0.4"}, "decode": {"127.0.0.3", "127.0.0.5"}}
    for _, body in answered:
        assert body["choices"][0]["message"]["content"].rpartition(" ")[2] in by_half["decode"]
    if kind == "vllm":  # prefill first; its answer says where decode finds the cache
        first, second = asked[0], asked[1]
        assert first["at"] in by_half["prefill"] and first["body"]["max_tokens"] == 1
        assert second["body"]["kv_transfer_params"]["remote_host"] == first["at"]
    else:  # both at once; both are told prefill's address and the port of its annotation
        told = {(each["body"]["bootstrap_host"], each["body"]["bootstrap_port"]) for each in asked}
        assert {host for host, _ in told} <= by_half["prefill"]
        assert {port for _, port in told} == {8998}
        assert stranger[0] == 401


def _metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read().decode())


def _values(served: str, query: str) -> list[float]:
    """Values of all series that an instant query with no matchers but its own finds."""
    name, _, matchers = query.replace("{{", "{").replace("}}", "}").partition("{")
    wanted = dict(re.findall(r'(\w+)=~"([^"]*)"', matchers))
    whole = re.compile(wanted.pop("__name__", re.escape(name)))
    found = []
    for line in served.splitlines():
        seen = re.fullmatch(r"(\w+)(?:\{(.*)\})? (\S+)", line)
        if seen is None or whole.fullmatch(seen[1]) is None:
            continue
        labels = dict(re.findall(r'(\w+)="([^"]*)"', seen[2] or ""))
        if all(re.fullmatch(value, labels.get(key, "")) for key, value in wanted.items()):
            found.append(float(seen[3]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vllm", "sglang"])
def test_the_real_router_says_when_engines_are_gone(
    bundles: dict[str, Bundle], kind: str, tmp_path: Path
) -> None:
    metrics = ROUTER_METRICS[kind]
    with _joined(bundles[kind], kind, tmp_path) as (ports, engines, said):
        assert _values(_metrics(ports["metrics"]), metrics.healthy) == [1.0] * 4
        engines.kill()
        status, _ = _asked(f"http://127.0.0.1:{ports['router']}/v1/chat/completions", KEY)
        assert status >= 500
        deadline = time.monotonic() + 120
        while _values(_metrics(ports["metrics"]), metrics.healthy) != [0.0] * 4:
            assert time.monotonic() < deadline, _metrics(ports["metrics"])
            time.sleep(1)
        assert sum(_values(_metrics(ports["metrics"]), metrics.failed)) > 0, said.read_text()[-2000:]


def _here(command: list[str], ports: dict[str, int]) -> list[str]:
    """The rendered command with this machine's ports, and the interpreter that has the router."""
    program = {
        "vllm-router": [sys.executable, "-m", "vllm_router.launch_router"],
        "python3": [sys.executable],
    }
    found = [*program[command[0]], *command[1:]]
    for flag, port in (
        ("--service-discovery-port", "engine"),
        ("--port", "router"),
        ("--prometheus-port", "metrics"),
    ):
        found[found.index(flag) + 1] = str(ports[port])
    found[found.index("--host") + 1] = "127.0.0.1"
    return found
