"""Checking a rendered bundle with everything at hand: our rules first, then each validator that is installed.

Third step of flow 2 (deploy), after rendering. Nothing is written to the bundle: validators see a copy. What
did not run is said, and why; it never counts as passed.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import sextant
from sextant.base.config import variable
from sextant.base.errors import Misconfigured
from sextant.operations.verify import file_rules
from sextant.operations.verify.cluster_programs import Schemas, ask_cluster, judge_alerts, judge_objects
from sextant.operations.verify.cluster_rules import CLUSTER_RULES
from sextant.operations.verify.findings import Fault, NotRun, Outcome, Ran, Reached, Report, judged
from sextant.operations.verify.hardening import privileges_declared
from sextant.operations.verify.host_programs import HOST_PROGRAMS
from sextant.operations.verify.lasting import images_by_tag
from sextant.operations.verify.running import judge, set_up
from sextant.operations.verify.schemas import PlainSchemas, StrictSchemas
from sextant.operations.verify.subject import Subject, read_subject
from sextant.operations.verify.triton_config import judge_triton

BY_NEEDS = ("SX-V002", "SX-V018")
"""Rules that go by the prerequisites which the manifest keeps."""
SCHEMAS_VARIABLE = "SEXTANT_K8S_SCHEMAS"


def verify(
    folder: Path,
    *,
    kubernetes: str | None = None,
    schemas: Path | None = None,
    kept: Schemas | None = None,
    reached: Reached | None = None,
) -> Report:
    """What is wrong with the bundle in `folder`, what ran, and what did not.

    `kubernetes` (`1.36`) names the version of the cluster it is for; `schemas` a folder of schemas, else the
    environment does; `kept` are schemas that were read before, for many bundles in turn; `reached` is the
    cluster to ask. Raises Misconfigured where there is no bundle, SextantError for what is no version."""
    subject = read_subject(folder)
    asked = None if kubernetes is None else f"1.{file_rules.minor_of(kubernetes)}"
    found, why_not = (kept, "") if kept is not None else open_schemas(schemas, asked)
    outcomes = [_by_rules(subject, asked), judge_objects(subject, found, why_not), judge_triton(subject)]
    with tempfile.TemporaryDirectory(prefix="sextant-verify-") as place:
        bench = set_up(folder, Path(place))
        outcomes.append(judge_alerts(subject, bench))
        outcomes += [judge(validator, bench) for validator in HOST_PROGRAMS]
        outcomes.append(ask_cluster(subject, bench, reached or Reached()))
        if not bench.isolation:
            note = "this user may not make a network of its own: validators saw the machine's"
            outcomes.append(Outcome(not_run=(NotRun("isolation", note),)))
    return Report(
        name=str(subject.manifest.get("name", "")),
        mode=str(subject.manifest.get("mode", "")),
        faults=tuple(fault for outcome in outcomes for fault in outcome.faults),
        ran=tuple(ran for outcome in outcomes for ran in outcome.ran),
        not_run=tuple(each for outcome in outcomes for each in outcome.not_run),
        noted=tuple(each for outcome in outcomes for each in outcome.noted),
        unpinned=tuple(image for outcome in outcomes for image in outcome.unpinned),
    )


def open_schemas(folder: Path | None, version: str | None = None) -> tuple[Schemas | None, str]:
    """The best schemas at hand and why there are none. Raises Misconfigured for a folder that is none."""
    named = variable(SCHEMAS_VARIABLE)
    place = folder or (Path(named) if named else None)
    if place is not None:
        return StrictSchemas(place, version), ""
    try:
        return PlainSchemas(version), ""
    except Misconfigured as error:
        return None, f"{error.message}, or name a folder of schemas by --schemas or {SCHEMAS_VARIABLE}"


def _by_rules(subject: Subject, kubernetes: str | None) -> Outcome:
    faults = [*subject.faults, *_over_files(subject, kubernetes)]
    not_run, noted = [], []
    manifest = subject.manifest
    rules = CLUSTER_RULES
    if subject.clusters and "needs" not in manifest:
        rules = tuple(rule for rule in rules if rule.id not in BY_NEEDS)
        why = "the manifest keeps no prerequisites: it is of an older version; render again"
        not_run += [NotRun(id_, why) for id_ in BY_NEEDS]
    if (made_with := manifest.get("version")) != sextant.__version__:
        why = f"the bundle is of Sextant {made_with}, the rules are of {sextant.__version__}; render again"
        not_run.append(NotRun("version", why))
    for cluster in subject.clusters:
        faults += judged(rules, cluster)
        with contextlib.suppress(AttributeError, IndexError, KeyError, TypeError, ValueError):
            # An object that cannot be judged is a fault by SX-V008 already.
            noted += list(privileges_declared(cluster))
    if subject.clusters and subject.clusters[0].planned is None:
        not_run.append(
            NotRun("SX-V013", "the manifest keeps no plan: it is of an older version; render again")
        )
    if subject.clusters and kubernetes is None:
        not_run.append(
            NotRun("SX-V107", "the cluster's version is not known; `sextant verify --k8s VERSION`")
        )
    ran = [Ran("rules over files", len(subject.texts), "files")]
    if subject.clusters:
        count = sum(len(cluster.objects) for cluster in subject.clusters)
        ran.append(Ran("rules over clusters", count, "objects"))
    return Outcome(
        faults=tuple(faults),
        ran=tuple(ran),
        not_run=tuple(not_run),
        noted=tuple(noted),
        unpinned=tuple(sorted(images_by_tag(subject))),
    )


def _over_files(subject: Subject, kubernetes: str | None) -> Iterator[Fault]:
    for find in file_rules.FILE_RULES.values():
        yield from find(subject)
    if kubernetes is not None:
        yield from file_rules.versions_not_served(subject, kubernetes)
