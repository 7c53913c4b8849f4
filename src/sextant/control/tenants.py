"""Tenants and projects in the admin API."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import Depends, FastAPI, Response

from sextant.base.errors import BadRequest, Forbidden
from sextant.control.access import Allowed, Needs
from sextant.control.answers import Body, json_answer, listing, more_than, paged
from sextant.control.bounds import refuse_more_projects
from sextant.control.office import Office
from sextant.control.openapi import Listing, tells
from sextant.privacy.policy import check_policy
from sextant.spec.policy import Billing, LimitRules, PrivacyPolicy
from sextant.store.accounts_database import Page
from sextant.store.accounts_tenants import ORDINARY, ProjectChange, ProjectRecord, TenantChange, TenantRecord

OWN_TENANT_FIELDS = frozenset({"name", "privacy"})
"""What a tenant's own people may change of it; the rest is between it and whoever runs the deployment."""


class NewTenant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant to make; the fields mean what they mean in `TenantPolicy`."""

    id: str
    name: str | None = None
    enabled: bool | None = None
    tier: str | None = None
    limits: LimitRules | None = None
    billing: Billing | None = None
    plan: str | None = None
    currency: str | None = None
    time_zone: str | None = None
    models: tuple[str, ...] | None = None
    privacy: PrivacyPolicy | None = None


class NewProject(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A project to make; an `id` of one's own needs a role of the whole deployment."""

    tenant_id: str
    name: str
    id: str = ""
    enabled: bool = True
    limits: LimitRules = LimitRules()


ReadTenants = Annotated[Allowed, Depends(Needs("read", "tenant"))]
ChangeTenants = Annotated[Allowed, Depends(Needs("write", "tenant"))]
MakeTenants = Annotated[Allowed, Depends(Needs("write", "tenant", deployment=True))]
ReadProjects = Annotated[Allowed, Depends(Needs("read", "project"))]
WriteProjects = Annotated[Allowed, Depends(Needs("write", "project"))]
Paging = Annotated[Page, Depends(paged)]
TenantBody = Annotated[NewTenant, Depends(Body(NewTenant))]
TenantChangeBody = Annotated[TenantChange, Depends(Body(TenantChange))]
ProjectBody = Annotated[NewProject, Depends(Body(NewProject))]
ProjectChangeBody = Annotated[ProjectChange, Depends(Body(ProjectChange))]


def add_tenants(app: FastAPI, office: Office) -> None:
    """Routes of tenants."""

    @app.get("/v1/tenants")
    @tells(Listing("tenants", TenantRecord))
    def list_tenants(allowed: ReadTenants, page: Paging) -> Response:
        """Tenants by id."""
        found = office.accounts.list_tenants(more_than(page), tenants=allowed.tenants)
        return listing("tenants", found, page)

    @app.post("/v1/tenants", status_code=201)
    @tells(TenantRecord)
    def create_tenant(allowed: MakeTenants, new: TenantBody) -> Response:
        """Makes a tenant with its default project: where nothing else is given on the tier `free`, without
        billing, in the currency of its plan or else of the tenant `default`."""
        given = msgspec.structs.asdict(new)
        del given["id"]
        if new.privacy is not None:
            check_policy(new.privacy)
        made = office.changed(
            lambda: office.by(allowed).create_tenant(new.id, msgspec.structs.replace(ORDINARY, **given))
        )
        return json_answer(made, 201)

    @app.get("/v1/tenants/{tenant_id}")
    @tells(TenantRecord)
    def get_tenant(tenant_id: str, allowed: ReadTenants) -> Response:
        """One tenant."""
        allowed.require(tenant_id, f"there is no tenant {tenant_id}", field="tenant_id")
        return json_answer(office.accounts.tenant(tenant_id))

    @app.patch("/v1/tenants/{tenant_id}")
    @tells(TenantRecord)
    def change_tenant(tenant_id: str, allowed: ChangeTenants, wanted: TenantChangeBody) -> Response:
        """Changes what is given. `limits`, `models` and `privacy` replace the whole."""
        allowed.require(tenant_id, f"there is no tenant {tenant_id}", field="tenant_id")
        for name in sorted(set(msgspec.to_builtins(wanted)) - OWN_TENANT_FIELDS):
            if not allowed.everywhere:
                raise Forbidden(f"{name} is changed by who runs the deployment", field=name)
        if wanted.privacy is not None:
            check_policy(wanted.privacy)
        made = office.changed(
            lambda: office.by(allowed).change_tenant(tenant_id, wanted, currencies_of=office.currencies_of)
        )
        return json_answer(made)

    @app.delete("/v1/tenants/{tenant_id}")
    @tells(TenantRecord)
    def delete_tenant(tenant_id: str, allowed: MakeTenants) -> Response:
        """Ends a tenant and its keys for good; its usage and invoices stay."""
        return json_answer(office.changed(lambda: office.by(allowed).delete_tenant(tenant_id)))


def add_projects(app: FastAPI, office: Office) -> None:
    """Routes of projects."""

    @app.get("/v1/projects")
    @tells(Listing("projects", ProjectRecord))
    def list_projects(allowed: ReadProjects, page: Paging, tenant_id: str = "") -> Response:
        """Projects by id."""
        found = office.accounts.list_projects(more_than(page), tenant_id=tenant_id, tenants=allowed.tenants)
        return listing("projects", found, page)

    @app.post("/v1/projects", status_code=201)
    @tells(ProjectRecord)
    def create_project(allowed: WriteProjects, new: ProjectBody) -> Response:
        """Makes a project."""
        allowed.require(new.tenant_id, f"there is no tenant {new.tenant_id}", field="tenant_id")
        if new.id and not allowed.everywhere:
            raise BadRequest("an id of one's own needs a role of the whole deployment", field="id")
        refuse_more_projects(office, allowed, new.tenant_id)
        wanted = ProjectChange(new.name, new.enabled, new.limits)
        made = office.changed(
            lambda: office.by(allowed).create_project(new.tenant_id, wanted, project_id=new.id)
        )
        return json_answer(made, 201)

    @app.get("/v1/projects/{project_id}")
    @tells(ProjectRecord)
    def get_project(project_id: str, allowed: ReadProjects) -> Response:
        """One project."""
        found = office.accounts.project(project_id)
        allowed.require(found.tenant_id, f"there is no project {project_id}", field="project_id")
        return json_answer(found)

    @app.patch("/v1/projects/{project_id}")
    @tells(ProjectRecord)
    def change_project(project_id: str, allowed: WriteProjects, wanted: ProjectChangeBody) -> Response:
        """Changes what is given; `limits` replaces the whole."""
        found = office.accounts.project(project_id)
        allowed.require(found.tenant_id, f"there is no project {project_id}", field="project_id")
        return json_answer(office.changed(lambda: office.by(allowed).change_project(project_id, wanted)))

    @app.delete("/v1/projects/{project_id}")
    @tells(ProjectRecord)
    def delete_project(project_id: str, allowed: WriteProjects) -> Response:
        """Ends a project and its keys for good."""
        found = office.accounts.project(project_id)
        allowed.require(found.tenant_id, f"there is no project {project_id}", field="project_id")
        return json_answer(office.changed(lambda: office.by(allowed).delete_project(project_id)))
