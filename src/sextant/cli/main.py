"""The `sextant` command: puts the verbs together and turns every error into one clear message.

Importing this and asking for help stay quick: each verb imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import os
import sys

import typer

from sextant.base.errors import SextantError
from sextant.cli import (
    advise,
    agreement,
    apply,
    balance,
    budget,
    catalog,
    chat,
    db,
    diff,
    doctor,
    down,
    follow,
    hsm,
    import_,
    invoice,
    key,
    model,
    plan,
    price,
    project,
    render,
    site,
    status,
    tenant,
    tier,
    token,
    up,
    usage,
    user,
    verify,
    version,
)
from sextant.cli.output import EXIT_FAILED, fail, fail_unexpected

HELP = "Your own DeepSeek: one command serves a model behind a governed, OpenAI-compatible API."
HELP_NAMES = ["-h", "--help"]

app = typer.Typer(
    name="sextant",
    help=HELP,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": HELP_NAMES},
)
app.command("up")(up.up)
app.command("down")(down.down)
app.command("chat")(chat.chat)
app.command("status")(status.status)
app.add_typer(key.app, name="key")
app.add_typer(tenant.app, name="tenant")
app.add_typer(project.app, name="project")
app.add_typer(tier.app, name="tier")
app.add_typer(price.app, name="price")
app.add_typer(balance.app, name="balance")
app.command("usage")(usage.usage)
app.command("invoice")(invoice.invoice)
app.add_typer(budget.app, name="budget")
app.add_typer(user.app, name="user")
app.add_typer(token.app, name="token")
app.add_typer(agreement.app, name="agreement")
app.add_typer(site.app, name="site")
app.add_typer(import_.app, name="import")
app.add_typer(model.app, name="model")
app.add_typer(catalog.app, name="catalog")
app.add_typer(db.app, name="db")
app.command("advise")(advise.advise)
app.command("plan")(plan.plan)
app.command("render")(render.render)
app.command("diff")(diff.diff)
app.command("verify")(verify.verify)
app.command("apply")(apply.apply)
app.command("follow")(follow.follow)
app.add_typer(hsm.app, name="hsm")
app.command("doctor")(doctor.doctor)
app.command("version")(version.version)


def main() -> None:
    """Entry of the console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nothing runs, 130
    interrupted."""
    try:
        asked_for(sys.argv[1:])(prog_name="sextant")
    except SextantError as error:
        fail(error)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.EIO):
            fail_unexpected(error)
        os._exit(
            EXIT_FAILED
        )  # the reader or the terminal is gone: nobody is left to tell, and no flush can work
    except Exception as error:  # noqa: BLE001 - the edge: a traceback goes to a file, a sentence to the user
        fail_unexpected(error)


def asked_for(arguments: list[str]) -> typer.Typer:
    """`app` with no verb but the one that `arguments` begin with, since to build all of them
    takes longer than most of them run; the whole `app` where they begin with none."""
    verb = arguments[0] if arguments else ""
    commands = [one for one in app.registered_commands if one.name == verb]
    groups = [one for one in app.registered_groups if one.name == verb]
    if not commands and not groups:
        return app
    # A help flag that is not given would be None, for which typer loads pydantic: 50 ms. False it knows.
    unasked = {"help": False, verb: {"help": False}}
    only = typer.Typer(
        name="sextant",
        help=HELP,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": HELP_NAMES, "default_map": unasked},
    )
    only.callback()(lambda: None)  # a group, though it has one command
    only.registered_commands, only.registered_groups = commands, groups
    return only


if __name__ == "__main__":
    main()
