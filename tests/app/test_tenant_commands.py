"""The verbs of tenants and money, typed against a running stack, and both importers' `--apply`."""

from __future__ import annotations

import json
import os
import pty
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.render.orders import order
from tests.render.test_kubernetes_bundles import POOLED

from sextant.render import render
from stack_under_test import Stack, sextant, stack, until

OPERATIONS = Path(__file__).parents[1] / "operations"
ASKED = {
    "model": "sextant-nano",
    "messages": [{"role": "user", "content": "What is 123 + 456?"}],
    "max_tokens": 16,
}

pytestmark = pytest.mark.slow

Verb = Callable[..., Any]


@pytest.fixture(scope="module", name="served")
def _served() -> Iterator[Stack]:
    with stack() as made:
        yield made


@pytest.fixture(name="run")
def _run(served: Stack) -> Verb:
    """A verb that must succeed; its JSON."""

    def run(*arguments: str) -> Any:
        done = sextant(*arguments, "--json", "--state", str(served.root))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(name="refused")
def _refused(served: Stack) -> Verb:
    """A verb that must fail; what it says."""

    def refused(*arguments: str) -> str:
        done = sextant(*arguments, "--state", str(served.root))
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
        return done.stderr

    return refused


def call(served: Stack, key: str, path: str = "/v1/chat/completions", body: Any = None) -> Any:
    return served.ask("POST", path, body or ASKED, Authorization=f"Bearer {key}")


def test_a_prepaid_tenant_from_the_first_word_to_its_invoice(
    served: Stack, run: Verb, tmp_path: Path
) -> None:
    made = run("tenant", "create", "shop", "--billing", "prepaid", "--plan", "standard", "--currency", "USD",
               "--limit", "spend_per_month=5")  # fmt: skip
    assert (made["billing"], made["limits"]["spend_nano_per_month"]) == ("prepaid", 5_000_000_000)
    run("project", "create", "shop", "Web", "--id", "shop-web", "--limit", "requests_per_s=50")
    key = run("key", "create", "--tenant", "shop", "--project", "shop-web", "--endpoint", "chat.completions",
              "--network", "127.0.0.0/8")  # fmt: skip
    poor = call(served, key["key"])
    assert (poor.status, poor.json()["error"]["code"]) == (402, "insufficient_balance")
    for _ in range(2):
        balance = run("balance", "top-up", "shop", "0.05", "--id", "payment-1")
        assert balance["funds_nano"] == 50_000_000
    answer = call(served, key["key"])
    assert answer.status == 200
    assert call(served, key["key"], "/v1/completions", {"model": "sextant-nano", "prompt": "x"}).status == 403
    used = answer.json()["usage"]["total_tokens"]
    cost_nano = used * 3_000
    assert run("balance", "show", "shop")["funds_nano"] == 50_000_000 - cost_nano
    (line,) = run("usage", "--by", "project", "--tenant", "shop")
    assert (line["project_id"], line["requests"], line["cost_nano"]) == ("shop-web", 1, cost_nano)
    month = run("usage", "--by", "month", "--tenant", "shop")[0]["month"]
    invoice = run("invoice", "shop", month)
    assert (invoice["sums"][0]["cost_nano"], invoice["sums"][0]["due_nano"]) == (cost_nano, 0)
    for ending, start in (("csv", b"\xef\xbb\xbfinvoice,"), ("html", b"<!"), ("pdf", b"%PDF")):
        file = tmp_path / f"invoice.{ending}"
        done = sextant("invoice", "shop", month, "-o", str(file), "--state", str(served.root))
        assert done.returncode == 0, done.stderr
        assert file.read_bytes().lower().startswith(start.lower())


def test_a_key_rotates_with_overlap_and_stays_itself(served: Stack, run: Verb) -> None:
    made = run("key", "create", "--name", "turning")
    turned = run("key", "rotate", made["id"], "--overlap-hours", "1")
    assert turned["id"] == made["id"]
    assert turned["key"] != made["key"]
    assert [call(served, secret).status for secret in (made["key"], turned["key"])] == [200, 200]
    changed = run("key", "set", made["id"], "--model", "other", "--limit", "tokens_per_day=10")
    assert (changed["models"], changed["limits"]["tokens_per_day"]) == (["other"], 10)
    changed = run("key", "set", made["id"], "--model", "all", "--limit", "concurrent_requests=2")
    assert (changed["models"], changed["limits"]["tokens_per_day"]) == ([], 10)


def test_a_tenant_gets_its_privacy_and_its_end(
    served: Stack, run: Verb, refused: Verb, tmp_path: Path
) -> None:
    run("tenant", "create", "brief")
    key = run("key", "create", "--tenant", "brief")["key"]
    changed = run("tenant", "set", "brief", "--privacy", '{"otherwise": "mask"}')
    assert changed["privacy"]["otherwise"] == "mask"
    file = tmp_path / "privacy.json"
    file.write_text('{"actions": {"PHONE": "block"}}')
    assert run("tenant", "set", "brief", "--privacy", str(file))["privacy"]["actions"] == {"PHONE": "block"}
    shown = sextant("tenant", "show", "brief", "--state", str(served.root)).stdout
    assert "PHONE=block, otherwise allow" in shown
    for given, said in (
        ("/nonexistent.json", "cannot be read"),
        ("{", "is no JSON"),
        ('{"otherwise": "maks"}', "maks"),
        ('{"others": "mask"}', "others"),
    ):
        assert said in refused("tenant", "set", "brief", "--privacy", given)
    assert run("tenant", "show", "brief")["privacy"]["actions"] == {"PHONE": "block"}
    assert at_a_terminal(served, "n", "tenant", "remove", "brief") != 0
    assert call(served, key).status == 200
    assert at_a_terminal(served, "y", "tenant", "remove", "brief") == 0
    until(lambda: call(served, key).status == 401, "the gateway refuses the key")
    assert "there is no tenant brief" in refused("tenant", "remove", "brief", "--yes")
    briefer = sextant("tenant", "create", "briefer", "--billing", "free", "--state", str(served.root))
    said = "Chosen, since not given: tier free, currency CNY; `sextant tenant set briefer` changes it."
    assert said in briefer.stdout, briefer.stderr
    assert run("tenant", "remove", "briefer", "--yes")["enabled"] is False


def test_somebody_is_invited_and_comes_in(served: Stack, run: Verb, refused: Verb) -> None:
    made = run("user", "invite", "eve@example.com", "--role", "auditor")
    assert (made["sets_password"], made["mailed"]) == (True, False)
    given = {"token": made["token"], "email": "eve@example.com", "password": "correct horse battery"}
    redeemed = served.ask("POST", "/v1/invitations/redeem", given, port=served.control_port)
    assert redeemed.status == 200, redeemed.body
    again = served.ask("POST", "/v1/invitations/redeem", given, port=served.control_port)
    assert (again.status, again.json()["error"]["code"]) == (403, "invitation_refused")
    shown = sextant("user", "invite", "bob@example.com", "--role", "member", "--tenant", "default",
                    "--state", str(served.root))  # fmt: skip
    assert "bob@example.com is invited to be member of default, until 2" in shown.stdout
    assert "sxinvite-" in shown.stdout
    assert "no mail server is configured" in shown.stderr
    states = {one["email"]: (one["id"], one["state"]) for one in run("user", "list-invitations")}
    assert states["eve@example.com"][1] == "redeemed"
    assert run("user", "revoke-invitation", states["bob@example.com"][0])["state"] == "revoked"
    assert "there is no invitation" in refused("user", "revoke-invitation", "invitation_none")
    assert run("user", "remove", "eve@example.com")["deleted"] is True


def at_a_terminal(served: Stack, typed: str, *arguments: str) -> int:
    """A verb whose standard input is a terminal, where `typed` is answered to its question; its status."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{typed}\n".encode())
        return sextant(*arguments, "--state", str(served.root), stdin=theirs).returncode
    finally:
        os.close(ours)
        os.close(theirs)


def test_tiers_and_prices(run: Verb) -> None:
    gold = run("tier", "set", "gold", "--kind", "text", "--sla", "99.95", "--limit", "requests_per_s=50")
    assert (gold["kinds"], gold["sla_ppm"], gold["limits"]["requests_per_s"]) == (["text"], 999_500, 50.0)
    again = run("tier", "set", "gold", "--weight", "3")
    assert (again["weight"], again["sla_ppm"]) == (3, 999_500)
    plan = run(
        "price", "plan", "local", "--currency", "EUR", "--volume", "1000000=0.9", "--package-factor", "0.5"
    )
    assert (plan["volume"], plan["package_factor_ppm"]) == (
        [{"over_tokens": 1_000_000, "factor_ppm": 900_000}],
        500_000,
    )
    priced = run("price", "set", "local", "*", "--input", "1.5", "--output", "6")
    (price,) = priced["prices"]
    assert (price["cached_nano_per_mtok"], price["reasoning_nano_per_mtok"]) == (1_500_000_000, 6_000_000_000)


def test_a_budget_warns_of_mail_that_goes_nowhere(served: Stack) -> None:
    asked = ("budget", "create", "tenant:default", "5", "--email", "a@example.com", "--json")
    made = sextant(*asked, "--state", str(served.root))
    assert made.returncode == 0, made.stderr
    assert made.stderr.startswith("warning: no e-mail will reach a@example.com: no mail server")
    assert json.loads(made.stdout)["emails"] == ["a@example.com"]


def test_a_key_for_a_model_that_nobody_serves_is_made_with_a_warning(served: Stack) -> None:
    at = ("--json", "--state", str(served.root))
    made = sextant("key", "create", "--model", "nosuch", "--model", "sextant-nano", *at)
    assert made.stderr == "warning: no model nosuch is served now; there are sextant-nano\n"
    assert json.loads(made.stdout)["key"]
    assert sextant("key", "create", "--model", "sextant-nano", *at).stderr == ""


def test_people_and_tokens(run: Verb, refused: Verb) -> None:
    run("user", "add", "ann@example.com", "--role", "member", "--tenant", "default")
    granted = run("user", "grant", "ANN@example.com", "--role", "auditor")
    assert granted["role"] == "auditor"
    assert "is not owner of the deployment" in refused("user", "revoke", "ann@example.com", "--role", "owner")
    run("user", "revoke", "ann@example.com", "--role", "auditor")
    (ann,) = run("user", "list")
    assert [grant["role"] for grant in ann["grants"]] == ["member"]
    assert run("user", "disable", "ann@example.com")["enabled"] is False
    token = run("token", "create", "ci", "--role", "auditor", "--days", "30")
    assert token["token"] not in json.dumps(run("token", "list"))
    run("token", "revoke", token["id"])
    actions = [entry["action"] for entry in run("user", "audit", "--last", "3")]
    assert actions[0] == "token.revoke"


def test_mistakes_are_told(refused: Verb) -> None:
    for arguments, said in {
        ("tenant", "create", "Bad Id"): "is no id",
        ("tenant", "create", "default"): "there is a tenant default already",
        ("tenant", "create", "x", "--tier", "nope"): "there is no tier 'nope'",
        ("tenant", "show", "../keys"): "Not Found",
        ("tenant", "set", "default", "--limit", "foo=1"): "expected NAME=VALUE",
        ("balance", "top-up", "default", "a lot"): "write a decimal as 12.50",
        ("balance", "top-up", "default", "12,50"): "write a decimal as 12.50",
        ("balance", "top-up", "default", "0"): "expected more than 0",
        ("balance", "top-up", "default", "5"): "tenant default is free",
        ("balance", "pay", "default", "5"): "tenant default is free and owes nothing",
        ("balance", "credit", "default", "1", "--id", "a b"): "--id 'a b': expected",
        ("budget", "create", "default", "5", "--email", "a@example.com"): "expected tenant:ID",
        ("budget", "create", "tenant:default", "5", "--webhook", "http://example.com/"): "needs https",
        ("tier", "set", "odd", "--kind", "video"): "--kind video: expected some of text, image",
        ("price", "set", "standard", "*", "--input", "1", "--from", "2020-01-01"): "2020-01-01T00:00",
        ("price", "plan", "mine"): "name its --currency",
        ("price", "set", "nope", "*", "--input", "1"): "there is no price plan nope",
        ("invoice", "default", "2026-13"): "expected a month as 2026-11",
        ("invoice", "default", "2026-11", "-o", "a.docx"): "expected a name that ends in",
        ("invoice", "default", "2026-11", "-o", "/nonexistent/a.csv"): "cannot be written",
        ("usage", "--by", "colour"): "expected one of day",
        ("usage", "--since", "2026-11-30", "--until", "2026-11-01"): "not before --since",
        ("usage", "--since", "2020-01-01"): "usage is told for at most 366 days",
        ("usage", "--tenant", "nobody"): "there is no tenant nobody",
        ("key", "rotate", "key_none"): "there is no key key_none",
        ("key", "create", "--network", "everywhere"): "is no network",
        ("user", "remove", "nobody@example.com"): "there is nobody",
        ("import", "one-api", "/etc/passwd"): "neither a SQLite file",
        ("import", "litellm", "/nonexistent.yaml"): "cannot be read",
    }.items():
        assert said in refused(*arguments), arguments


def test_one_api_moves_over_and_a_second_time_changes_nothing(
    served: Stack, run: Verb, tmp_path: Path
) -> None:
    sys.path.insert(0, str(OPERATIONS))
    import one_api_files

    database = one_api_files.write_one_api(tmp_path / "one-api.db")
    document, folder = tmp_path / "moved.yaml", tmp_path / "secrets"
    told = run("import", "one-api", str(database))
    assert told["applied"] is None
    assert not any(tenant["id"] == "alice" for tenant in run("tenant", "list"))
    done = run("import", "one-api", str(database), "-o", str(document), "--secrets", str(folder), "--apply")
    assert len(done["applied"]["made"]) == 11
    again = run("import", "one-api", str(database), "--apply")
    assert (again["applied"]["made"], len(again["applied"]["kept"])) == ([], 11)
    assert run("balance", "show", "alice")["funds_nano"] == 5_000_000_000
    assert one_api_files.UPSTREAM_KEY not in json.dumps(done) + document.read_text()
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    until(lambda: call(served, f"sk-{one_api_files.ONE_API_KEY}").status != 401, "the gateway knows the key")
    refused_here = call(served, f"sk-{one_api_files.ONE_API_KEY}")
    assert (refused_here.status, refused_here.json()["error"]["code"]) == (403, "forbidden")  # not from here
    until(lambda: call(served, f"sk-{'L' * 48}").status != 401, "the gateway knows the key")
    admitted = call(served, f"sk-{'L' * 48}")
    assert (admitted.status, admitted.json()["error"]["code"]) == (403, "no_price")


def test_litellm_moves_over_unless_a_tenant_is_somebody_else(
    served: Stack, run: Verb, refused: Verb, tmp_path: Path
) -> None:
    import hashlib

    secret = "sk-litellm-caller-000000000001"
    config = tmp_path / "config.yaml"
    config.write_text("general_settings: {master_key: sk-x}\n")
    export = tmp_path / "export.json"
    rows = {
        "LiteLLM_TeamTable": [{"team_id": "t1", "team_alias": "Risk", "tpm_limit": 100_000}],
        "LiteLLM_VerificationToken": [
            {"token": hashlib.sha256(secret.encode()).hexdigest(), "team_id": "t1", "key_alias": "app"}
        ],
    }
    export.write_text(json.dumps(rows))
    arguments = ("import", "litellm", str(config), "--database", str(export), "--apply")
    assert call(served, secret).status == 401
    assert len(run(*arguments)["applied"]["made"]) == 2
    until(lambda: call(served, secret).status == 200, "the gateway knows the key")
    run("tenant", "set", "risk", "--name", "Somebody else")
    assert "Nothing was changed" in refused(*arguments)


def test_the_steps_of_a_services_bundle_make_a_tenant_that_pays(served: Stack) -> None:
    bundle, month = render(order("saas", **POOLED)), time.strftime("%Y-%m", time.gmtime())
    typed = [
        shlex.split(command.partition(" -- sextant ")[2].replace("$(date +%Y-%m)", month))
        for step in bundle.install
        for command in step.commands
        if '"$TENANT"' in command
    ]
    assert {words[0] for words in typed} == {"tenant", "balance", "key", "usage", "invoice"}
    for words in typed:
        named = ["bundled" if word == "$TENANT" else word for word in words]
        done = sextant(*named, "--state", str(served.root))
        assert done.returncode == 0, (named, done.stderr)
