"""The images that the user builds: Sextant out of its wheel, MLflow's server, the pipelines' programs.

The context of all is the repository that holds the document, `wheels/` and this bundle as `bundle/`.
"""

from __future__ import annotations

from sextant.render.dumping import text_file
from sextant.spec.bundle import File
from sextant.spec.rendering import Order

FOLDER = "bundle"
"""Where the bundle stands in the user's repository."""
SEXTANT = "images/sextant/Dockerfile"
MLFLOW = "images/mlflow/Dockerfile"
CI = "images/ci/Dockerfile"
USER = 65532

_SEXTANT = """\
# Sextant {version}. Context: the repository, with the wheel in wheels/ and with what it depends on, or else
# that comes from the index that pip is set up for.
FROM {base} AS build
COPY wheels/ /wheels/
RUN python3 -m venv /opt/sextant \\
 && /opt/sextant/bin/pip install --no-cache-dir --no-compile --find-links /wheels "sextant-llm=={version}" \\
 && /opt/sextant/bin/pip uninstall --yes pip

FROM {base}
LABEL org.opencontainers.image.title="sextant" org.opencontainers.image.version="{version}"
COPY --from=build /opt/sextant /opt/sextant
RUN install -d -o {user} -g {user} /var/lib/sextant /var/log/sextant
# /bin/sh and python3 stay: probes and jobs of this bundle use them. There is no SSH server and no compiler.
ENV PATH=/opt/sextant/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER {user}:{user}
WORKDIR /tmp
EXPOSE 8000 8001
VOLUME ["/tmp", "/var/lib/sextant"]
ENTRYPOINT []
CMD ["sextant", "up", "/etc/sextant/sextant.yaml", "--state", "/var/lib/sextant/state"]
"""

_MLFLOW = """\
# MLflow's server and registry of models, with its drivers for PostgreSQL and object stores.
FROM {base} AS build
RUN python3 -m venv /srv/mlflow \\
 && /srv/mlflow/bin/pip install --no-cache-dir --no-compile "mlflow=={version}" "psycopg2-binary>=2.9,<3" \\
    "boto3>=1.40,<2" \\
 && /srv/mlflow/bin/pip uninstall --yes pip

FROM {base}
LABEL org.opencontainers.image.title="sextant-mlflow" org.opencontainers.image.version="{version}"
COPY --from=build /srv/mlflow /srv/mlflow
RUN install -d -o {user} -g {user} /data
ENV PATH=/srv/mlflow/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER {user}:{user}
WORKDIR /tmp
EXPOSE 5000
ENTRYPOINT []
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]
"""

_CI = """\
# What the pipelines' jobs run in: syft, grype, cosign, git, and Sextant, which renders the bundle again.
FROM {syft} AS syft
FROM {grype} AS grype
FROM {cosign} AS cosign
FROM {base} AS build
COPY wheels/ /wheels/
RUN python3 -m venv /opt/sextant \\
 && /opt/sextant/bin/pip install --no-cache-dir --no-compile --find-links /wheels "sextant-llm=={version}"

FROM {base}
# hadolint ignore=DL3008
RUN apt-get update \\
 && apt-get install --yes --no-install-recommends ca-certificates git \\
 && rm -rf /var/lib/apt/lists/*
COPY --from=syft /syft /usr/local/bin/syft
COPY --from=grype /grype /usr/local/bin/grype
COPY --from=cosign /ko-app/cosign /usr/local/bin/cosign
COPY --from=build /opt/sextant /opt/sextant
ENV PATH=/opt/sextant/bin:$PATH HOME=/tmp
USER {user}:{user}
WORKDIR /tmp
"""


def dockerfiles(order: Order) -> tuple[File, ...]:
    """The Dockerfiles, by their base images' digests where the user locked them."""
    base = order.images.reference("python")
    mlflow = order.images.known["mlflow"].tag
    tools = {name: order.images.reference(name) for name in ("syft", "grype", "cosign")}
    return (
        text_file(SEXTANT, _SEXTANT.format(base=base, version=order.version, user=USER)),
        text_file(MLFLOW, _MLFLOW.format(base=base, version=mlflow, user=USER)),
        text_file(CI, _CI.format(base=base, version=order.version, user=USER, **tools)),
    )
