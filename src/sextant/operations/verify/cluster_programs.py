"""What judges a cluster's objects from outside: schemas, Prometheus' rule check, the API server itself."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from sextant.operations.verify.findings import Fault, NotRun, Object, Outcome, Ran, Reached
from sextant.operations.verify.pods import named
from sextant.operations.verify.running import Bench, CannotRun, program_of, said_by, shown
from sextant.operations.verify.subject import APPLIED, Subject

ACTION = "put right what it names, in the document where that is its source"
BY_SCHEMA = "schema"
ALERT_RULES = "promtool check rules"
DRY_RUN = "kubectl apply --dry-run=server"
ANSWER_S = 10.0
APPLY_S = 60.0
TAKEN = re.compile(r" serverside-applied( \(server dry run\))?$")
NO_NAMESPACE = re.compile(r"namespaces .*not found")


class Schemas(Protocol):
    """Where objects' schemas come from."""

    version: str

    def judge(self, body: Object) -> list[str] | None:
        """What a schema says against an object; None: there is none for its kind."""


def judge_objects(subject: Subject, schemas: Schemas | None, why_not: str) -> Outcome:
    """Every object against its schema. `why_not`: why there are no schemas."""
    count = sum(len(bodies) for bodies in subject.objects.values())
    if not count:
        return Outcome()
    if schemas is None:
        return Outcome(not_run=(NotRun("schemas", why_not),))
    faults: list[Fault] = []
    unknown: dict[str, int] = {}
    for path, bodies in subject.objects.items():
        for body in bodies:
            said = schemas.judge(body)
            if said is None:
                kind = f"{body['apiVersion']} {body['kind']}"
                unknown[kind] = unknown.get(kind, 0) + 1
            faults += [Fault(BY_SCHEMA, f"{named(body)}: {each}", ACTION, path) for each in said or ()]
    kinds = ", ".join(f"{many} of {kind}" for kind, many in sorted(unknown.items()))
    left = (NotRun("schemas", f"there is no schema at hand for {kinds}"),) if unknown else ()
    ran = Ran("schemas", count - sum(unknown.values()), f"objects, Kubernetes {schemas.version}")
    return Outcome(faults=tuple(faults), ran=(ran,) if ran.count else (), not_run=left)


def judge_alerts(subject: Subject, bench: Bench) -> Outcome:
    """promtool over the rules of every PrometheusRule."""
    rules = [
        (path, body)
        for path, bodies in subject.objects.items()
        for body in bodies
        if body["kind"] == "PrometheusRule"
    ]
    if not rules:
        return Outcome()
    program = program_of("promtool")
    if program is None:
        return Outcome(not_run=(NotRun(ALERT_RULES, "promtool is not installed"),))
    faults = []
    for number, (path, body) in enumerate(rules):
        file = bench.root / f"rules-{number}.json"
        file.write_text(json.dumps(body.get("spec")), encoding="utf-8")
        try:
            said = said_by((program, "check", "rules", file), bench).failure
        except CannotRun as error:
            return Outcome(not_run=(NotRun(ALERT_RULES, str(error)),))
        if said:
            text = f"{named(body)}: {shown(said, bench)}"
            faults.append(Fault(ALERT_RULES, text, "put the expression right", path))
    return Outcome(faults=tuple(faults), ran=(Ran(ALERT_RULES, len(rules), "objects"),))


def ask_cluster(subject: Subject, bench: Bench, reached: Reached) -> Outcome:
    """`kubectl apply --dry-run=server` where a cluster answers. Nothing is changed there."""
    folders = list(_applied(subject, bench, reached.site))
    if not folders:
        return Outcome()
    program = program_of("kubectl")
    if program is None:
        return Outcome(not_run=(NotRun(DRY_RUN, "kubectl is not installed"),))
    if len(subject.clusters) > 1 and not reached.site:
        why = "the bundle is for several clusters and kubectl knows one at a time; see the README"
        return Outcome(not_run=(NotRun(DRY_RUN, why),))
    kubectl = (program, *(("--context", reached.context) if reached.context else ()))
    try:
        question = (*kubectl, "get", "--raw=/version", "--request-timeout=5s")
        if said_by(question, bench, networked=True, timeout_s=ANSWER_S).status:
            return Outcome(not_run=(NotRun(DRY_RUN, "no cluster answers kubectl"),))
        return _tried(kubectl, folders, bench)
    except CannotRun as error:
        return Outcome(not_run=(NotRun(DRY_RUN, str(error)),))


def _tried(kubectl: tuple[str, ...], folders: list[Path], bench: Bench) -> Outcome:
    """What the API server says of each folder. Objects of namespaces that are not there yet cannot be judged,
    which hides nothing that it says of others. Raises CannotRun."""
    faults: list[Fault] = []
    unjudged: list[str] = []
    for folder in folders:
        command = (*kubectl, "apply", "--server-side", "--dry-run=server", "-f", str(folder))
        said = said_by(command, bench, networked=True, timeout_s=APPLY_S)
        if not said.status:
            continue
        lines = [line for line in said.text.splitlines() if not TAKEN.search(line)]
        unjudged += [line for line in lines if NO_NAMESPACE.search(line)]
        other = "\n".join(line for line in lines if line and not NO_NAMESPACE.search(line))
        if other or not lines:
            path = folder.relative_to(bench.top).as_posix()
            faults.append(Fault(DRY_RUN, shown(other or said.failure, bench), ACTION, path))
    if unjudged:
        why = (
            f"{len(unjudged)} objects are of namespaces that the cluster does not have yet; apply "
            f"{APPLIED[0]} and what the prerequisites name first ({unjudged[0][:200]})"
        )
        return Outcome(faults=tuple(faults), not_run=(NotRun(DRY_RUN, why),))
    return Outcome(faults=tuple(faults), ran=(Ran(DRY_RUN, len(folders), "folders"),))


def _applied(subject: Subject, bench: Bench, site: str) -> Iterator[Path]:
    for cluster in subject.clusters:
        if site and cluster.folder != site:
            continue
        for name in APPLIED:
            folder = bench.top / cluster.folder / name
            if folder.is_dir():
                yield folder
