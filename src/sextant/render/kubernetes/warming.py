"""A job that asks the hot prompts once the engines are ready, so that their prefix caches are warm.

The prompts stand in a ConfigMap, each a chat request; each is asked as often at a time as there are replicas,
which the gateway spreads over them.
"""

from __future__ import annotations

import json

from sextant.render.kubernetes.cluster import USER, Cluster
from sextant.render.kubernetes.gateway import digest
from sextant.render.kubernetes.identity import CA_SECRET
from sextant.render.kubernetes.objects import Object, made
from sextant.render.kubernetes.pods import Placing, Volume, container, pod, resources, scratch

KEY_SECRET = "warm-up"
"""Secret with an API key for the job, under `api-key`."""
PROMPT = "Reply with one word: ready."

_SCRIPT = '''\
"""Asks every prompt as often at a time as there are replicas; fails when one is not answered."""
import concurrent.futures, json, pathlib, ssl, sys, time, urllib.request

base, key = sys.argv[1], pathlib.Path("/etc/warm-up/key/api-key").read_text().strip()
trust = ssl.create_default_context(cafile="/etc/warm-up/ca/ca.crt")


def ask(body):
    head = {"authorization": "Bearer " + key, "content-type": "application/json"}
    request = urllib.request.Request(base + "/v1/chat/completions", json.dumps(body).encode(), head)
    start = time.monotonic()
    with urllib.request.urlopen(request, context=trust, timeout=300) as answer:
        answer.read()
    return time.monotonic() - start


def ready():
    try:
        return urllib.request.urlopen(base + "/ready", context=trust, timeout=5).status == 200
    except OSError:
        return False


while not ready():
    time.sleep(2)
prompts = json.loads(pathlib.Path("/etc/warm-up/prompts.json").read_text())
for prompt in prompts:
    with concurrent.futures.ThreadPoolExecutor(prompt["replicas"]) as pool:
        spent_s = list(pool.map(ask, [prompt["request"]] * prompt["replicas"]))
    print(prompt["request"]["model"], "first answers in", ", ".join(f"{each:.2f} s" for each in spent_s))
'''


def warm_up_objects(cluster: Cluster) -> tuple[Object, ...]:
    """The prompts and the job. A job cannot be changed, so other prompts make another job."""
    part = cluster.part("warm-up")
    data = {"warm_up.py": _SCRIPT, "prompts.json": _prompts(cluster)}
    configuration = made("v1/ConfigMap", part)
    configuration["data"] = data
    mark = digest(json.dumps(data) + cluster.order.version)[:8]
    prompts = {"configMap": {"name": part.name}}
    volumes = (
        Volume(name="prompts", source=prompts, path="/etc/warm-up/prompts.json", sub_path="prompts.json"),
        Volume(name="prompts", source=prompts, path="/etc/warm-up/warm_up.py", sub_path="warm_up.py"),
        _secret("key", KEY_SECRET),
        Volume(
            name="ca",
            source={
                "secret": {
                    "secretName": CA_SECRET,
                    "defaultMode": 0o440,
                    "items": [{"key": "ca.crt", "path": "ca.crt"}],
                }
            },
            path="/etc/warm-up/ca",
        ),
        scratch("scratch", "/tmp", "16Mi"),  # noqa: S108 - a volume of the pod's own
    )
    body = {
        "command": ["python3", "/etc/warm-up/warm_up.py", f"https://gateway.{cluster.namespace}.svc"],
        "resources": resources("250m", "256Mi", "64Mi"),
        "volumeMounts": [volume.mount for volume in volumes],
    }
    placing = Placing(priority_class=f"{cluster.namespace}-batch", spread=False)
    spec = pod(part, [container("warm-up", cluster.sextant_image, body)], volumes, placing, user=USER)
    spec["restartPolicy"] = "OnFailure"
    starts_s = [each.start_s for each in cluster.workloads]
    job = {
        "backoffLimit": 4,
        "activeDeadlineSeconds": int(max(starts_s, default=0)) + 1800,
        "ttlSecondsAfterFinished": 86_400,
        "template": {"metadata": {"labels": part.labels}, "spec": spec},
    }
    return configuration, made("batch/v1/Job", part, job, name=f"{part.name}-{mark}")


def _secret(name: str, secret: str) -> Volume:
    source = {"secret": {"secretName": secret, "defaultMode": 0o440}}
    return Volume(name=name, source=source, path=f"/etc/warm-up/{name}")


def _prompts(cluster: Cluster) -> str:
    """One request for each model, to begin with."""
    replicas = {each.served.key: each.replicas for each in cluster.workloads}
    found = [
        {
            "replicas": replicas.get(served.key, 1),
            "request": {
                "model": served.entry.name,
                "messages": [{"role": "user", "content": PROMPT}],
                "max_tokens": 8,
            },
        }
        for served in cluster.order.served
        if served.entry.pool is None and not served.entry.tenants
    ]
    return json.dumps(found, indent=2) + "\n"
