"""The `sextant` command: puts the verbs together and turns every error into one clear message.

Importing this and asking for help stay quick: each verb imports what it needs when it runs.
"""

from __future__ import annotations

import errno
import os

import typer

from sextant.base.errors import SextantError
from sextant.cli import (
    advise,
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

app = typer.Typer(
    name="sextant",
    help="Your own DeepSeek: one command serves a model behind a governed, OpenAI-compatible API.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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
app.command("doctor")(doctor.doctor)
app.command("version")(version.version)


def main() -> None:
    """Entry of the console script. Exit codes: 0 done, 1 failed, 2 wrong usage, 3 nothing runs, 130
    interrupted."""
    try:
        app(prog_name="sextant")
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


if __name__ == "__main__":
    main()
