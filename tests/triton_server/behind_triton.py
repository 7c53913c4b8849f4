"""Triton itself serves the model repository that is written for TensorRT-LLM, on the CPU; a stand-in with
TensorRT-LLM's names answers with a prompt's words from the last to the first. `make test-triton`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.catalog import fake_triton_image

from servers import free_port
from sextant.catalog.triton_trtllm import llm_arguments, repository_files
from sextant.catalog.trtllm import Told
from stack_under_test import until

INSTALLED = Path(__file__).parents[2] / ".venv-triton"
TRITON = INSTALLED / "pytriton/tritonserver"
START_S = 60
ENGINE = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("fake_triton_image", {fake_triton_image.__file__!r})
made = importlib.util.module_from_spec(spec)
sys.modules["fake_triton_image"] = made
spec.loader.exec_module(made)
LLM, SamplingParams = made.LLM, made.SamplingParams
"""


def backend(folder: Path) -> Path:
    """Triton's Python backend with the stub for this Python."""
    (folder / "python").mkdir(parents=True)
    stub = f"{sys.version_info.major}.{sys.version_info.minor}/triton_python_backend_stub"
    for file in (*(TRITON / "backends/python").iterdir(), TRITON / "python_backend_stubs" / stub):
        (folder / "python" / file.name).symlink_to(file)
    (TRITON / "python_backend_stubs" / stub).chmod(0o755)
    (TRITON / "bin/tritonserver").chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, int]]:
    """Ports of a running Triton: requests, metrics."""
    folder = tmp_path_factory.mktemp("triton")
    told = llm_arguments(Told(fp8_cache=True), model_path="/m", context_tokens=4096, max_sequences=8)
    for path, content in repository_files("r1", {**told, "tensor_parallel_size": 2}).items():
        (folder / "repository" / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / "repository" / path).write_bytes(content)
    (folder / "repository/r1/1/tensorrt_llm.py").write_text(ENGINE)
    http, metrics = free_port(), free_port()
    command = (
        *(TRITON / "bin/tritonserver", f"--model-repository={folder}/repository"),
        *(f"--backend-directory={backend(folder / 'backends')}", "--http-address=127.0.0.1"),
        *(f"--http-port={http}", f"--metrics-port={metrics}", "--allow-grpc=false"),
        *("--allow-gpu-metrics=false", "--allow-cpu-metrics=false", "--exit-timeout-secs=10"),
    )
    libraries = f"{INSTALLED}/nvidia_pytriton.libs:{sys.base_prefix}/lib"
    environment = {**os.environ, "LD_LIBRARY_PATH": libraries}
    # The stub looks for modules in its working folder first: NumPy 1 is there.
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(command, cwd=INSTALLED, stdout=log, stderr=log, env=environment) as server,
    ):
        try:
            until(lambda: ready(http), f"Triton is ready; its log: {folder / 'log'}", START_S)
            yield http, metrics
        finally:
            server.terminate()
    assert server.returncode == 0


def ready(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/health/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def asked(port: int, path: str, **inputs: Any) -> tuple[int, str]:
    """Status and text of the answer to a request of Triton's generate extension."""
    body = json.dumps(inputs).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v2/models/r1/{path}", data=body)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_triton_takes_the_configuration_as_it_is_written(triton: tuple[int, int]) -> None:
    with urllib.request.urlopen(f"http://127.0.0.1:{triton[0]}/v2/models/r1/config") as answer:
        read = json.load(answer)
    assert read["backend"] == "python" and read["model_transaction_policy"]["decoupled"] is True
    assert [each["name"] for each in read["output"]] == [
        "text_output",
        "num_input_tokens",
        "num_output_tokens",
    ]


def test_whole_answers_and_streams_carry_their_counts(triton: tuple[int, int]) -> None:
    front_end = {"return_num_input_tokens": True, "return_num_output_tokens": True}
    status, text = asked(
        triton[0], "generate", text_input="<s>one two three", stream=False, max_tokens=2, temperature=0.5,
        top_p=0.9, seed=7, stop_words=["x"], exclude_input_in_output=True, **front_end,
    )  # fmt: skip
    whole = json.loads(text)
    assert (status, whole["text_output"]) == (200, " three two")
    assert (whole["num_input_tokens"], whole["num_output_tokens"]) == (3, 2)
    status, text = asked(triton[0], "generate_stream", text_input="one two three", stream=True, max_tokens=9)
    pieces = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line]
    assert [(piece["text_output"], piece["num_output_tokens"]) for piece in pieces] == [
        (" three", 1), (" two", 1), (" one", 1),
    ]  # fmt: skip
    assert {piece["num_input_tokens"] for piece in pieces} == {4}


def test_errors_are_told_and_the_next_request_is_served(triton: tuple[int, int]) -> None:
    status, text = asked(triton[0], "generate", text_input="too long")
    assert status >= 400 and "ValueError: the prompt is longer" in text
    status, text = asked(triton[0], "generate", text_input="a b", streaming=True, sampling_param_top_k=3)
    assert status == 200, "what the extension does not know becomes a parameter, which is no input"
    assert json.loads(text)["num_output_tokens"] == 2


def test_what_ran_is_among_tritons_metrics(triton: tuple[int, int]) -> None:
    before = rows(triton[1])
    asked(triton[0], "generate", text_input="one two three", max_tokens=2)
    until(
        lambda: rows(triton[1])["trtllm_generation_tokens_total"] > before["trtllm_generation_tokens_total"],
        "it counts",
    )
    until(lambda: rows(triton[1])["trtllm_num_requests_running"] == 0, "nothing runs any more")
    after = rows(triton[1])
    more = {name: after[name] - before[name] for name in after}
    assert more["trtllm_generation_tokens_total"] == 2 and more["trtllm_prompt_tokens_total"] == 4


def rows(port: int) -> dict[str, float]:
    """Our metrics among Triton's."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    ours = [line for line in lines if line.startswith("trtllm_")]
    return {line.partition("{")[0]: float(line.rpartition(" ")[2]) for line in ours}
