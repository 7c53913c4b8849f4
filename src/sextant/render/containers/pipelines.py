"""From a wheel to a digest in Git: pipelines of GitHub and GitLab, and Kaniko jobs for clusters that build.

Each step is a script that both pipelines run in one image (`images/ci`). What runs is decided by the digest
in the images lock alone: an image that failed its scan is in the registry, but no manifest names it.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from sextant.catalog.images import OWN
from sextant.render.containers.dockerfiles import CI, FOLDER, SEXTANT
from sextant.render.containers.walls import NAMES, Wall, account, allowed, walled
from sextant.render.dumping import script_file, yaml_file
from sextant.render.kubernetes.objects import Object, Part, made
from sextant.render.kubernetes.pods import Volume, resources, scratch
from sextant.spec.bundle import File
from sextant.spec.rendering import Order

LOCK = "images.lock"
DOCUMENT = "sextant.yaml"
BRANCH = "main"
CHECKOUT = "actions/checkout@v6"
_DIGEST = "${{ needs.build.outputs.digest }}"
_STEPS = ("sbom", "scan", "sign")

_SBOM = """
# The bill of materials of $IMAGE@$DIGEST, as SPDX and CycloneDX.
: "${IMAGE:?}" "${DIGEST:?}"
syft scan "registry:$IMAGE@$DIGEST" --output spdx-json=sbom.spdx.json --output cyclonedx-json=sbom.cdx.json
"""
_SCAN = """
# Ends the pipeline for a known flaw of weight that has a fix.
grype "sbom:${SBOM:-sbom.cdx.json}" --only-fixed --fail-on "${FAIL_ON:-high}"
"""
_SIGN = """
# Signs the digest, never a tag, and the bill of materials with it. Keyless where the pipeline has an identity
# of its own; with a key where COSIGN_KEY names one.
: "${IMAGE:?}" "${DIGEST:?}"
set -- --yes
if [ -n "${COSIGN_KEY:-}" ]; then set -- "$@" --key "$COSIGN_KEY"; fi
cosign sign "$@" "$IMAGE@$DIGEST"
cosign attest "$@" --type spdxjson --predicate sbom.spdx.json "$IMAGE@$DIGEST"
"""
_LOCK = """
# Writes the digest into the images lock, renders again, and commits both: the commit is the release.
: "${{DIGEST:?}}" "${{PUSH_URL:?}}" "${{GIT_PUSH_USER:?}}" "${{GIT_PUSH_TOKEN:?}}"
case "$DIGEST" in
  sha256:*) ;;
  *) echo "DIGEST is $DIGEST; expected sha256:…" >&2; exit 1 ;;
esac
touch {lock}
grep -v '^{tagged}@' {lock} > {lock}.new || true
echo "{tagged}@$DIGEST" >> {lock}.new
mv {lock}.new {lock}
sextant render {document} -o {folder}
git add {lock} {folder}
if git diff --cached --quiet; then echo "nothing changed"; exit 0; fi
git -c user.name=pipeline -c user.email=pipeline@localhost commit -m "Deploy {tagged} at $DIGEST"
# shellcheck disable=SC2016 # the helper's own shell reads them
git -c credential.helper= \\
  -c credential.helper='!f() {{ echo "username=$GIT_PUSH_USER"; echo "password=$GIT_PUSH_TOKEN"; }}; f' \\
  push "$PUSH_URL" HEAD:{branch}
"""


def pipeline_files(order: Order) -> tuple[File, ...]:
    """Scripts, both pipelines, and the Kaniko job. Nothing where the document names no
    registry to push to."""
    if not order.images.registry:
        return ()
    lock = order.deployment.spec.delivery.images_lock or LOCK
    tagged = order.images.known[OWN].tagged
    told = {"lock": lock, "tagged": tagged, "document": DOCUMENT, "folder": FOLDER, "branch": BRANCH}
    return (
        script_file("ci/sbom.sh", _SBOM),
        script_file("ci/scan.sh", _SCAN),
        script_file("ci/sign.sh", _SIGN),
        script_file("ci/lock.sh", _LOCK.format(**told)),
        yaml_file("ci/github.yml", _github(order), comment="Copy to .github/workflows/sextant.yaml."),
        yaml_file("ci/gitlab.yml", _gitlab(order), comment="Include from .gitlab-ci.yml, as a local file."),
        *_kaniko(order),
    )


def image_name(order: Order, name: str = OWN) -> str:
    """`registry/repository` of an image that the user builds, without tag."""
    return f"{order.images.registry}/{order.images.known[name].repository}"


def _github(order: Order) -> dict[str, Any]:
    image, tag = image_name(order), order.images.known[OWN].tag
    host = order.images.registry.partition("/")[0]
    signed_in = {
        "username": "${{ secrets.REGISTRY_USERNAME }}",
        "password": "${{ secrets.REGISTRY_PASSWORD }}",
    }
    login = {
        "name": "Sign in to the registry",
        "env": {"USERNAME": signed_in["username"], "PASSWORD": signed_in["password"]},
        "run": f'printf %s "$PASSWORD" | docker login --username "$USERNAME" --password-stdin {host}',
    }
    build = (
        f'docker buildx build --push --file {FOLDER}/{SEXTANT} --tag "$IMAGE:$TAG" '
        "--metadata-file build.json .\n"
        'echo "digest=$(jq -r \'."containerimage.digest"\' build.json)" >> "$GITHUB_OUTPUT"\n'
    )
    registry = {
        "SYFT_REGISTRY_AUTH_AUTHORITY": host,
        "SYFT_REGISTRY_AUTH_USERNAME": signed_in["username"],
        "SYFT_REGISTRY_AUTH_PASSWORD": signed_in["password"],
    }
    sign_in = (
        f'printf %s "$SYFT_REGISTRY_AUTH_PASSWORD" | '
        f'cosign login {host} --username "$SYFT_REGISTRY_AUTH_USERNAME" --password-stdin\n'
    )
    checked: list[dict[str, Any]] = [{"uses": CHECKOUT}]
    for name in _STEPS:
        run = f"{FOLDER}/ci/{name}.sh"
        checked.append({"name": name, "run": f"{sign_in}{run}\n" if name == "sign" else run})
    push = {
        "PUSH_URL": "${{ github.server_url }}/${{ github.repository }}.git",
        "GIT_PUSH_USER": "x-access-token",
        "GIT_PUSH_TOKEN": "${{ github.token }}",
    }
    checked.append({"name": "lock", "env": push, "run": f"{FOLDER}/ci/lock.sh"})
    return {
        "name": "sextant",
        "on": {
            "push": {"branches": [BRANCH], "paths": ["wheels/**", f"{FOLDER}/images/**"]},
            "workflow_dispatch": {},
        },
        "permissions": {"contents": "read"},
        "concurrency": {"group": "sextant", "cancel-in-progress": False},
        "env": {"IMAGE": image, "TAG": tag},
        "jobs": {
            "build": {
                "runs-on": "ubuntu-latest",
                "timeout-minutes": 60,
                "outputs": {"digest": "${{ steps.build.outputs.digest }}"},
                "steps": [{"uses": CHECKOUT}, login, {"name": "build", "id": "build", "run": build}],
            },
            "release": {
                "needs": "build",
                "runs-on": "ubuntu-latest",
                "timeout-minutes": 60,
                "permissions": {"contents": "write", "id-token": "write"},
                # The runner's files belong to a user that the image does not have.
                "container": {
                    "image": order.images.reference("ci"),
                    "credentials": signed_in,
                    "options": "--user 1001",
                },
                "env": {"DIGEST": _DIGEST, **registry},
                "steps": checked,
            },
        },
    }


def _gitlab(order: Order) -> dict[str, Any]:
    image, tag = image_name(order), order.images.known[OWN].tag
    host = order.images.registry.partition("/")[0]
    ours = {"name": order.images.reference("ci"), "entrypoint": [""]}
    kaniko = {"name": order.images.reference("kaniko"), "entrypoint": [""]}
    token = '"$(printf %s:%s "$REGISTRY_USERNAME" "$REGISTRY_PASSWORD" | base64 | tr -d \'\\n\')"'
    config = f'{{"auths":{{"{host}":{{"auth":"%s"}}}}}}'
    signed_in = f"printf '{config}' {token}"
    script = (
        f'/kaniko/executor --context "$CI_PROJECT_DIR" --dockerfile {FOLDER}/{SEXTANT} --reproducible '
        f'--destination "$IMAGE:$TAG" --digest-file digest'
    )
    common = {"image": ours, "needs": ["build"]}
    folder = 'mkdir -p "$CI_PROJECT_DIR.docker"'
    login = [folder, f'{signed_in} > "$CI_PROJECT_DIR.docker/config.json"']
    docker = {"DOCKER_CONFIG": "$CI_PROJECT_DIR.docker"}
    return {
        "stages": ["build", "check", "release"],
        "workflow": {"rules": [{"if": f'$CI_COMMIT_BRANCH == "{BRANCH}"'}]},
        "variables": {"IMAGE": image, "TAG": tag},
        "build": {
            "stage": "build",
            "image": kaniko,
            "rules": [{"changes": ["wheels/**/*", f"{FOLDER}/images/**/*"]}],
            "script": [
                f"{signed_in} > /kaniko/.docker/config.json",
                script,
                'echo "DIGEST=$(cat digest)" > digest.env',
            ],
            "artifacts": {"reports": {"dotenv": "digest.env"}},
        },
        "check": {
            **common,
            "stage": "check",
            "rules": [{"changes": ["wheels/**/*", f"{FOLDER}/images/**/*"]}],
            "variables": docker,
            "script": [*login, f"{FOLDER}/ci/sbom.sh", f"{FOLDER}/ci/scan.sh"],
            "artifacts": {"paths": ["sbom.spdx.json", "sbom.cdx.json"], "expire_in": "1 year"},
        },
        "release": {
            "image": ours,
            "needs": ["build", "check"],
            "stage": "release",
            "rules": [{"changes": ["wheels/**/*", f"{FOLDER}/images/**/*"]}],
            "id_tokens": {"SIGSTORE_ID_TOKEN": {"aud": "sigstore"}},
            "variables": {
                **docker,
                "PUSH_URL": "$CI_SERVER_URL/$CI_PROJECT_PATH.git",
                "GIT_PUSH_USER": "oauth2",
            },
            "script": [*login, f"{FOLDER}/ci/sign.sh", f"{FOLDER}/ci/lock.sh"],
        },
    }


def build_namespace(order: Order) -> str:
    """Where Kaniko runs: it needs root inside its container, which the deployment's namespaces refuse."""
    return f"{order.deployment.spec.delivery.namespace}-build"


def _kaniko(order: Order) -> tuple[File, ...]:
    url = order.deployment.spec.delivery.repository_url
    if url is None:
        return ()
    space = build_namespace(order)
    part = Part(instance=order.name, namespace=space, component="build")
    why = "Kaniko unpacks images as root inside its container; no other pod of this bundle may."
    wall = Wall(level="baseline", why=why, cores=8, memory_gib=16, storage_gib=64, pods=8)
    policy = allowed(part, egress=[dict(NAMES), {"ports": [{"port": 443, "protocol": "TCP"}]}])
    jobs = [_job(order, part, name, place) for name, place in (("sextant", SEXTANT), ("ci", CI))]
    return (yaml_file("build/kaniko.yaml", *walled(part, wall), account(part), policy, *jobs, comment=why),)


def _job(order: Order, part: Part, name: str, dockerfile: str) -> Object:
    parts = urlsplit(str(order.deployment.spec.delivery.repository_url))
    context = f"git://{parts.netloc.rpartition('@')[2]}{parts.path}#refs/heads/{BRANCH}"
    image = order.images.known[OWN if name == "sextant" else name]
    token = [
        {"name": key, "valueFrom": {"secretKeyRef": {"name": "git", "key": key}}}
        for key in ("GIT_USERNAME", "GIT_PASSWORD")
    ]
    docker = {
        "secret": {"secretName": "registry", "items": [{"key": ".dockerconfigjson", "path": "config.json"}]}
    }
    volumes = (
        Volume(name="registry", source=docker, path="/kaniko/.docker"),
        scratch("workspace", "/workspace", "4Gi"),
    )
    container = {
        "name": "kaniko",
        "image": order.images.reference("kaniko"),
        "imagePullPolicy": "IfNotPresent",
        "args": [
            f"--context={context}",
            f"--dockerfile={FOLDER}/{dockerfile}",
            f"--destination={order.images.registry}/{image.tagged}",
            "--digest-file=/dev/termination-log",
            "--reproducible",
        ],
        "env": token,
        "resources": resources("2", "4Gi", "16Gi"),
        "volumeMounts": [volume.mount for volume in volumes],
        "securityContext": {"allowPrivilegeEscalation": False},
    }
    spec = {
        "serviceAccountName": part.component,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "restartPolicy": "Never",
        "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": volume.name, **volume.source} for volume in volumes],
    }
    job = {
        "backoffLimit": 1,
        "activeDeadlineSeconds": 3600,
        "ttlSecondsAfterFinished": 86_400,
        "template": {"metadata": {"labels": part.labels}, "spec": spec},
    }
    return made("batch/v1/Job", part, job, name=f"build-{name}")
