"""The mode `hybrid`: a private core and a public overflow, from one document.

Each site is a cluster with gateway and engines of its own, both with the same books. The private gateway
offers the public engines under names of their own (`MODEL-public`), which are guarded: a tenant's privacy
policy masks personal data before it leaves, or sends the request to the private model of the same kind. The
public one may fall back to the private site, never the other way round.
"""

from __future__ import annotations

import msgspec

from sextant.base.errors import Unsupported
from sextant.render.dumping import yaml_file
from sextant.render.kubernetes.bundling import COMPARE, PREVIOUS, RENDER, cluster_bundle
from sextant.render.kubernetes.cluster import Cluster, cluster_of
from sextant.render.kubernetes.gateway import file_key
from sextant.render.kubernetes.replication import (
    replication_alert,
    replication_files,
    replication_steps,
    takeover_steps,
)
from sextant.render.kubernetes.sites import APART_MS, experiments, mesh
from sextant.render.kubernetes.training import (
    SPOT,
    Job,
    administrators_objects,
    job_objects,
    job_of,
    training_needs,
    training_notes,
)
from sextant.render.kubernetes.upkeep import copies_of
from sextant.spec.bundle import Bundle, File, Need, Step
from sextant.spec.document import ModelEntry, Site
from sextant.spec.engine_sections import LaunchedEngine, RemoteEngine
from sextant.spec.rendering import Order, ServedModel
from sextant.spec.stores import SQLITE

PEER_KEY = "/etc/sextant/peers/public-key"
"""File with the API key by which the private gateway calls the public one."""
RPO_MOST_S = 30
"""What the replication is held to, whatever looser bound the profile has."""


def bundle(order: Order) -> Bundle:
    """The bundle: a folder for each site, and what joins them.

    Raises Unsupported where the document lacks one of the two sites, their addresses, or stores that both
    reach."""
    private, public = _sites(order)
    _check_stores(order)
    here = cluster_of(_private(_of_site(order, private), public), (), site="private")
    there = cluster_of(
        msgspec.structs.replace(
            _of_site(order, public),
            defaults=msgspec.structs.replace(order.defaults, personal_data="guarded"),
        ),
        (),
        site="public",
    )
    rpo_s = min(order.deployment.spec.continuity.rpo_s or order.defaults.rpo_s, RPO_MOST_S)
    bundles = (cluster_bundle(here), cluster_bundle(there))
    job = _training(here, there, (private, public))
    joins = (
        yaml_file("private/manifests/80-replication.yaml", replication_alert(here, rpo_s)),
        yaml_file("private/optional/chaos.yaml", *experiments(here, str(public.address))),
        yaml_file("public/optional/chaos.yaml", *experiments(there, str(private.address))),
        *replication_files(rpo_s),
        *_far_copies(there),
        *_mesh_files(here, there, private, public),
        *_training_files(job),
    )
    files = (
        *(_below("private", file) for file in bundles[0].files),
        *(_below("public", file) for file in bundles[1].files),
        *joins,
    )
    whole = _joined(order, bundles, files, (private, public))
    return whole if job is None else _with_training(whole, job)


def _joined(
    order: Order, bundles: tuple[Bundle, Bundle], files: tuple[File, ...], sites: tuple[Site, Site]
) -> Bundle:
    private, public = sites
    core, overflow = bundles
    return Bundle(
        name=order.name,
        mode=order.mode,
        files=tuple(sorted(files, key=lambda file: file.path)),
        needs=(*core.needs, *_needs(order, public)),
        install=(
            *replication_steps(),
            *_at("public", overflow.install),
            *_peer_key(order),
            *_at("private", core.install),
        ),
        verify=(_distance(public), *_at("private", core.verify), *_at("public", overflow.verify)),
        upgrade=(_changed(), *_at("public", overflow.upgrade), *_at("private", core.upgrade)),
        rollback=(
            *_at("private", core.rollback),
            *_at("public", overflow.rollback),
            *takeover_steps(),
        ),
        uninstall=(*_at("public", overflow.uninstall), *_at("private", core.uninstall)),
        diagram=_diagram(order, private, public),
        notes=(*core.notes, *_notes(order)),
    )


def _sites(order: Order) -> tuple[Site, Site]:
    """The private and the public site. Raises Unsupported."""
    sites = order.deployment.spec.sites
    found = []
    for kind in ("private", "public"):
        site = next((each for each in sites if each.kind == kind), None)
        if site is None or site.address is None:
            lacks = "no site of that kind" if site is None else f"no address for the site `{site.name}`"
            raise Unsupported(
                f"hybrid: {lacks} ({kind}) in spec.sites; write one, with `kind: {kind}` and the `address` "
                f"at which the other site reaches its gateway"
            )
        found.append(site)
    needed = sum(each.option.count for each in order.served if each.option is not None)
    for site in found:
        count = sum(each.count for each in site.accelerators)
        if count < needed:
            raise Unsupported(
                f"hybrid: the site `{site.name}` has {count} accelerators, and the models need {needed}; "
                f"each is planned for both sites alike"
            )
    return found[0], found[1]


def _check_stores(order: Order) -> None:
    """Raises Unsupported where the sites would keep books of their own."""
    spec = order.deployment.spec
    if spec.store.url == SQLITE or spec.limits is None:
        raise Unsupported(
            "hybrid: both sites keep one set of books; write spec.store with the servers of both, as "
            "`url: postgresql://sextant@pg-a.example.com,pg-b.example.com/sextant"
            "?target_session_attrs=read-write`, and spec.limits with a Redis that both reach"
        )


def _of_site(order: Order, site: Site) -> Order:
    """The order with that site's hardware alone."""
    alone = {} if site.kind == "private" else {"overflow": None}
    spec = order.deployment.spec.model_copy(update={"sites": (site,), **alone})
    return msgspec.structs.replace(order, deployment=order.deployment.model_copy(update={"spec": spec}))


def _private(order: Order, public: Site) -> Order:
    """The order of the private site: every model there is, and the public ones as endpoints."""
    far = [
        ServedModel(
            entry=ModelEntry(
                name=f"{each.entry.name}-public",
                personal_data="guarded",
                engine=RemoteEngine(
                    kind="remote",
                    base_url=f"https://{public.address}/v1",
                    api_key=f"file:{PEER_KEY}",
                    upstream_model=each.entry.name,
                    compliant=True,
                    context_tokens=each.context_tokens or 65_536,
                ),
            )
        )
        for each in order.served
        if isinstance(each.entry.engine, LaunchedEngine)
    ]
    return msgspec.structs.replace(order, served=(*order.served, *far))


def _mesh_files(here: Cluster, there: Cluster, private: Site, public: Site) -> tuple[File, ...]:
    if here.order.deployment.spec.delivery.mesh != "istio":
        return ()
    pinned = "Traffic that begins at the private site stays there."
    falls = "While the public site has no healthy gateway, its callers are served by the private one."
    return (
        yaml_file(
            "private/manifests/90-mesh.yaml", *mesh(here, private, public, falls_back=False), comment=pinned
        ),
        yaml_file(
            "public/manifests/90-mesh.yaml", *mesh(there, public, private, falls_back=True), comment=falls
        ),
    )


def _far_copies(there: Cluster) -> tuple[File, ...]:
    """The private site's backups as the public one's Velero sees them: to be restored from, never written."""
    found = copies_of("private", there)
    return (yaml_file("public/cluster/60-private-copies.yaml", *found),) if found else ()


def _training(here: Cluster, there: Cluster, sites: tuple[Site, Site]) -> Job | None:
    """The training of the document, at its site. Raises Unsupported for a site that is not one of the two."""
    told = here.order.deployment.spec.training
    if told is None:
        return None
    named = told.site or sites[1].name
    for cluster, site in zip((here, there), sites, strict=True):
        if site.name == named:
            return job_of(cluster, told)
    raise Unsupported(
        f"spec.training.site: there is no site `{named}`; expected {sites[0].name} or {sites[1].name}"
    )


def _training_files(job: Job | None) -> tuple[File, ...]:
    if job is None:
        return ()
    site = job.cluster.site
    return (
        yaml_file(f"{site}/cluster/45-training.yaml", *administrators_objects(job)),
        yaml_file(f"{site}/training/10-job.yaml", *job_objects(job)),
    )


def _with_training(whole: Bundle, job: Job) -> Bundle:
    site, namespace = job.cluster.site, job.part.namespace
    kind = "jobs.batch" if job.training.queue == "kueue" else "jobs.batch.volcano.sh"
    start = Step(
        f"At the {site} site: begin the training.",
        (
            f"kubectl apply --server-side --field-manager=sextant -f {site}/training/",
            f"kubectl -n {namespace} get {kind},pods",
        ),
        "It waits until all of its machines are there. To begin anew after a change: delete the job, "
        "checkpoints stay.",
    )
    stop = Step(
        f"At the {site} site: end the training.",
        (f"kubectl -n {namespace} delete {kind} {job.part.name} --ignore-not-found",),
        "Checkpoints go with the namespace, in the next steps: copy what is to be kept.",
    )
    return msgspec.structs.replace(
        whole,
        needs=(*whole.needs, *training_needs(job)),
        install=(*whole.install, start),
        uninstall=(stop, *whole.uninstall),
        notes=(*whole.notes, *training_notes(job)),
        diagram=f"{whole.diagram}\n  spot[training on {SPOT} machines] -->|checkpoints| volume[(volume)]",
    )


def _below(folder: str, file: File) -> File:
    return msgspec.structs.replace(file, path=f"{folder}/{file.path}")


def _at(folder: str, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The steps of one site: in its folder, with kubectl's context set to its cluster."""
    found = []
    for each in steps:
        typed = [line.replace(f"{PREVIOUS}/", f"{PREVIOUS}/{folder}/") for line in each.commands]
        if COMPARE in typed:
            found.append(
                Step(f"At the {folder} site: see what changes.", (f"cd {folder}", typed[-1], "cd .."))
            )
        else:
            found.append(
                Step(f"At the {folder} site: {each.title}", (f"cd {folder}", *typed, "cd .."), each.why)
            )
    return tuple(found)


def _changed() -> Step:
    return Step(
        "Render what changes, for both sites.",
        (COMPARE, f"cp -R . {PREVIOUS}", RENDER),
        f"NEW_DOCUMENT is the document as it shall be; {PREVIOUS} a new folder outside of this one: the "
        "way back.",
    )


def _peer_key(order: Order) -> tuple[Step, ...]:
    """The key by which the private gateway calls the public one, which must be there to make it."""
    if not any(isinstance(each.entry.engine, LaunchedEngine) for each in order.served):
        return ()
    run = f"kubectl -n {order.deployment.spec.delivery.namespace} exec deploy/gateway -c gateway -- sextant"
    return (
        Step(
            "At the public site: make the key by which the private gateway calls this one.",
            (
                f"{run} tenant create overflow --tier internal --billing free",
                f"{run} key create --tenant overflow --name private",
            ),
            f"Keep it as the file `{file_key(PEER_KEY)}`: the private site's secret is made of it. Its "
            "tenant pays nothing, since an answer is charged where it was asked for.",
        ),
    )


def _distance(public: Site) -> Step:
    probe = "curl -so /dev/null -w '%{time_connect}\\n'"
    return Step(
        "The sites are near enough.",
        (f"for i in 1 2 3 4 5; do {probe} https://{public.address}/health; done",),
        f"Both write one set of books: a connection should take no more than {APART_MS} ms.",
    )


def _needs(order: Order, public: Site) -> tuple[Need, ...]:
    found = [
        Need(
            kind="cluster",
            name="A second cluster with all of the above",
            why=f"the public site `{public.name}`; it needs the same secrets, but for the peer's key",
        ),
        Need(
            kind="account",
            name=f"A certificate for {public.address} that the private gateway trusts",
            why="it calls the public one over TLS and knows the usual authorities",
        ),
        Need(
            kind="program",
            name="PostgreSQL on both sides",
            why="the standby follows the primary by streaming",
        ),
        Need(
            kind="program",
            name="postgres_exporter on the standby",
            why="the alerts on what would be lost read its metrics; 0.17 or newer, with "
            "--collector.stat_wal_receiver and a role that has pg_monitor, read every 5 s",
        ),
    ]
    if order.deployment.spec.delivery.mesh == "istio":
        found.append(
            Need(
                kind="cluster",
                name="Istio with its CNI plugin, as one mesh over both clusters",
                why="its clusters are called as the sites of the document, and nodes carry their regions",
                check="kubectl get crd destinationrules.networking.istio.io",
            )
        )
    return tuple(found)


def _notes(order: Order) -> tuple[str, ...]:
    mesh = order.deployment.spec.delivery.mesh
    return (
        *_overflow_notes(order),
        "What may leave by name is a tenant's privacy policy: without one, MODEL-public is reached unmasked. "
        "Set `sextant tenant set TENANT --privacy …` before callers are let in.",
        "The public site is planned like the private one: every model has its planned replicas at both.",
        "The experiments in optional/chaos.yaml have been checked against no schema.",
        *(() if mesh == "istio" else (_without_mesh(order),)),
    )


def _without_mesh(order: Order) -> str:
    if order.deployment.spec.overflow is None:
        return "Without a mesh or spec.overflow nothing fails over between the sites by itself."
    return (
        "Without a mesh the private gateway asks the public one by itself where its engines fail; callers of "
        "a site whose gateways are all gone reach nobody."
    )


def _overflow_notes(order: Order) -> tuple[str, ...]:
    overflow = order.deployment.spec.overflow
    if overflow is None or overflow.when == "never":
        return (
            "spec.overflow is not set: requests go to MODEL-public by name alone, none is moved there when "
            "the private engines are full.",
        )
    moved = "fail or are full" if overflow.when == "when_queue_full" else "fail"
    kept = f"; requests of {', '.join(overflow.stays)} never leave" if overflow.stays else ""
    names = ", ".join(each.name for each in overflow.models)
    masked = "masked for tenants without a policy" if overflow.personal_data == "mask" else "as policies say"
    return (
        f"Where the private engines of {names} {moved}, the public site answers, before an answer has begun; "
        f"personal data is {masked}{kept}. How full is full: `queue_length` of the model.",
    )


def _diagram(order: Order, private: Site, public: Site) -> str:
    lines = ["flowchart LR"]
    for site, kind in ((private, "private"), (public, "public")):
        lines.append(f"  subgraph {kind}[{site.name}]")
        lines.append(f"    {kind}g[gateway] --> {kind}e[engines]")
        lines.append("  end")
    lines += [
        "  callers([callers]) --> privateg",
        "  privateg -->|guarded, masked| publicg",
        "  privateg --> a[(PostgreSQL primary)]",
        "  publicg --> a",
        "  a -. streaming .-> b[(standby)]",
    ]
    if order.deployment.spec.delivery.mesh == "istio":
        lines.append("  publicg -. falls back .-> privateg")
    return "\n".join(lines)
