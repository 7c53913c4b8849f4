"""The mode `container`: images, pipelines and GitOps around the private cloud's objects.

The repository holds the document, the images lock, the wheel and this bundle as `bundle/`. A commit that
changes what is rendered is a release: Argo CD applies it, Argo Rollouts lets it take over step by step. The
parts are in `containers/`; what runs in the cluster is `kubernetes/`'s.
"""

from __future__ import annotations

import msgspec

from sextant.render.containers import compose, gitops, logs, metrics, pipelines, registry, releases, versions
from sextant.render.containers.dockerfiles import CI, FOLDER, MLFLOW, SEXTANT, dockerfiles
from sextant.render.dumping import yaml_file
from sextant.render.kubernetes import scaling
from sextant.render.kubernetes.bundling import APPLY, cluster_bundle
from sextant.render.kubernetes.cluster import Cluster, cluster_of
from sextant.render.kubernetes.engines import engine_objects
from sextant.render.kubernetes.gateway import gateway_objects, secret_need
from sextant.spec.bundle import Bundle, File, Need, Step
from sextant.spec.rendering import Order

_WATCHING = "observability/prometheus.yaml -f observability/logs.yaml"
_ROLLED = "kubectl rollout status"
_WARM_UP = "exec deploy/gateway"


def bundle(order: Order) -> Bundle:
    """The bundle. Raises Unsupported for what cannot run as pods."""
    order = _meshed(order)
    pools = tuple(quota.name for quota in order.deployment.spec.delivery.quotas)
    cluster = cluster_of(order, pools)
    base = cluster_bundle(cluster)
    files = {file.path: file for file in (*base.files, *_files(cluster))}
    return msgspec.structs.replace(
        base,
        files=tuple(files[path] for path in sorted(files)),
        needs=(*base.needs, *_needs(cluster)),
        install=(*_before(cluster), *_rolled(base.install), *_after(cluster)),
        verify=(*_rolled(base.verify), _watched(cluster)),
        upgrade=_upgrade(cluster),
        rollback=_rollback(cluster),
        uninstall=_uninstall(cluster, base.uninstall),
        diagram=_diagram(base.diagram),
        notes=(*base.notes, *_notes(cluster)),
    )


def _meshed(order: Order) -> Order:
    """With Istio, which splits an engine's requests among its versions, whatever the document says."""
    spec = order.deployment.spec
    delivery = spec.delivery.model_copy(update={"mesh": "istio"})
    deployment = order.deployment.model_copy(update={"spec": spec.model_copy(update={"delivery": delivery})})
    return msgspec.structs.replace(order, deployment=deployment)


def _files(cluster: Cluster) -> list[File]:
    """What this mode adds, and what it puts in the place of the cluster's own files."""
    single = [each for each in cluster.workloads if each.nodes == 1]
    scaled = [releases.scaled(scaling.gateway_scaling(cluster))]
    for workload in cluster.workloads:
        if workload.command.metrics_path:
            scaled.append(releases.scaled(scaling.engine_scaling(cluster, workload)))
    files = [
        yaml_file(
            f"manifests/40-{each.part.name}.yaml",
            *releases.rolled_engine(each, engine_objects(cluster, each)),
        )
        for each in cluster.workloads
    ]
    if cluster.workloads:
        kept = [versions.configuration(each) for each in cluster.workloads]
        files.append(yaml_file("manifests/35-models.yaml", *kept))
    if single:
        split = [body for each in single for body in releases.split(each)]
        files.append(yaml_file("manifests/90-split.yaml", *split))
    hpa = "Instead of the gateway's ScaledObject, on a cluster without KEDA; never beside it."
    return [
        *files,
        yaml_file("manifests/50-gateway.yaml", *releases.rolled_gateway(gateway_objects(cluster))),
        yaml_file("manifests/70-scaling.yaml", *scaled),
        yaml_file("manifests/85-analyses.yaml", *releases.analyses(cluster)),
        yaml_file("optional/hpa.yaml", releases.scaled(scaling.alternative_hpa(cluster)), comment=hpa),
        *dockerfiles(cluster.order),
        *pipelines.pipeline_files(cluster.order),
        *gitops.argocd_files(cluster),
        *registry.registry_files(cluster),
        *metrics.metric_files(cluster),
        *logs.log_files(cluster),
        *compose.compose_files(cluster),
    ]


def _needs(cluster: Cluster) -> tuple[Need, ...]:
    order, found = cluster.order, []
    delivery = order.deployment.spec.delivery
    for name, crd, why in (
        ("Argo CD 2.10 or newer", "applications.argoproj.io", "applies what the repository holds"),
        ("Argo Rollouts 1.7 or newer", "rollouts.argoproj.io", "lets versions take over step by step"),
        (
            "Istio 1.27 or newer, with its CNI plug-in and native sidecars",
            "virtualservices.networking.istio.io",
            "splits an engine's requests among its versions; without native sidecars jobs never end",
        ),
        (
            "Elastic's operator (ECK) 3",
            "elasticsearches.elasticsearch.k8s.elastic.co",
            "runs the logs",
        ),
    ):
        found.append(Need(kind="cluster", name=name, why=why, check=f"kubectl get crd {crd}"))
    if delivery.repository_url is None:
        found.append(
            Need(
                kind="account",
                name="A Git repository",
                why="name it as spec.delivery.repository_url and render again: Argo CD's applications and "
                "Kaniko's jobs are left out until then",
            )
        )
    if not order.images.registry:
        found.append(
            Need(
                kind="account",
                name="A registry to push to",
                why="name it as spec.delivery.registry and render again: pipelines are left out until then",
            )
        )
    elif delivery.repository_url is not None:
        space, why = pipelines.build_namespace(order), "Kaniko reads the repository and pushes with them"
        found.append(secret_need(space, "git", ("GIT_USERNAME", "GIT_PASSWORD"), why))
        found.append(secret_need(space, "registry", (".dockerconfigjson",), why))
    if delivery.images_lock is None:
        found.append(
            Need(
                kind="image",
                name="spec.delivery.images_lock",
                why="the pipelines write digests into that file, and manifests name images by them",
                check=f"test -f {pipelines.LOCK}",
            )
        )
    for place in logs.NODE_LOGS:
        found.append(Need(kind="storage", name=f"Folder {place} on every node", why="Filebeat reads it"))
    for each in cluster.workloads:
        if each.nodes == 1 and each.resource:
            found.append(
                Need(
                    kind="hardware",
                    name=f"{each.per_pod} x {each.resource} free while {each.served.entry.name} is released",
                    why="the new version runs beside the old one",
                )
            )
    return (*found, *registry.registry_needs(cluster), *metrics.metric_needs(cluster))


def _before(cluster: Cluster) -> tuple[Step, ...]:
    order = cluster.order
    host = order.images.registry or "localhost"
    builds = [
        f"docker build --push -f {FOLDER}/{path} -t {host}/{order.images.known[name].tagged} ."
        for path, name in ((SEXTANT, "sextant"), (CI, "ci"), (MLFLOW, "mlflow"))
    ]
    layout = Step(
        "Lay the repository out.",
        (f"git add sextant.yaml {pipelines.LOCK} wheels/ {FOLDER}/", "git commit -m 'Deploy' && git push"),
        f"The wheel of Sextant lies in wheels/, this bundle in {FOLDER}/; type commands there, but for those "
        f"that name {FOLDER}/.",
    )
    made = Step(
        "Build the images once and push them.",
        ("cd ..", *builds, f"cd {FOLDER}"),
        "Afterwards the pipeline builds Sextant's. Write each digest into the images lock and render again.",
    )
    return layout, made


def _rolled(steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """The cluster's steps, where Rollouts stand in the place of Deployments."""
    return tuple(Step(step.title, tuple(map(_as_rollout, step.commands)), step.why) for step in steps)


def _as_rollout(command: str) -> str:
    if command.startswith(_ROLLED):
        return command.replace(_ROLLED, "kubectl argo rollouts status").replace(" deployment/", " ")
    return command.replace(_WARM_UP, "exec service/gateway")


def _after(cluster: Cluster) -> tuple[Step, ...]:
    make = f"kubectl -n {registry.namespace_of(cluster)} create secret generic"
    return (
        *_building(cluster.order),
        Step(
            "Start what watches, and the registry.",
            (
                f"{APPLY} tools/00-namespace.yaml",
                f"{make} mlflow --from-file=backend-store-uri",
                f'printf %s "$(openssl rand -hex 16)" | {make} grafana --from-file=admin-password=/dev/stdin',
                f"{APPLY} {_WATCHING} -f tools/",
            ),
            "The file backend-store-uri is yours: the address of a database of MLflow's own, with its user "
            "and password, beginning with postgresql, and no line break; delete it afterwards.",
        ),
        Step(
            "Give Kibana its searches.",
            (
                f"kubectl -n {logs.NAMESPACE} port-forward service/logs-kb-http 5601:5601 &",
                'curl -fsSk -u "elastic:$(kubectl -n logging get secret logs-es-elastic-user '
                "-o jsonpath='{.data.elastic}' | base64 -d)\" -H 'kbn-xsrf: true' "
                f"-F file=@{logs.SEARCHES} 'https://127.0.0.1:5601/api/saved_objects/_import?overwrite=true'",
            ),
        ),
        Step(
            "Hand it over to Argo CD.",
            ("kubectl apply -f argocd/",),
            "From here on nobody applies by hand: a commit does. argocd/ is there once the document names a "
            "repository.",
        ),
    )


def _building(order: Order) -> tuple[Step, ...]:
    """Kaniko's jobs, where they are rendered."""
    if not order.images.registry or order.deployment.spec.delivery.repository_url is None:
        return ()
    make = f"kubectl -n {pipelines.build_namespace(order)} create secret generic"
    return (
        Step(
            "Only where the cluster builds the images instead of the pipelines.",
            (
                f"{APPLY} build/",
                f"{make} git --from-env-file=git.env",
                f"{make} registry --type=kubernetes.io/dockerconfigjson "
                '--from-file=.dockerconfigjson="$HOME/.docker/config.json"',
            ),
            "The jobs wait for their secrets. The file git.env is yours: GIT_USERNAME=… and GIT_PASSWORD=…, "
            "a line each; delete it afterwards.",
        ),
    )


def _watched(cluster: Cluster) -> Step:
    return Step(
        "Versions take over as they should.",
        (
            f"kubectl argo rollouts list rollouts -n {cluster.namespace}",
            f"kubectl -n {cluster.namespace} get analysisruns",
        ),
    )


def _upgrade(cluster: Cluster) -> tuple[Step, ...]:
    name = next((each.part.name for each in cluster.workloads), "gateway")
    return (
        Step(
            "Change the document or the images lock, render, commit.",
            (
                f"sextant render sextant.yaml -o {FOLDER}",
                f"git add {pipelines.LOCK} sextant.yaml {FOLDER} && git commit && git push",
            ),
            "In the repository's top folder. For Sextant's image the pipeline does it when wheels/ changes.",
        ),
        Step(
            "Watch it take over.",
            (f"kubectl argo rollouts get rollout {name} -n {cluster.namespace} --watch",),
            f"An engine's new version gets {', '.join(map(str, releases.WEIGHTS))} per cent of its requests, "
            "then all; the gateway is switched at once. A failed analysis takes either back by itself.",
        ),
    )


def _rollback(cluster: Cluster) -> tuple[Step, ...]:
    return (
        Step(
            "Stop a release under way.",
            (f"kubectl argo rollouts abort gateway -n {cluster.namespace}",),
            "All requests go to the version before it at once; the same for an engine, by its name.",
        ),
        Step(
            "Take the commit back.",
            ("git revert --no-edit HEAD && git push",),
            "ConfigMaps of versions before stay in the cluster, so nothing is rendered again.",
        ),
    )


def _uninstall(cluster: Cluster, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    return (
        Step(
            "Let Argo CD go first.",
            ("kubectl delete --ignore-not-found -f argocd/",),
            "Its finalizers take away what it applied.",
        ),
        *steps,
        Step(
            "Take the registry and what watches away.",
            (f"kubectl delete --ignore-not-found -f tools/ -f {_WATCHING}",),
            "Their volumes go with them.",
        ),
    )


def _diagram(base: str) -> str:
    return "\n".join(
        (
            base,
            "  wheel[wheel] --> pipeline[pipeline: build, bill of materials, scan, sign]",
            "  pipeline -->|digest| git[(Git: document, lock, bundle)]",
            "  git --> argocd{{Argo CD}}",
            "  argocd --> rollouts{{Argo Rollouts}}",
            "  rollouts -. blue, green .-> gateway",
            "  rollouts -. 90 to 10 first .-> istio{{Istio}}",
            "  prometheus[(Prometheus)] -. judges .-> rollouts",
        )
    )


def _notes(cluster: Cluster) -> tuple[str, ...]:
    several = [each.served.entry.name for each in cluster.workloads if each.nodes > 1]
    fixed = [
        each.served.entry.name
        for each in cluster.workloads
        if each.nodes == 1 and not versions.is_driven(each)
    ]
    rooted = [each.part.name for each in cluster.workloads if each.user == 0]
    notes = [
        "Neither Argo, Istio, Kaniko, Elastic's operator nor either pipeline has run this bundle. Objects "
        "pass the schemas of their custom resources, Dockerfiles hadolint, the compose file Compose's own "
        "check, pipelines the schemas that GitHub's and GitLab's are published with.",
        "Kaniko's makers archived it in June 2025; its last release is named, and can be locked by digest. A "
        "fork that is maintained (Chainguard's) takes its place where the registry of the document keeps it "
        "under Kaniko's name. It runs as root in its container, in a namespace of its own, which says why; "
        "the pipelines' other jobs do not.",
        "In Kubernetes, alerts reach nobody until the cluster's Alertmanager is named in "
        "observability/prometheus.yaml; compose/alertmanager.yml shows them and sends none.",
        "Signatures are made and not asked for: a policy that admits signed images alone is the cluster's "
        "(Sigstore's policy-controller, Kyverno).",
        "Actions of GitHub are named by version, not by digest.",
        "A canary's analysis judges all requests of the model together: at 10 per cent, a new version that "
        "fails one request in five is stopped, one that fails one in ten is not.",
        "Other weights of a model want a name of their own (`r1-7b-1.1.0` beside `r1-7b-1.0.0`): both "
        "then run side by side, and callers choose. The canary is for parameters, images and engines.",
        "Argo CD applies cluster/ too, so it needs an administrator's rights there.",
        "In compose/ nothing has a password but the gateway, and all of it listens on 127.0.0.1 alone; "
        "Elastic's images there write below their own folders.",
    ]
    if several:
        notes.append(
            f"Engines of several machines are replaced group by group, without canary: {several[0]}."
        )
    if fixed:
        notes.append(f"The image's own entry point decides its parameters, not the ConfigMap: {fixed[0]}.")
    if rooted:
        notes.append(f"Only known to run as root in compose/: {', '.join(rooted)}.")
    return tuple(notes)
