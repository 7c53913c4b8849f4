"""The organizations, teams, projects, users and keys of a LiteLLM database.

An organization becomes a tenant and its teams are its projects; a team of no organization is a tenant, and
LiteLLM's projects are its projects; keys of users without a team are gathered in one tenant, a project
a user.
LiteLLM keeps the SHA-256 of a key, as we do, so callers keep their keys.
"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from sextant.operations.importing.catalogue import Catalogue
from sextant.operations.importing.fields import Fields
from sextant.operations.importing.litellm_limits import LimitReader, finish
from sextant.operations.importing.litellm_models import LitellmModels
from sextant.operations.importing.plan import (
    Ids,
    Note,
    PlannedBudget,
    PlannedKey,
    PlannedProject,
    PlannedTenant,
    key_id,
)
from sextant.spec.policy import LimitRules

TABLES = {
    "organizations": "LiteLLM_OrganizationTable",
    "teams": "LiteLLM_TeamTable",
    "projects": "LiteLLM_ProjectTable",
    "users": "LiteLLM_UserTable",
    "keys": "LiteLLM_VerificationToken",
}
OTHER_TABLES = {
    "LiteLLM_EndUserTable": "end users; a limit here is that of a key, project or tenant",
    "LiteLLM_TeamMembership": "a member's own budget within a team",
    "LiteLLM_OrganizationMembership": "a member's own budget within an organization",
    "LiteLLM_TagTable": "budgets by tag",
    "LiteLLM_ProxyModelTable": "models added in LiteLLM's interface, encrypted with its salt key: write them "
    "into the document",
    "LiteLLM_CredentialsTable": "credentials encrypted with LiteLLM's salt key",
    "LiteLLM_Config": "settings made in LiteLLM's interface",
    "LiteLLM_DeprecatedVerificationToken": "old secrets of rotated keys; rotate again here if need be",
}
"""What is looked for only to be told that it stays behind."""
BUDGETS = "LiteLLM_BudgetTable"
USERS_TENANT = "litellm-users"
ENDPOINTS = {
    "/chat/completions": "chat.completions",
    "/v1/chat/completions": "chat.completions",
    "/completions": "completions",
    "/v1/completions": "completions",
    "/embeddings": "embeddings",
    "/v1/embeddings": "embeddings",
    "/responses": "responses",
    "/v1/responses": "responses",
    "/v1/messages": "messages",
    "/rerank": "rerank",
    "/v1/rerank": "rerank",
}
ALL_ROUTES = frozenset({"llm_api_routes", "openai_routes"})
_ALL_MODELS = frozenset({"all-proxy-models", "all-team-models", "all-org-models", "*"})


@dataclasses.dataclass
class Accounts:
    tenants: tuple[PlannedTenant, ...] = ()
    projects: tuple[PlannedProject, ...] = ()
    keys: tuple[PlannedKey, ...] = ()
    budgets: tuple[PlannedBudget, ...] = ()


def read_accounts(
    tables: Mapping[str, Sequence[Mapping[str, Any]]],
    catalogue: Catalogue,
    models: LitellmModels,
    notes: list[Note],
    *,
    emails: tuple[str, ...] = (),
) -> Accounts:
    """What to make of the tables; nothing when there are none. Alerts go to `emails`."""
    return _Reader(tables, catalogue, models, notes, emails=emails).read()


class _Reader:
    def __init__(
        self,
        tables: Mapping[str, Sequence[Mapping[str, Any]]],
        catalogue: Catalogue,
        models: LitellmModels,
        notes: list[Note],
        *,
        emails: tuple[str, ...],
    ) -> None:
        self._now_ms = time.time_ns() // 1_000_000
        self._tables = tables
        self._catalogue = catalogue
        self._models = models
        self._notes = notes
        self._ids = Ids()
        self._project_ids = Ids()
        self._tenants: dict[str, PlannedTenant] = {}
        self._projects: dict[str, PlannedProject] = {}
        self._keys: dict[str, PlannedKey] = {}
        self._blocked: set[str] = set()
        self._places: dict[str, tuple[str, str]] = {}
        """Source's id (`team:…`, `project:…`, `user:…`) to tenant and project here."""
        self._limits = LimitReader(tables.get(BUDGETS, ()), notes, emails)

    def read(self) -> Accounts:
        for organization in self._rows("organizations"):
            self._organization(organization)
        for team in self._rows("teams"):
            self._team(team)
        for project in self._rows("projects"):
            self._project(project)
        for user in self._rows("users"):
            self._user(user)
        for key in self._rows("keys"):
            self._key(key)
        for name, why in OTHER_TABLES.items():
            if self._tables.get(name):
                self._notes.append(Note("left out", name, f"rows: {len(self._tables[name])}; {why}"))
        return Accounts(
            tuple(self._tenants.values()),
            tuple(self._projects.values()),
            tuple(self._keys.values()),
            tuple(self._limits.alerts),
        )

    def _rows(self, noun: str) -> list[Fields]:
        id_field = {"keys": "token"}.get(noun, f"{noun[:-1]}_id")
        rows = sorted(self._tables.get(TABLES[noun], ()), key=lambda row: str(row.get(id_field)))
        return [Fields(row, f"{noun[:-1]} {_label(row, noun)}", self._notes) for row in rows]

    def _organization(self, row: Fields) -> None:
        source = f"organization:{row.text('organization_id')}"
        name = row.text("organization_alias") or source
        tenant_id = self._ids.of(name, source)
        self._places[source] = (tenant_id, "")
        scope = f"tenant:{tenant_id}"
        self._add_tenant(
            PlannedTenant(tenant_id, name, models=self._scope(row), limits=self._limits.of(row, scope))
        )
        finish(row)

    def _team(self, row: Fields) -> None:
        source = f"team:{row.text('team_id')}"
        name = row.text("team_alias") or source
        organization = self._places.get(f"organization:{row.text('organization_id')}")
        if row.flag("blocked"):
            self._blocked.add(source)
            row.note("blocked there; it and its keys are not made here")
            row.items()
            return
        if organization is None:
            tenant_id = self._ids.of(name, source)
            self._places[source] = (tenant_id, "")
            limits = self._limits.of(row, f"tenant:{tenant_id}")
            self._add_tenant(PlannedTenant(tenant_id, name, models=self._scope(row), limits=limits))
        else:
            project_id = self._project_ids.of(f"{organization[0]}-{name}", source)
            self._places[source] = (organization[0], project_id)
            limits = self._limits.of(row, f"project:{project_id}")
            if self._scope(row):
                row.note("the models that a team may use: they are kept on its keys, not on the project")
            self._projects[project_id] = PlannedProject(project_id, organization[0], name, limits)
        row.leave("members_with_roles", "who manages the team: give people roles with `sextant user grant`")
        row.passes("members", "admins", "members_with_roles", "team_member_permissions")
        finish(row)

    def _project(self, row: Fields) -> None:
        source = f"project:{row.text('project_id')}"
        name = row.text("project_alias") or source
        team = self._places.get(f"team:{row.text('team_id')}")
        if row.flag("blocked") or team is None:
            self._blocked.add(source)
            row.note("blocked, or of a team that is; it and its keys are not made here")
            row.items()
            return
        if team[1]:
            row.note(f"a project within a team within an organization; its keys go to project {team[1]}")
            self._places[source] = team
            row.items()
            return
        project_id = self._project_ids.of(f"{team[0]}-{name}", source)
        self._places[source] = (team[0], project_id)
        limits = self._limits.of(row, f"project:{project_id}")
        self._projects[project_id] = PlannedProject(project_id, team[0], name, limits)
        row.passes("description", "models")
        finish(row)

    def _user(self, row: Fields) -> None:
        user_id = row.text("user_id")
        limits = self._limits.of(row, f"user {user_id}")
        if self._needs_place(user_id):
            name = row.text("user_alias") or row.text("user_email") or user_id
            self._user_place(user_id, name, limits)
        elif limits != LimitRules():
            row.note("limits of a person who has no key but a team's")
        row.passes("user_alias", "user_email", "team_id", "teams", "models", "organization_id")
        row.leave("password", "people sign in anew; see `sextant user add`")
        row.leave("sso_user_id", "people sign in anew; see `sextant user add`")
        row.leave("user_role", "roles are given anew: `sextant user grant`")
        finish(row)

    def _needs_place(self, user_id: str) -> bool:
        return any(
            str(row.get("user_id")) == user_id and not row.get("team_id") and not row.get("project_id")
            for row in self._tables.get(TABLES["keys"], ())
        )

    def _user_place(self, user_id: str, name: str, limits: LimitRules) -> tuple[str, str]:
        source = f"user:{user_id}"
        if source not in self._places:
            if USERS_TENANT not in self._tenants:
                self._add_tenant(PlannedTenant(USERS_TENANT, "LiteLLM users"))
            project_id = self._project_ids.of(f"user-{name}", source)
            self._projects[project_id] = PlannedProject(project_id, USERS_TENANT, name, limits)
            self._places[source] = (USERS_TENANT, project_id)
        return self._places[source]

    def _key(self, row: Fields) -> None:
        digest = row.text("token")
        routes = set(row.names("allowed_routes"))
        endpoints = {ENDPOINTS[route] for route in routes & ENDPOINTS.keys()}
        place = self._place_of(row)
        if re.fullmatch(r"[0-9a-f]{64}", digest) is None:
            refused = "its token is no SHA-256: a key kept in plain, or a session of LiteLLM's interface"
        elif row.flag("blocked") or place is None:
            refused = "blocked there, or its team is, so not made here"
        elif routes and not routes & ALL_ROUTES and not endpoints:
            refused = f"it may call only {', '.join(sorted(routes))}, which has no equal here"
        else:
            refused = ""
        expires_ms = row.time_ms("expires")
        if 0 < expires_ms <= self._now_ms:
            refused = refused or "expired"
        if refused or place is None:
            row.note(refused)
            row.items()
            return
        if routes - ENDPOINTS.keys() - ALL_ROUTES:
            left = ", ".join(sorted(routes - ENDPOINTS.keys() - ALL_ROUTES))
            row.note(f"these have no equal here: {left}", "allowed_routes")
        name = row.text("key_alias") or row.text("key_name") or f"LiteLLM {digest[:8]}"
        self._keys[digest] = PlannedKey(
            id=key_id(digest),
            tenant_id=place[0],
            project_id=place[1],
            name=name,
            sha256=digest,
            hint=row.text("key_name") or f"…{digest[-4:]}",
            expires_ms=expires_ms,
            models=self._scope(row),
            endpoints=() if routes & ALL_ROUTES else tuple(sorted(endpoints)),
            limits=self._limits.of(row, f"key:{key_id(digest)}"),
        )
        row.passes("key_type")
        finish(row)

    def _place_of(self, row: Fields) -> tuple[str, str] | None:
        """The tenant and project of a key; None: they are blocked."""
        user = row.text("user_id") or "nobody"
        sources = [
            f"{kind}:{row.text(f'{kind}_id')}"
            for kind in ("project", "team", "organization")
            if f"{kind}_id" in row
        ]
        if any(source in self._blocked for source in sources):
            return None
        for source in sources:
            if source in self._places:
                return self._places[source]
        for source in sources:
            row.note(f"{source}, whose row is not in the export; the key goes to its user's project")
        return self._user_place(user, user, LimitRules())

    def _add_tenant(self, tenant: PlannedTenant) -> None:
        if self._models.prices:
            tenant = msgspec.structs.replace(tenant, billing="postpaid", plan="litellm")
        self._tenants[tenant.id] = tenant

    def _scope(self, row: Fields) -> tuple[str, ...]:
        """The models that may be used; none named: all. Access groups are written out."""
        listed = row.names("models")
        if not listed or _ALL_MODELS & set(listed):
            return ()
        unfolded = [name for item in listed for name in self._models.groups.get(item, [item])]
        return self._catalogue.scope(tuple(unfolded))


def _label(row: Mapping[str, Any], noun: str) -> str:
    """How a row is named in notes: its own name, or the start of its id."""
    for field in (
        "organization_alias",
        "team_alias",
        "project_alias",
        "key_alias",
        "user_email",
        "user_alias",
    ):
        if row.get(field):
            return str(row[field])[:60]
    id_field = {"keys": "token"}.get(noun, f"{noun[:-1]}_id")
    return str(row.get(id_field))[:12]
