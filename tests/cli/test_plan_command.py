"""`sextant plan`: what it prints, writes and refuses, and a measurement held against its prediction."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner, Result

from cli.fake_chat_api import FakeChatApi, delta, fake_chat_api
from sextant.base.errors import BadRequest, Misconfigured, NotFound, SextantError, UpstreamError
from sextant.cli import plan_charts, plan_view
from sextant.cli.main import app
from sextant.cli.plan_words import ZH

R1 = ("plan", "--model", "deepseek-r1", "--accelerator", "H200", "--lang", "en")
DOCUMENT = """
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {name: planned}
spec:
  model: {name: r1, source: "hf:deepseek-ai/DeepSeek-R1"}
  engine: {kind: vllm}
  workload: {requests_per_s: 2, input_tokens: 1000, output_tokens: 300, tpot_ms_p99: 200}
  sites:
    - {name: here, accelerators: [{name: H200, count: 16}]}
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def told(*words: str) -> dict[str, Any]:
    result = run(*words, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def refusal(*words: str) -> SextantError:
    error = run(*words).exception
    assert isinstance(error, SextantError), error
    return error


def test_a_plan_says_what_how_fast_and_what_it_costs() -> None:
    result = run(*R1, "--requests-per-s", "2", "--staff-usd-per-month", "9000")
    assert result.exit_code == 0
    for part in ("h200", "cheapest", "USD/Mtok", "Three years by mode", "KV cache", "Together AI", "g CO2"):
        assert part in result.stdout, part
    assert "staff (state" not in result.stdout and "space (state" in result.stdout


def test_explain_gives_each_number_a_formula_and_names_sources() -> None:
    text = run(*R1, "--explain").stdout
    found = re.findall(r"^(.+) = .+\[(calibrated|derived|stated)\]\n    (.+)$", text, re.M)
    assert len(found) > 20
    assert all(formula.strip() for _, _, formula in found)
    assert "Uptime Institute" in text


def test_a_document_is_planned_with_its_hardware_and_targets(tmp_path: Path) -> None:
    file = tmp_path / "sextant.yaml"
    file.write_text(DOCUMENT)
    asked = told("plan", str(file))["plan"]["question"]
    assert asked["architecture"]["id"] == "deepseek-r1"
    assert [card["id"] for card in asked["accelerators"]] == ["h200"]
    assert asked["wishes"]["count"] == 16 and asked["targets"]["tpot_ms_p99"] == 200
    assert asked["workload"]["input_tokens"] == 1000
    other = told("plan", str(file), "--input-tokens", "500", "--accelerator", "MI300X")["plan"]["question"]
    assert other["workload"]["input_tokens"] == 500 and other["wishes"]["count"] is None


def test_a_remote_engine_has_no_hardware_to_plan(tmp_path: Path) -> None:
    file = tmp_path / "sextant.yaml"
    remote = "{kind: remote, base_url: 'https://api.example.com/v1', api_key: 'env:KEY'}"
    file.write_text(
        DOCUMENT.replace("{kind: vllm}", remote).replace(', source: "hf:deepseek-ai/DeepSeek-R1"', "")
    )
    assert "--engine vllm" in refusal("plan", str(file)).message


def test_the_report_is_one_file_that_fetches_nothing(tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    assert run(*R1, "--html", str(file), "--price-usd", "30000").exit_code == 0
    text = file.read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(drawings) == 4  # memory, latency, cost over time, sensitivity
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert not re.search(r"""(src|href)=|url\(|@import""", text)
    assert not re.search(r"\b(nan|inf)\b", text)


def test_chinese_leaves_no_english_heading(tmp_path: Path) -> None:
    file = tmp_path / "plan.html"
    result = run(
        "plan", "--model", "deepseek-r1", "--accelerator", "H200", "--lang", "zh", "--html", str(file)
    )
    assert "三年" in result.stdout and "Three years" not in result.stdout
    headings = re.findall(r"<h2>([^<]+)</h2>", file.read_text())
    assert headings and all(re.search(r"[\u4e00-\u9fff]|NVIDIA", heading) for heading in headings)
    assert all(ZH.values())


def test_unknown_names_get_the_nearest() -> None:
    assert "deepseek-r1" in refusal("plan", "--model", "deepsek-r1").message.casefold()
    error = refusal("plan", "--model", "deepseek-r1", "--accelerator", "H2000")
    assert isinstance(error, NotFound) and "H200" in error.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--requests-per-s", "-3"), "requests_per_s"),
        (("--requests-per-s", "nan"), "requests_per_s"),
        (("--prefix-hit-share", "1.5"), "prefix_hit_share"),
        (("--swing", "0.5"), "swing"),
        (("--precision", "fp12"), "fp12"),
        (("--engine", "vlm"), "vlm"),
        (("--lang", "fr"), "en or zh"),
    ],
)
def test_nonsense_is_refused_by_name(words: tuple[str, str], said: str) -> None:
    error = refusal(*R1, *words)
    assert isinstance(error, BadRequest) and said in error.message


def test_nothing_to_plan_and_files_that_are_not_there(tmp_path: Path) -> None:
    assert "--model" in refusal("plan").message
    missing = refusal(*R1, "--prices", str(tmp_path / "none.toml"))
    assert isinstance(missing, Misconfigured) and "none.toml" in missing.message


def test_wishes_that_nothing_meets_show_the_closest_and_fail() -> None:
    result = run(*R1, "--count", "1")
    assert result.exit_code == 1
    assert "No option meets this" in result.stdout and "→" in result.stdout


def test_a_target_that_uneven_arrivals_miss_is_said_with_what_meets_it() -> None:
    missed = (*R1, "--requests-per-s", "4", "--ttft-ms-p99", "800")
    most = told(*missed)["shown"]["requests_per_s_simulated"]
    assert 0 < most < 4
    places = told(*missed)["shown"]["places"]
    assert places["places"] > 0 and places["wait_ms_p99"] >= 0 and places["requests_per_s_most"] > 4
    assert "arrive as unevenly" in run(*missed).stdout
    met = told(*R1, "--requests-per-s", f"{most * 0.9}", "--ttft-ms-p99", "800")["shown"]
    assert met["requests_per_s_simulated"] is None and met["waits"]["ttft_ms_p99"] <= 800


def test_a_plan_without_prices_says_so() -> None:
    found = told("plan", "--model", "deepseek-r1", "--accelerator", "H20", "--requests-per-s", "1")
    option = found["plan"]["options"][0]
    assert option["cost"]["usd_per_h"] is None and "--usd-per-h" in option["no_cost"]
    priced = told(
        "plan",
        "--model",
        "deepseek-r1",
        "--accelerator",
        "H20",
        "--requests-per-s",
        "1",
        "--usd-per-h",
        "1.5",
    )
    option = priced["plan"]["options"][0]
    assert option["cost"]["usd_per_h"]["value"] == pytest.approx(1.5 * option["count"])


def test_own_prices_and_facts_are_used(tmp_path: Path) -> None:
    prices = tmp_path / "prices.toml"
    prices.write_text("[card.h200]\nprice_usd = 12345\n")
    facts = tmp_path / "facts.toml"
    facts.write_text("[accelerator.h200]\nusd_per_h = {on_demand = 1.0}\n")
    found = told(*R1, "--prices", str(prices), "--facts", str(facts))
    option = found["plan"]["options"][found["shown"]["index"]]
    assert option["cost"]["usd_per_h"]["value"] == pytest.approx(option["count"])
    own = next(way for way in found["shown"]["money"]["ways"] if way["mode"] == "on-prem")
    assert own["upfront_usd"]["value"] == pytest.approx(12345 * 1.4 * option["count"])


def answered(api: FakeChatApi) -> None:
    usage = {"choices": [], "usage": {"prompt_tokens": 40, "completion_tokens": 3}}
    api.script = [
        delta(role="assistant"),
        *(delta(content="a") for _ in range(3)),
        usage,
        b"data: [DONE]\n\n",
    ]


def test_a_measurement_stands_beside_its_prediction() -> None:
    with fake_chat_api() as api:
        answered(api)
        found = told(*R1, "--measure", api.url)
        shown = run(*R1, "--measure", api.url.removesuffix("/v1"))
        bodies = api.requests
    assert [one["measured"]["concurrency"] for one in found["measured"]] == [1, 4]
    for one in found["measured"]:
        assert one["measured"]["output_tokens"] == 3 and one["measured"]["input_tokens"] == 40
        assert one["measured"]["ttft_ms"] > 0 and one["tpot_ms"] > 0
        assert one["within_band"] is False  # no H200 answers as fast as this loop
    assert "predicted" in shown.stdout and "no" in shown.stdout
    prompts = [body["messages"][0]["content"] for body in bodies[: len(bodies) // 2]]
    assert len({prompt[:8] for prompt in prompts[1:4]}) == 3  # nothing comes out of a prefix cache


def test_an_endpoint_that_cannot_be_measured_is_said() -> None:
    with fake_chat_api() as api:
        api.status = 404
        assert "HTTP 404" in refusal(*R1, "--measure", api.url).message
        api.status = 200
        api.script = [delta(role="assistant"), b"data: [DONE]\n\n"]
        assert "without content" in refusal(*R1, "--measure", api.url).message
    gone = refusal(*R1, "--measure", api.url)
    assert isinstance(gone, UpstreamError) and api.url in gone.message


def test_charts_of_nothing_are_nothing_and_numbers_stay_short() -> None:
    assert plan_charts.lines([], "x", "y") == ""
    assert plan_charts.tornado([], 1.0, "USD") == ""
    flat = plan_charts.lines([plan_charts.Curve(name="<a&b>", points=((0.0, 0.0),))], "x", "y")
    assert "&lt;a&amp;b&gt;" in ElementTree.tostring(ElementTree.fromstring(flat)).decode()
    shown = [plan_view.number(value) for value in (0, 0.01234, 0.5, 12.34, 123456.7)]
    assert shown == ["0", "0.0123", "0.50", "12.3", "123,457"]


def test_a_sweep_of_the_catalogue_is_quick() -> None:
    run("plan", "--model", "deepseek-r1")  # what a first run imports is another matter
    started = time.process_time()
    assert run("plan", "--model", "deepseek-r1").exit_code == 0
    assert time.process_time() - started < 3.0
