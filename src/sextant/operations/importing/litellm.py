"""A LiteLLM proxy as an import plan: its `config.yaml`, and its database's tables when they are given.

Neighbours: `litellm_models.py` (deployments), `litellm_accounts.py` (organizations, teams, users, keys).
Read against litellm 1.106's configuration and `schema.prisma`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sextant.base.errors import BadDocument
from sextant.operations.importing.catalogue import Catalogue
from sextant.operations.importing.fields import Fields
from sextant.operations.importing.litellm_accounts import read_accounts
from sextant.operations.importing.litellm_models import LitellmModels
from sextant.operations.importing.money import price_of
from sextant.operations.importing.plan import CURRENCY, ImportPlan, Note
from sextant.operations.importing.safe_yaml import read_yaml
from sextant.spec.policy import PricePlan

PLAN = "litellm"
"""Id of the price plan that holds the configuration's prices."""
SECTIONS = ("model_list", "litellm_settings", "general_settings", "router_settings", "environment_variables")
_SECRET_SETTINGS = ("master_key", "database_url", "salt_key")


def read_litellm(
    config: Path,
    tables: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
    emails: tuple[str, ...] = (),
) -> ImportPlan:
    """The plan of a configuration file and, where given, of the rows of its database's tables. Alerts of its
    soft budgets go to `emails`.

    Raises BadDocument when the file is no such configuration, or holds a value of a wrong type.
    """
    tree = read_yaml(config)
    if not isinstance(tree, dict) or not any(name in tree for name in SECTIONS):
        raise BadDocument(
            f"{config}: is no LiteLLM configuration: it has none of {', '.join(SECTIONS)}; name the "
            f"file that `litellm --config` is given"
        )
    notes: list[Note] = []
    top = Fields(tree, "config", notes)
    top.where = config.name
    catalogue = Catalogue(notes)
    variables = dict(_section(top, "environment_variables").items())
    models = LitellmModels(notes, catalogue, variables)
    models.read_credentials(top.raw("credential_list"))
    models.read(top.raw("model_list"))
    _settings(top, models, catalogue)
    for name in sorted(variables):
        notes.append(Note("left out", f"environment_variables.{name}", "set it where Sextant is started"))
    top.rest("a section that has no equal here")
    accounts = read_accounts(tables or {}, catalogue, models, notes, emails=emails)
    plans = _plans(models, catalogue, notes)
    return ImportPlan(
        source=f"LiteLLM {config.name}",
        document=catalogue.document(),
        tenants=accounts.tenants,
        projects=accounts.projects,
        keys=accounts.keys,
        plans=plans,
        budgets=accounts.budgets,
        notes=tuple(notes),
        secrets=catalogue.secrets,
    )


def _plans(models: LitellmModels, catalogue: Catalogue, notes: list[Note]) -> tuple[PricePlan, ...]:
    """The configuration's prices. A model without one costs nothing, as it does at LiteLLM when its own table
    does not know it: a plan that said nothing of a model would have it refused."""
    if not models.prices:
        said = "the configuration states none, so nothing costs anything and limits of spend hold nobody back"
        notes.append(Note("changed", "prices", said))
        return ()
    unpriced = [name for name in catalogue.names if name not in models.prices]
    if unpriced:
        said = (
            f"of {', '.join(unpriced)}: the configuration states none, and LiteLLM's own table is not "
            f"carried over; they cost nothing and count towards no budget until `sextant price set`"
        )
        notes.append(Note("changed", "prices", said))
    priced = [models.prices.get(name, price_of(name, {})) for name in catalogue.names]
    return (PricePlan(PLAN, CURRENCY, tuple(priced)),)


def _settings(top: Fields, models: LitellmModels, catalogue: Catalogue) -> None:
    router = _section(top, "router_settings")
    models.aliases(router.mapping("model_group_alias"))
    router.rest("a setting of LiteLLM's router; this version serves one endpoint a model")
    general = _section(top, "general_settings")
    most = general.whole("global_max_parallel_requests")
    if most:
        catalogue.gateway_limits["concurrent_requests"] = most
    for name in _SECRET_SETTINGS:
        general.leave(name, "a credential of the proxy itself; `sextant up` makes its own")
    general.rest("a setting of LiteLLM's proxy that has no equal here")
    settings = _section(top, "litellm_settings")
    models.aliases(settings.mapping("model_alias_map"))
    for name in ("max_budget", "budget_duration"):
        settings.leave(name, "a budget of the whole proxy; set one a tenant: `sextant tenant set ID --limit`")
    settings.rest("a setting of LiteLLM's library that has no equal here")


def _section(top: Fields, name: str) -> Fields:
    section = top.mapping(name)
    section.where = name
    return section
