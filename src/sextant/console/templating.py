"""The templates' environment: everything that is put in is escaped, a name that is not there is an error."""

from __future__ import annotations

import html

import jinja2

from sextant.console import shown
from sextant.console.visit import THEMES, tenant_url
from sextant.console.words import NAMES
from sextant.spec.money import decimal_of


def build_templates() -> jinja2.Environment:
    """Compiles nothing yet: a template is read when it is first asked for."""
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("sextant.console"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        money=shown.money,
        rounded=shown.rounded,
        count=shown.count,
        plain=shown.plain,
        share=shown.share,
        moment=shown.moment,
        machine_moment=shown.machine_moment,
        decimal=decimal_of,
        unescaped=_unescaped,
        with_span=_with_span,
    )
    made.globals.update(languages=NAMES, themes=THEMES, tenant_url=tenant_url)
    return made


def _unescaped(text: str) -> str:
    """What a `{% set %}` block escaped already, as plain text again: it is escaped where it is put in."""
    return html.unescape(str(text))


def _with_span(form: dict[str, str], first: str, last: str) -> dict[str, str]:
    return {**form, "from": first, "to": last}
