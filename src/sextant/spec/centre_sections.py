"""`spec.centre` of the document: where a box at the edge sends what it has used, when it may ask there."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field
from pydantic_core import PydanticCustomError

from sextant.spec.fields import FilePath, HttpUrl, ModelName, Name, SecretReference, Section, items

_HERE = ("127.0.0.1", "[::1]", "localhost")


def _safe_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme == "https" or parts.netloc.rpartition(":")[0] in _HERE or parts.netloc in _HERE:
        return value
    raise PydanticCustomError(
        "centre_url",
        "has no TLS: who is on the way could read what is sent, and send in this site's name",
        {"expected": "an https:// URL", "write": f"`https://{parts.netloc}{parts.path}`"},
    )


def _in_a_file(value: str) -> str:
    if value.startswith("file:"):
        return value
    raise PydanticCustomError(
        "centre_metrics_credential",
        "is not in a file: the metrics agent is a service of its own, which reads it from one",
        {"expected": "`file:/path`", "write": "`file:/etc/sextant/metrics-credential`"},
    )


class FallbackModel(Section):
    """One model that the centre may answer for."""

    name: ModelName = Field(description="A model that runs here.", examples=["nano"])
    at_centre: ModelName = Field(
        description="The entry of `models`, with the engine `remote`, that leads to the centre's gateway.",
        examples=["nano-centre"],
    )


class Fallback(Section):
    """When the centre's gateway answers instead of this one's engine. It is asked only before an answer has
    begun."""

    when: Literal["never", "when_unavailable", "when_queue_full"] = Field(
        "when_unavailable",
        description="`when_unavailable`: no engine of the model is ready; `when_queue_full`: then too, and "
        "when its places and its queue are full.",
    )
    models: Annotated[tuple[FallbackModel, ...], items(most=64)] = Field(
        description="For which models; others stay here."
    )
    personal_data: Literal["mask", "as_policy"] = Field(
        "mask",
        description="`mask`: personal data is masked on the way, also what a tenant's privacy policy lets "
        "through here; what that blocks or routes is blocked or stays; `as_policy`: only tenants' own "
        "policies are applied.",
    )
    stays: Annotated[tuple[Name, ...], items(most=1000)] = Field(
        (), description="Tenants whose requests never leave this box."
    )


class CentreMetrics(Section):
    """Where the metrics of this box go. They wait on its disk while there is no line."""

    url: Annotated[HttpUrl, AfterValidator(_safe_url)] = Field(
        description="What takes them: Prometheus' remote write, version 1.",
        examples=["https://prometheus.example.com/api/v1/write"],
    )
    credential: Annotated[SecretReference, AfterValidator(_in_a_file)] | None = Field(
        None,
        description="Bearer token for it, `file:/path`; unset: none is sent.",
        examples=["file:/etc/sextant/metrics-credential"],
    )
    ca_file: FilePath | None = Field(
        None, description="Certificate authorities of that address, PEM; unset: the system's."
    )


class Centre(Section):
    """The centre that this box belongs to."""

    url: Annotated[HttpUrl, AfterValidator(_safe_url)] = Field(
        description="Root of the centre's admin API, which takes the usage.",
        examples=["https://centre.example.com:8001"],
    )
    site: Name = Field(description="What this box is called there.", examples=["plant-7"])
    credential: SecretReference = Field(description="The site's credential: `env:NAME` or `file:/path`.")
    ca_file: FilePath | None = Field(
        None, description="Certificate authorities of the centre, PEM; unset: the system's."
    )
    fallback: Fallback | None = Field(
        None, description="When the centre's gateway may answer instead; unset: never."
    )
    metrics: CentreMetrics | None = Field(
        None, description="Where metrics go in the mode edge; unset: they stay here."
    )
