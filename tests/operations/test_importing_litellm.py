"""A LiteLLM configuration and database as an import plan: nothing lost silently, nothing secret shown."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sextant.base.errors import BadDocument
from sextant.operations.importing import catalogue, safe_yaml
from sextant.operations.importing.litellm import read_litellm
from sextant.operations.importing.plan import ImportPlan
from sextant.operations.importing.tables import read_tables
from sextant.spec.document import parse_document
from sextant.spec.policy import NANO, LimitRules

CONFIG = Path(__file__).with_name("litellm_config.yaml")
PEER = Path(__file__).parents[2] / ".venv-peers/litellm/bin/python"
TABLES = frozenset(
    {
        "LiteLLM_OrganizationTable",
        "LiteLLM_TeamTable",
        "LiteLLM_ProjectTable",
        "LiteLLM_UserTable",
        "LiteLLM_VerificationToken",
        "LiteLLM_BudgetTable",
    }
)
SECRET = "sk-caller-secret-0000000001"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return file


def noted(plan: ImportPlan) -> dict[str, str]:
    return {note.where: note.said for note in plan.notes}


def of_rows(**tables: list[dict[str, Any]]) -> ImportPlan:
    return read_litellm(CONFIG, {f"LiteLLM_{name}": rows for name, rows in tables.items()})


def test_models_become_a_document_that_is_accepted() -> None:
    plan = read_litellm(CONFIG)
    document = parse_document(yaml.safe_dump(plan.document))
    served = {model.name: model for model in document.spec.models}
    assert list(served) == ["deepseek-chat", "qwen3-8b", "embed", "local", "gpt-4o"]
    chat = served["deepseek-chat"]
    assert (chat.engine.base_url, chat.engine.api_key) == (
        "https://api.deepseek.com/v1",
        "env:DEEPSEEK_API_KEY",
    )
    assert (chat.engine.context_tokens, chat.aliases, chat.engine.compliant) == (131_072, ("gpt-4",), True)
    qwen = served["qwen3-8b"]
    assert (qwen.engine.upstream_model, qwen.concurrent_requests) == ("Qwen/Qwen3-8B", 64)
    assert qwen.aliases == ("hidden-name",)
    embed = served["embed"]
    assert embed.engine.base_url == "http://127.0.0.1:8903/v1"
    assert (embed.engine.api_key, embed.engine.capabilities.embeddings) == (None, True)
    assert not embed.engine.capabilities.chat
    assert served["local"].engine.base_url == "http://localhost:11434/v1"
    assert served["gpt-4o"].engine.api_key == "env:OPENAI_API_KEY"
    assert document.spec.gateway.limits.concurrent_requests == 200


def test_what_cannot_be_carried_over_is_told() -> None:
    said = noted(read_litellm(CONFIG))
    for where, word in {
        "model_list[0].litellm_params.rpm": "keys, projects, tenants",
        "model_list[1].litellm_params.timeout": "own client",
        "model_list[2]": "one endpoint a model",
        "model_list[4].litellm_params": "OpenAI-compatible path",
        "model_list[6].litellm_params.model": "`anthropic`",
        "model_list[7]": "passes any model through",
        "model_list[8]": "image_generation",
        "litellm_settings.callbacks": "no equal",
        "litellm_settings.max_budget": "whole proxy",
        "router_settings.routing_strategy": "one endpoint a model",
        "router_settings.model_group_alias.to-nowhere": "not carried over",
        "general_settings.master_key": "its own",
        "general_settings.database_url": "its own",
        "environment_variables.EMBED_BASE": "where Sextant is started",
    }.items():
        assert word in said[where], where


def test_every_leaf_of_the_configuration_is_taken_or_told(tmp_path: Path) -> None:
    """A field that the importer has never heard of appears in the notes, wherever it stands."""
    tree = yaml.safe_load(CONFIG.read_text())
    strange = {"made_up_field": "x"}
    tree["model_list"][0] |= strange
    tree["model_list"][0]["litellm_params"] |= strange
    tree["model_list"][0]["model_info"] |= strange
    for section in ("litellm_settings", "router_settings", "general_settings"):
        tree[section] |= strange
    tree["made_up_section"] = strange
    notes = [note.where for note in read_litellm(written(tmp_path, yaml.safe_dump(tree))).notes]
    assert sum("made_up" in where for where in notes) == 7


def test_prices_are_exact() -> None:
    (plan,) = read_litellm(CONFIG).plans
    price, *others = plan.prices
    assert (price.model, plan.currency) == ("deepseek-chat", "USD")
    assert {other.model for other in others} == {"qwen3-8b", "embed", "local", "gpt-4o"}
    assert not any(other.input_nano_per_mtok or other.output_nano_per_mtok for other in others)
    assert "gpt-4o" in noted(read_litellm(CONFIG))["prices"]
    assert price.input_nano_per_mtok == 280_000_000
    assert price.cached_nano_per_mtok == 28_000_000
    assert price.output_nano_per_mtok == price.reasoning_nano_per_mtok == 420_000_000


def test_no_secret_leaves() -> None:
    plan = of_rows(VerificationToken=[{"token": DIGEST, "key_name": "sk-...0001"}])
    shown = json.dumps(plan.told()) + repr(plan)
    assert "inlined" not in shown
    assert SECRET not in shown
    (secret,) = plan.secrets
    assert (secret.reference, secret.value) == ("env:QWEN3_8B_API_KEY", "sk-inlined-upstream-secret-1")


def test_teams_become_tenants_and_callers_keep_their_keys() -> None:
    plan = of_rows(
        TeamTable=[
            {
                "team_id": "t1",
                "team_alias": "Risk & Credit",
                "max_budget": 50.25,
                "budget_duration": "1mo",
                "rpm_limit": 120,
                "tpm_limit": 100_000,
                "tpd_limit": 5_000_000,
                "max_parallel_requests": 8,
                "models": ["chat-models"],
                "soft_budget": 40,
                "spend": 3.5,
                "metadata": {"guardrails": ["x"]},
            },
            {"team_id": "t2", "team_alias": "risk-credit", "blocked": True},
        ],
        VerificationToken=[
            {
                "token": DIGEST,
                "team_id": "t1",
                "key_alias": "app",
                "models": ["gpt-4"],
                "key_name": "sk-...0001",
                "expires": "2030-01-01T00:00:00Z",
                "allowed_routes": ["/v1/chat/completions", "/health"],
            },
            {"token": "b" * 64, "team_id": "t2"},
        ],
    )
    (tenant,) = plan.tenants
    assert (tenant.id, tenant.models) == ("risk-credit", ("deepseek-chat", "qwen3-8b"))
    assert (tenant.billing, tenant.plan) == ("postpaid", "litellm")
    assert tenant.limits == LimitRules(2.0, 120, 100_000, 8, 5_000_000, 50_250_000_000)
    (key,) = plan.keys
    assert (key.sha256, key.tenant_id, key.hint) == (DIGEST, "risk-credit", "sk-...0001")
    assert (key.models, key.endpoints) == (("deepseek-chat",), ("chat.completions",))
    assert key.expires_ms == 1_893_456_000_000
    said = noted(plan)
    assert (plan.budgets, "--email" in said["team Risk & Credit.soft_budget"]) == ((), True)
    assert "/health" in said["key app.allowed_routes"]
    assert "blocked" in said["team risk-credit"]
    assert "blocked" in said["key " + "b" * 12]
    assert "LiteLLM's own" in said["team Risk & Credit.metadata"]


def test_soft_budgets_become_alerts_for_somebody() -> None:
    rows = {"LiteLLM_TeamTable": [{"team_id": "t1", "team_alias": "Risk", "soft_budget": 40}]}
    (budget,) = read_litellm(CONFIG, rows, ("ann@example.com",)).budgets
    assert (budget.scope, budget.amount_nano, budget.emails) == (
        "tenant:risk",
        40 * NANO,
        ("ann@example.com",),
    )


def test_organizations_hold_teams_as_projects_and_people_get_projects() -> None:
    plan = of_rows(
        OrganizationTable=[{"organization_id": "o1", "organization_alias": "ACME", "budget_id": "b1"}],
        BudgetTable=[
            {"budget_id": "b1", "max_budget": 10, "budget_duration": "7d", "model_max_budget": {"x": 1}}
        ],
        TeamTable=[{"team_id": "t1", "team_alias": "Web", "organization_id": "o1", "tpm_limit": 10}],
        ProjectTable=[{"project_id": "p1", "project_alias": "Site", "team_id": "t1"}],
        UserTable=[
            {"user_id": "u1", "user_email": "ann@example.com", "max_budget": 9, "spend": 4},
            {"user_id": "u2", "user_email": "bob@example.com", "max_budget": 9},
        ],
        VerificationToken=[
            {"token": "a" * 64, "project_id": "p1", "team_id": "t1", "organization_id": "o1"},
            {"token": "c" * 64, "user_id": "u1"},
        ],
    )
    assert [tenant.id for tenant in plan.tenants] == ["acme", "litellm-users"]
    assert plan.tenants[0].limits.spend_nano_per_month == 40 * NANO
    projects = {project.id: project for project in plan.projects}
    assert projects["acme-web"].limits.tokens_per_min == 10
    assert projects["user-ann-example-com"].limits.spend_nano_per_month == 5 * NANO
    places = {key.sha256[0]: (key.tenant_id, key.project_id) for key in plan.keys}
    assert places == {"a": ("acme", "acme-web"), "c": ("litellm-users", "user-ann-example-com")}
    said = noted(plan)
    assert "7d becomes 40 USD" in said["organization ACME, its budget.max_budget"]
    assert "no equal" in said["organization ACME, its budget.model_max_budget"]
    assert "project acme-web" in said["project Site"]
    assert "no key but a team's" in said["user bob@example.com"]


def test_a_key_that_nothing_here_can_hold_back_is_not_made() -> None:
    plan = of_rows(
        VerificationToken=[
            {"token": "a" * 64, "allowed_routes": ["management_routes"]},
            {"token": "sk-in-plain"},
            {"token": "d" * 64, "models": ["openai/*"]},
            {"token": "e" * 64, "max_budget": 5, "budget_duration": "a while"},
        ]
    )
    assert {key.sha256[0]: key.models for key in plan.keys} == {"d": ("openai/*",), "e": ()}
    (limited,) = [key for key in plan.keys if key.sha256[0] == "e"]
    assert limited.limits.spend_nano_per_month == 0


PG_DUMP = r"""--
-- PostgreSQL database dump
--
CREATE TABLE public."LiteLLM_VerificationToken" (token text NOT NULL);
COPY public."LiteLLM_SpendLogs" (request_id, spend) FROM stdin;
r1	0.5
\.
COPY public."LiteLLM_VerificationToken" (token, key_alias, models, expires, blocked, tpm_limit) FROM stdin;
{digest}	two\twords	{{deepseek-chat,"qwen3-8b"}}	2030-01-01 00:00:00	f	1000
{other}	\N	{{}}	\N	t	\N
\.
"""


def test_a_dump_says_the_same_as_json(tmp_path: Path) -> None:
    dump = tmp_path / "litellm.sql"
    dump.write_text(PG_DUMP.format(digest=DIGEST, other="f" * 64))
    (key,) = read_litellm(CONFIG, read_tables(dump, TABLES)).keys
    export = tmp_path / "litellm.json"
    row = {
        "token": DIGEST,
        "key_alias": "two\twords",
        "models": ["deepseek-chat", "qwen3-8b"],
        "expires": "2030-01-01T00:00:00+00:00",
        "blocked": False,
        "tpm_limit": 1000,
        "metadata": {},
    }
    export.write_text(json.dumps({"LiteLLM_VerificationToken": [row]}))
    assert (key,) == read_litellm(CONFIG, read_tables(export, TABLES)).keys
    assert (key.name, key.models) == ("two\twords", ("deepseek-chat", "qwen3-8b"))


def test_a_dump_of_something_else_is_refused(tmp_path: Path) -> None:
    dump = tmp_path / "inserts.sql"
    dump.write_text(
        "-- PostgreSQL database dump\n"
        f"INSERT INTO public.\"LiteLLM_VerificationToken\" VALUES ('{DIGEST}', 'app');\n"
    )
    with pytest.raises(BadDocument, match="no --inserts"):
        read_tables(dump, TABLES)


def test_twice_is_the_same() -> None:
    rows = {"TeamTable": [{"team_id": name, "team_alias": "Same"} for name in "xyz"]}
    one, two = of_rows(**rows), of_rows(TeamTable=rows["TeamTable"][::-1])
    assert [tenant.id for tenant in one.tenants] == [tenant.id for tenant in two.tenants]
    assert len({tenant.id for tenant in one.tenants}) == 3


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "no LiteLLM configuration"),
        ("a: 1", "no LiteLLM configuration"),
        ("model_list: 5", "model_list: expected a list"),
        ("model_list: [{model_name: a, litellm_params: x}]", "expected a mapping, found `x`"),
        ("model_list: [{litellm_params: {model: openai/x}}]", "model_name: is missing"),
        (
            "model_list: [{model_name: a, litellm_params: {model: openai/x, max_parallel_requests: many}}]",
            "max_parallel_requests: expected a number, found `many`",
        ),
        (
            "model_list: [{model_name: a, litellm_params: {model: openai/x, input_cost_per_token: .nan}}]",
            "input_cost_per_token: expected a number",
        ),
        ("model_list: {", "not valid YAML"),
        ("model_list: !!python/object/apply:os.system [id]", "not valid YAML"),
        ("model_list: 2024-13-45", "not valid YAML"),
        (
            "a: &a [x,x,x,x,x,x,x,x,x]\n"
            + "".join(
                f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(9)
            ),
            "unfolds to more than",
        ),
        ("[" * 60 + "]" * 60, "nests deeper"),
    ],
)
def test_hostile_configurations_are_refused(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadDocument, match=r".") as caught:
        read_litellm(written(tmp_path, text))
    assert said in caught.value.message


def test_a_secret_of_the_wrong_type_is_not_repeated(tmp_path: Path) -> None:
    text = "model_list: [{model_name: a, litellm_params: {model: openai/x, api_key: [sk-secret-0123456789]}}]"
    with pytest.raises(BadDocument) as caught:
        read_litellm(written(tmp_path, text))
    assert "sk-secret" not in caught.value.message


def test_a_huge_file_is_refused_by_its_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safe_yaml, "FILE_BYTES", 100)
    with pytest.raises(BadDocument, match="more than 100 bytes"):
        read_litellm(written(tmp_path, "model_list: []  #" + "x" * 100))


def test_endless_endpoints_are_looked_at_within_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "TRIED_MAX", 3)
    items = [
        {
            "model_name": f"not a name {n}",
            "litellm_params": {"model": "openai/x", "api_key": "os.environ/KEY"},
        }
        for n in range(5)
    ]
    said = [note.said for note in read_litellm(written(tmp_path, json.dumps({"model_list": items}))).notes]
    assert sum("expected: 1 to 128 letters" in one for one in said) == 3
    assert sum("more than 3 endpoints" in one for one in said) == 2


def test_more_models_than_a_document_holds_are_told(tmp_path: Path) -> None:
    items = [{"model_name": f"m{n}", "litellm_params": {"model": "openai/x"}} for n in range(66)]
    plan = read_litellm(written(tmp_path, json.dumps({"model_list": items})))
    assert plan.document is not None
    assert len(plan.document["spec"]["models"]) == 64
    assert sum("holds 64 models" in note.said for note in plan.notes) == 2


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = (
        "base: &base {api_base: 'http://127.0.0.1:1/v1'}\n"
        "model_list: [{model_name: a, litellm_params: {<<: *base, model: hosted_vllm/a}}]\n"
    )
    plan = read_litellm(written(tmp_path, text))
    assert plan.document is not None
    assert plan.document["spec"]["models"][0]["engine"]["base_url"] == "http://127.0.0.1:1/v1"
    assert "base" in {note.where.rpartition(".")[2] for note in plan.notes}


@pytest.mark.slow
@pytest.mark.skipif(not PEER.exists(), reason="LiteLLM is not installed beside (benchmarks install it)")
def test_litellm_itself_takes_the_sample(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys, litellm\n"
        "from litellm.proxy.proxy_server import ProxyConfig\n"
        "config = asyncio.run(ProxyConfig().get_config(sys.argv[1]))\n"
        "router = litellm.Router(model_list=config['model_list'], **config['router_settings'])\n"
        "print('names:', ' '.join(sorted(set(router.get_model_names()))))\n"
        "from litellm.proxy._types import hash_token\n"
        "print('digest:', hash_token(sys.argv[2]))\n"
    )
    keys = {f"{name}_API_KEY": "sk-x" for name in ("DEEPSEEK", "OPENAI", "ANTHROPIC", "OPENROUTER")}
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HOME": str(tmp_path),
        "PATH": "/usr/bin:/bin",
        **keys,
    }
    done = subprocess.run(
        [str(PEER), "-c", program, str(CONFIG), SECRET],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (names,) = [line for line in done.stdout.splitlines() if line.startswith("names:")]
    assert {"deepseek-chat", "qwen3-8b", "embed", "gpt-4o", "gpt-4"} <= set(names.split())
    assert f"digest: {DIGEST}" in done.stdout
