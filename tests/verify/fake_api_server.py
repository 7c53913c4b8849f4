"""A stand-in for a cluster's API server, as far as `kubectl apply --server-side` talks to one.

It knows the kinds that it is told of, keeps what is applied, holds objects to the schemas that `verify` has,
and refuses as a real one does: 404 for a namespace that is not there, 409 for another's field, 422 for what
is invalid, 403 for what is forbidden. It runs on loopback over plain HTTP, for a kubeconfig of its own.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import yaml

from sextant.operations.verify.cluster_programs import Schemas

Object = dict[str, Any]
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
CLUSTER_WIDE = {
    "Namespace", "PriorityClass", "PersistentVolume", "ClusterRole", "ClusterRoleBinding", "StorageClass",
    "ClusterSPIFFEID", "RuntimeClass", "NodeClass", "NodePool", "EC2NodeClass", "ResourceFlavor",
    "ClusterQueue", "WorkloadPriorityClass",
}  # fmt: skip
PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/(?P<version>[^/]+)(?:/namespaces/(?P<space>[^/]+))?"
    r"/(?P<plural>[^/]+)/(?P<name>[^/]+)"
)
PATCH = {"parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}]}


def plural_of(kind: str) -> str:
    """The resource's name in paths."""
    low = kind.lower()
    if low.endswith("y") and low[-2] not in "aeiou":
        return f"{low[:-1]}ies"
    return f"{low}es" if low.endswith(("s", "x", "ch")) else f"{low}s"


class FakeApiServer:
    """What the stand-in holds, and how it is told to misbehave."""

    def __init__(self, kinds: Iterable[tuple[str, str]], schemas: Schemas | None = None) -> None:
        """`kinds`: pairs of apiVersion and kind that it serves."""
        self.described = {("v1", "Namespace"), *kinds}
        self.kinds = set(self.described)
        self.schemas = schemas
        self.objects: dict[str, Object] = {}
        self.asked: list[str] = []
        self.refuse: dict[str, tuple[int, str, str]] = {}
        """By `Kind/name`: status, reason, message."""
        self.changes_its_mind: dict[str, tuple[int, str, str]] = {}
        """The same, but a dry run is let through."""
        self.url = ""

    def discovery(self, core: bool) -> Object:
        """Aggregated discovery of the core group or of all others."""
        groups: dict[str, dict[str, list[Object]]] = {}
        for api, kind in sorted(self.kinds):
            group, _, version = api.rpartition("/")
            if (group == "") != core:
                continue
            resource = {
                "resource": plural_of(kind),
                "responseKind": {"group": group, "version": version, "kind": kind},
                "scope": "Cluster" if kind in CLUSTER_WIDE else "Namespaced",
                "singularResource": kind.lower(),
                "verbs": ["create", "delete", "get", "list", "patch", "update"],
            }
            groups.setdefault(group, {}).setdefault(version, []).append(resource)
        items = [
            {
                "metadata": {"name": group} if group else {},
                "versions": [
                    {"version": version, "resources": resources, "freshness": "Current"}
                    for version, resources in versions.items()
                ],
            }
            for group, versions in groups.items()
        ]
        return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items}

    def openapi(self, place: str) -> Object:
        """The index of OpenAPI documents, or one of them: only that patches take `fieldValidation`."""
        if not place:
            named = {("apis/" if "/" in api else "api/") + api for api, _ in self.described}
            return {"paths": {each: {"serverRelativeURL": f"/openapi/v3/{each}?hash=1"} for each in named}}
        paths = {}
        for api, kind in self.described:
            start = ("apis/" if "/" in api else "api/") + api
            if start == place:
                group, _, version = api.rpartition("/")
                named = {"group": group, "version": version, "kind": kind}
                middle = "" if kind in CLUSTER_WIDE else "/namespaces/{namespace}"
                path = f"/{start}{middle}/{plural_of(kind)}/{{name}}"
                paths[path] = {"patch": {**PATCH, "x-kubernetes-group-version-kind": named}}
        return {"openapi": "3.0.0", "info": {"title": "fake", "version": "1"}, "paths": paths}

    def apply(self, body: Object, *, dry: bool) -> tuple[int, Object]:
        """Status and answer of one server-side apply."""
        metadata = body["metadata"]
        name, space = metadata["name"], metadata.get("namespace", "")
        label = f"{body['kind']}/{name}"
        if label in self.refuse:
            return self.refused(*self.refuse[label])
        if space and f"Namespace//{space}" not in self.objects:
            return self.refused(404, "NotFound", f'namespaces "{space}" not found')
        if not dry and label in self.changes_its_mind:
            return self.refused(*self.changes_its_mind[label])
        wrong = self.schemas.judge(body) if self.schemas is not None else None
        if wrong:
            return self.refused(422, "Invalid", f"{label} is invalid: {wrong[0]}")
        key = f"{body['kind']}/{space}/{name}"
        status = 200 if key in self.objects else 201
        answer = {**body, "metadata": {**metadata, "uid": f"uid-{key}", "resourceVersion": "1"}}
        if not dry:
            self.objects[key] = answer
        return status, answer

    @staticmethod
    def refused(status: int, reason: str, message: str) -> tuple[int, Object]:
        """A `Status` as the API server words it."""
        said = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        details = {"causes": [{"reason": "FieldManagerConflict", "message": message, "field": ".spec"}]}
        return status, {
            **said,
            "message": message,
            "reason": reason,
            "code": status,
            **({"details": details} if status == 409 else {}),
        }


def _handler(server: FakeApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            place = urlsplit(self.path).path
            server.asked.append(f"GET {place}")
            if place == "/version":
                self.answer(200, {"major": "1", "minor": "36", "gitVersion": "v1.36.2"})
            elif place in ("/api", "/apis"):
                self.answer(200, server.discovery(place == "/api"), AGGREGATED)
            elif place.startswith("/openapi/v3"):
                self.answer(200, server.openapi(place.removeprefix("/openapi/v3").strip("/")))
            else:
                self.answer(*server.refused(404, "NotFound", f"{place} not found"))

        def do_PATCH(self) -> None:
            split = urlsplit(self.path)
            dry = parse_qs(split.query).get("dryRun") == ["All"]
            body = yaml.safe_load(self.rfile.read(int(self.headers["Content-Length"])))
            server.asked.append(f"PATCH {split.path}{' dry' if dry else ''}")
            assert PATH.fullmatch(split.path), split.path
            assert self.headers["Content-Type"] == "application/apply-patch+yaml"
            self.answer(*server.apply(body, dry=dry))

        def do_DELETE(self) -> None:
            path = urlsplit(self.path).path
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            server.asked.append(f"DELETE {path}")
            found = PATH.fullmatch(path)
            assert found is not None, path
            kind = next(kind for _, kind in server.kinds if plural_of(kind) == found["plural"])
            key = f"{kind}/{found['space'] or ''}/{found['name']}"
            if server.objects.pop(key, None) is None:
                self.answer(*server.refused(404, "NotFound", f"{key} not found"))
            else:
                self.answer(200, {"kind": "Status", "apiVersion": "v1", "status": "Success"})

        def answer(self, status: int, body: Object, kind: str = "application/json") -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextmanager
def serving(server: FakeApiServer) -> Iterator[FakeApiServer]:
    """Runs it on a free port of loopback."""
    listening = ThreadingHTTPServer(("127.0.0.1", 0), _handler(server))
    listening.daemon_threads = True
    thread = threading.Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    server.url = f"http://127.0.0.1:{listening.server_address[1]}"
    try:
        yield server
    finally:
        listening.shutdown()
        listening.server_close()
        thread.join()


def kubeconfig(folder: Path, url: str) -> Path:
    """A kubeconfig with one context, `fake`."""
    body = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": url}}],
        "users": [{"name": "fake", "user": {}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        "current-context": "fake",
    }
    place = folder / "kubeconfig"
    place.write_text(yaml.safe_dump(body))
    return place
