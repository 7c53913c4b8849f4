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


PLANNING = """
  planning:
    swing: 2
    prefix_hit_share: 0.25
    end_to_end_ms: 60000
    precision: int4
    kv_precision: fp8
    costs: {power_usd_per_kwh: 0.08, pue: 1.1, staff_usd_per_month: 9000}
    server: {cpu_sockets: 1, memory_gib: 100, storage_gib: 500, storage_gib_per_s: 0.1,
      network_gbit_per_s: 25}
    facts_file: facts.toml
    prices_file: prices.toml
"""


def test_a_document_alone_says_all_that_a_plan_goes_by(tmp_path: Path) -> None:
    file = tmp_path / "sextant.yaml"
    own = DOCUMENT.replace("name: H200, count: 16", "name: ours, count: 8")
    file.write_text(own.rstrip() + PLANNING)
    (tmp_path / "facts.toml").write_text('[accelerator.ours]\nlike = "h200"\nwatts = 650\n')
    (tmp_path / "prices.toml").write_text("[card.ours]\nprice_usd = 20000\n")
    found = told("plan", str(file))
    asked = found["plan"]["question"]
    assert asked["precision"] == "int4" and asked["kv_precision"] == "fp8"
    assert asked["workload"]["swing"] == 2 and asked["workload"]["prefix_hit_share"] == 0.25
    assert asked["targets"]["end_to_end_ms"] == 60000 and asked["costs"]["pue"] == 1.1
    assert asked["accelerators"][0]["watts"] == 650 and asked["wishes"]["count"] == 8
    assert asked["host"]["memory_bytes"] == 100 * 2**30
    assert asked["host"]["network_bytes_per_s"] == pytest.approx(25e9 / 8)
    said = "\n".join(found["plan"]["options"][0]["warnings"])
    assert "the rule 1:4 asks for 2" in said and "host memory: 100 GiB" in said and "storage" in said
    own_way = next(way for way in found["shown"]["money"]["ways"] if way["mode"] == "on-prem")
    assert own_way["upfront_usd"]["value"] == pytest.approx(20000 * 1.4 * 8)
    flagged = told("plan", str(file), "--pue", "1.3", "--swing", "1", "--precision", "fp8")["plan"][
        "question"
    ]
    assert flagged["costs"]["pue"] == 1.3 and flagged["workload"]["swing"] == 1
    assert flagged["precision"] == "fp8"


def test_a_document_s_site_prices_are_the_rent(tmp_path: Path) -> None:
    file = tmp_path / "sextant.yaml"
    file.write_text(DOCUMENT.replace("{name: here,", "{name: here, price_usd_per_h: 40,"))
    assert told("plan", str(file))["plan"]["question"]["costs"]["usd_per_h"] == pytest.approx(2.5)
    file.write_text(DOCUMENT + "  planning: {most_accelerators: 8, costs: {usd_per_h: 1}}\n")
    asked = told("plan", str(file), "--accelerator", "H200")["plan"]["question"]
    assert asked["wishes"]["most"] == 8 and asked["costs"]["usd_per_h"] == 1


def test_v4_is_planned_with_the_cache_that_it_runs_with() -> None:
    asked = told("plan", "--model", "deepseek-v4-flash", "--accelerator", "B200")["plan"]["question"]
    assert asked["kv_precision"] == "fp8" and asked["precision"] == "fp4"


def test_ways_to_keep_the_weights_and_what_servers_need_are_shown() -> None:
    text = run(*R1, "--requests-per-s", "1").stdout
    assert "99.8 % of R1's score" in text and "int4" in text
    assert "Each server needs: 2 CPU sockets, 769 GiB of memory" in text
    assert "fine-tuning: all weights on" in text
    chinese = run(
        "plan", "--model", "deepseek-r1", "--accelerator", "H100", "--count", "8", "--lang", "zh"
    ).stdout
    assert "一个副本需要 16 张" in chinese and "accelerators are asked" not in chinese


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
    # Memory, latency, cost over time, three years by mode, and what moves each mode: bought, reserved,
    # hybrid, on demand, and two APIs.
    assert len(drawings) == 4 + 6
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


def test_a_name_of_no_engine_or_precision_gets_the_nearest() -> None:
    assert "`vlm`" in refusal(*R1, "--engine", "vlm").message
    assert "nearest: vllm" in refusal(*R1, "--engine", "vlm").message
    assert "nearest: fp8" in refusal(*R1, "--precision", "fp9").message
    assert "bf16, fp8" in refusal(*R1, "--kv-precision", "zzz").message


def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(tmp_path: Path) -> None:
    there = str(tmp_path / "nowhere" / "plan.html")
    assert "there is no folder" in refusal(*R1, "--html", there).message
    assert "is a folder" in refusal(*R1, "--html", str(tmp_path)).message
    words = (*R1, "--calibrate", "http://127.0.0.1:1", "-o", there)
    assert "there is no folder" in refusal(*words).message


def test_what_of_a_document_is_not_planned_is_said(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    more = "    - {name: there, accelerators: [{name: H100, count: 16}]}\n"
    two = DOCUMENT.replace(
        '  model: {name: r1, source: "hf:deepseek-ai/DeepSeek-R1"}\n  engine: {kind: vllm}\n',
        '  models:\n    - {name: r1, source: "hf:deepseek-ai/DeepSeek-R1", engine: {kind: vllm}}\n'
        '    - {name: small, source: "hf:deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", engine: {kind: vllm}}\n',
    )
    file.write_text(two + more)
    warnings = told("plan", str(file))["plan"]["warnings"]
    assert any("each is planned alone" in one for one in warnings)
    assert any("the first of 2 models" in one for one in warnings)
    chinese = run("plan", str(file), "--lang", "zh").stdout
    assert "2 个模型" in chinese and "planned alone" not in chinese


def test_nothing_to_plan_and_files_that_are_not_there(tmp_path: Path) -> None:
    assert "--model" in refusal("plan").message
    missing = refusal(*R1, "--prices", str(tmp_path / "none.toml"))
    assert isinstance(missing, Misconfigured) and "none.toml" in missing.message


def test_wishes_that_nothing_meets_show_the_closest_and_fail() -> None:
    result = run(*R1, "--count", "1")
    assert result.exit_code == 1
    assert "No option meets this" in result.stdout and "→" in result.stdout


def test_a_target_that_uneven_arrivals_miss_is_said_with_what_meets_it() -> None:
    for target in ("2000", "1500", "1200", "1000", "800", "600", "500"):
        missed = (*R1, "--requests-per-s", "4", "--ttft-ms-p99", target)
        most = told(*missed)["shown"]["requests_per_s_simulated"]
        if most is not None:
            break
    assert 0 < most < 4
    places = told(*missed)["shown"]["places"]
    assert places["places"] > 0 and places["wait_ms_p99"] >= 0 and places["requests_per_s_most"] > 4
    assert "arrive as unevenly" in run(*missed).stdout
    met = told(*R1, "--requests-per-s", f"{most * 0.9}", "--ttft-ms-p99", target)["shown"]
    assert met["requests_per_s_simulated"] is None and met["waits"]["ttft_ms_p99"] <= float(target)


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


def counted(body: dict[str, Any]) -> dict[str, Any]:
    """Usage with a token for each word."""
    words = len(body["messages"][0]["content"].split())
    return {"choices": [], "usage": {"prompt_tokens": words, "completion_tokens": 3}}


NANO = ("plan", "--model", "sextant-nano", "--engine", "embedded")


def test_a_machine_is_calibrated_and_planned_by_its_own_times(tmp_path: Path) -> None:
    file = tmp_path / "machine.toml"
    calibrated = ("--accelerator", "cpu-desktop", "--calibrate")
    with fake_chat_api() as api:
        answered(api)
        api.script[-2] = counted
        result = run(*NANO, *calibrated, api.url, "-o", str(file))
        assert result.exit_code == 0, result.output
        assert "held out" in result.stdout and str(file) in result.stdout.replace("\n", "")
        measured = told(*NANO, *calibrated, api.url, "-o", str(file))
    assert measured["model"] == "sextant-nano" and measured["step_s"] > 0
    found = told(*NANO, "--calibration", str(file), "--requests-per-s", "0.01")
    assert [card["id"] for card in found["plan"]["question"]["accelerators"]] == ["cpu-desktop"]
    speed = found["plan"]["options"][0]["speed"]
    assert speed["tpot_ms"]["basis"] == "calibrated" and speed["running_most"] == measured["slots"]
    other = refusal("plan", "--model", "r1-distill-qwen-7b", "--calibration", str(file))
    assert "was measured with sextant-nano in q8" in other.message
    elsewhere = refusal(*NANO, "--accelerator", "Pi-5", "--calibration", str(file))
    assert "--accelerator cpu-desktop" in elsewhere.message


def test_a_calibration_says_what_it_lacks(tmp_path: Path) -> None:
    assert "go together" in refusal(*NANO, "--calibrate", "http://127.0.0.1:9").message
    many = refusal(*NANO, "--calibrate", "http://127.0.0.1:9", "-o", str(tmp_path / "x.toml"))
    assert "stands for that machine" in many.message
    (tmp_path / "x.toml").write_text("slots = 4\n")
    assert "no calibration" in refusal(*NANO, "--calibration", str(tmp_path / "x.toml")).message


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


def test_a_report_of_what_nothing_meets_says_so_in_chinese_too(tmp_path: Path) -> None:
    file = tmp_path / "none.html"
    few = ("plan", "--model", "deepseek-r1", "--accelerator", "H100", "--count", "8", "--lang", "zh")
    result = run(*few, "--html", str(file))
    assert result.exit_code == 1
    text = file.read_text()
    assert "没有方案能满足全部条件" in text and "一个副本需要 16 张" in text
    assert "accelerators" not in text and "nothing meets" not in text
    assert run(*few[:-2], "--lang", "en", "--html", str(file)).exit_code == 1
    assert "No option meets this" in file.read_text()


def test_measuring_what_has_no_option_prints_the_measurement_alone() -> None:
    with fake_chat_api() as api:
        answered(api)
        result = run(*R1, "--count", "1", "--measure", api.url)
    assert result.exit_code == 1
    assert "in flight" in result.stdout and " - " in result.stdout
