"""`sextant user`: people who sign in to the admin API, and their roles."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from sextant.cli.options import Json, State, state_dir
from sextant.cli.output import out, print_json, print_table, warn
from sextant.cli.values import moment_shown, path_part

app = typer.Typer(help="People, their roles, and who changed what.", no_args_is_help=True)

Role = Annotated[str, typer.Option(help="owner, operator, billing, auditor or member.")]
Tenant = Annotated[
    str, typer.Option("--tenant", metavar="TENANT", help="Where the role holds.", show_default="everywhere")
]
Person = Annotated[
    str, typer.Argument(metavar="USER", help="Their address, or id as `sextant user list` shows it.")
]


@app.command()
def add(
    email: Annotated[str, typer.Argument(metavar="ADDRESS", help="The address that they sign in with.")],
    name: Annotated[str, typer.Option(help="Their name.", show_default="the address")] = "",
    role: Role = "",
    tenant: Tenant = "",
    password: Annotated[
        bool,
        typer.Option(
            "--password",
            help="Ask for a password, or read one line where nobody types. Without "
            "it they sign in through the identity provider.",
        ),
    ] = False,
    state: State = None,
    json: Json = False,
) -> None:
    """Add someone, with a role or without."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    body = {"email": email, "name": name or email, "role": role, "tenant_id": tenant}
    if password:
        body["password"] = _asked()
    made = api.call("POST", "/v1/people", body)
    if json:
        print_json(made)
        return
    _table([made])


@app.command("list")
def people(state: State = None, json: Json = False) -> None:
    """List people and their roles."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).all("/v1/people", "people")
    if json:
        print_json(found)
        return
    _table(found)


@app.command()
def invite(
    email: Annotated[str, typer.Argument(metavar="ADDRESS", help="Whom the role is for.")],
    role: Role,
    tenant: Tenant = "",
    name: Annotated[str, typer.Option(help="Their name, unless they say another.")] = "",
    days: Annotated[int, typer.Option(min=1, max=30, help="Days until it ends.")] = 7,
    state: State = None,
    json: Json = False,
) -> None:
    """Invite an address to a role; they set their own password, or sign in with what they have."""
    from sextant.cli.admin import AdminApi

    body = {"email": email, "role": role, "tenant_id": tenant, "name": name, "expires_in_days": days}
    made = AdminApi(state_dir(state)).call("POST", "/v1/invitations", body)
    if json:
        print_json(made)
        return
    console = out()
    console.print(
        f"{made['email']} is invited to be {_role(made)}, until {moment_shown(made['expires_ms'])}.",
        markup=False,
    )
    if made["mailed"]:
        console.print("An e-mail with the token is on its way.", markup=False)
    if made["token"]:
        console.print(f"Token of {made['id']}, shown only now:", markup=False)
        console.print(made["token"], style="bold", markup=False)
    if made["warning"]:
        warn(made["warning"])


@app.command("list-invitations")
def list_invitations(state: State = None, json: Json = False) -> None:
    """List the invitations of the past three months; their tokens are not kept."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).all("/v1/invitations", "invitations")
    if json:
        print_json(found)
        return
    rows = [
        (one["id"], one["email"], _role(one), one["state"], moment_shown(one["expires_ms"])) for one in found
    ]
    print_table(("invitation", "address", "role", "state", "until"), rows, "Nobody was invited.")


@app.command("revoke-invitation")
def revoke_invitation(
    invitation: Annotated[
        str, typer.Argument(metavar="INVITATION", help="As `sextant user list-invitations` shows it.")
    ],
    state: State = None,
    json: Json = False,
) -> None:
    """Revoke an invitation at once."""
    from sextant.cli.admin import AdminApi

    gone = AdminApi(state_dir(state)).call("DELETE", f"/v1/invitations/{path_part(invitation)}")
    if json:
        print_json(gone)
        return
    out().print(f"Invitation {gone['id']} of {gone['email']} is {gone['state']}.", markup=False)


@app.command()
def password(person: Person, state: State = None) -> None:
    """Set someone's password; they are signed out everywhere."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    found = _found(api, person)
    api.call("PATCH", f"/v1/people/{path_part(found['id'])}", {"password": _asked()})
    out().print(f"{found['email']} has a new password.", markup=False)


@app.command()
def enable(person: Person, state: State = None, json: Json = False) -> None:
    """Let someone sign in again."""
    _switch(person, True, (state, json))


@app.command()
def disable(person: Person, state: State = None, json: Json = False) -> None:
    """Sign someone out everywhere, and let them in no more."""
    _switch(person, False, (state, json))


@app.command()
def remove(person: Person, state: State = None, json: Json = False) -> None:
    """Remove someone and the roles that they had."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    found = _found(api, person)
    gone = api.call("DELETE", f"/v1/people/{path_part(found['id'])}")
    if json:
        print_json(gone)
        return
    out().print(f"{found['email']} is removed.", markup=False)


@app.command()
def grant(person: Person, role: Role, tenant: Tenant = "", state: State = None, json: Json = False) -> None:
    """Give someone a role."""
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    found = _found(api, person)
    made = api.call("POST", "/v1/grants", {"person_id": found["id"], "role": role, "tenant_id": tenant})
    if json:
        print_json(made)
        return
    out().print(f"{found['email']} is {_role(made)} now.", markup=False)
    if made["password_cleared"]:
        said = "The password came from somebody who may not manage people there; it and all sessions are gone"
        out().print(said, markup=False)


@app.command("revoke")
def revoke_grant(
    person: Person, role: Role, tenant: Tenant = "", state: State = None, json: Json = False
) -> None:
    """Take a role back."""
    from sextant.base.errors import NotFound
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(state))
    found = _found(api, person)
    held = [one for one in found["grants"] if (one["role"], one["tenant_id"]) == (role, tenant)]
    if not held:
        roles = ", ".join(map(_role, found["grants"])) or "nothing"
        raise NotFound(f"{found['email']} is not {role} of {tenant or 'the deployment'}, but {roles}")
    gone = api.call("DELETE", f"/v1/grants/{path_part(held[0]['id'])}")
    if json:
        print_json(gone)
        return
    out().print(f"{found['email']} is {_role(held[0])} no more.", markup=False)


@app.command()
def audit(
    most: Annotated[int, typer.Option("--last", min=1, max=1000, help="How many entries.")] = 50,
    state: State = None,
    json: Json = False,
) -> None:
    """Show who changed what, newest first."""
    from sextant.cli.admin import AdminApi

    found = AdminApi(state_dir(state)).call("GET", f"/v1/audit?limit={most}")["audit"]
    if json:
        print_json(found)
        return
    rows = [
        (
            moment_shown(one["at_ms"]),
            one["actor"],
            one["actor_name"],
            one["action"],
            one["target"],
            one["tenant_id"],
        )
        for one in found
    ]
    print_table(("when", "who", "name", "what", "of", "tenant"), rows, "Nothing was changed yet.")


def _switch(person: str, enabled: bool, shown: tuple[Any, bool]) -> None:
    from sextant.cli.admin import AdminApi

    api = AdminApi(state_dir(shown[0]))
    found = _found(api, person)
    changed = api.call("PATCH", f"/v1/people/{path_part(found['id'])}", {"enabled": enabled})
    if shown[1]:
        print_json(changed)
        return
    _table([changed])


def _found(api: Any, person: str) -> dict[str, Any]:
    """By id or address. Raises NotFound."""
    from sextant.base.errors import NotFound

    for one in api.all("/v1/people", "people"):
        if person in (one["id"], one["email"]) or person.lower() == one["email"].lower():
            return dict(one)
    raise NotFound(f"there is nobody {person}; see `sextant user list`")


def _asked() -> str:
    """A password: typed twice at a terminal, else the first line of standard input."""
    if sys.stdin.isatty():
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    return sys.stdin.readline().rstrip("\r\n")


def _role(grant: dict[str, Any]) -> str:
    return f"{grant['role']} of {grant['tenant_id'] or 'the deployment'}"


def _table(people: list[dict[str, Any]]) -> None:
    rows = [
        (
            one["id"],
            one["email"],
            one["name"],
            "on" if one["enabled"] else "off",
            "password" if one["has_password"] else "identity provider",
            ", ".join(map(_role, one["grants"])) or "none",
        )
        for one in people
    ]
    print_table(("user", "address", "name", "state", "signs in with", "roles"), rows, "Nobody was added yet.")
