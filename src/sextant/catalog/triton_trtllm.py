"""TensorRT-LLM behind Triton's OpenAI front end: a model repository of three files, one of them a program.

The front end asks a model in fixed words (`stream`, `max_tokens`, `return_num_output_tokens`, …: its
`engine/utils/triton.py`) and reports `usage` where the model answers with its counts. NVIDIA's repository
for the LLM API (`all_models/llmapi`) has other inputs and no counts, and the one with counts
(`inflight_batcher_llm`) serves engines of `trtllm-build`, which releases after 1.2 no longer have. So this
one is ours: a model of Triton's Python backend that hands requests to TensorRT-LLM's LLM API and counts by
the tokens that it gives back. The program runs in Triton's image, never here. Neighbours: `triton.py` (the
command), `trtllm.py` (the settings).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sextant.catalog.trtllm import CACHE_SHARE, MAX_NUM_TOKENS, Told, as_file, settings

SCALARS = {
    "max_tokens": "INT32",
    "temperature": "FP32",
    "top_p": "FP32",
    "frequency_penalty": "FP32",
    "presence_penalty": "FP32",
    "seed": "UINT64",
    "exclude_input_in_output": "BOOL",
    "return_num_input_tokens": "BOOL",
    "return_num_output_tokens": "BOOL",
}
"""What the front end may send beside the text, each as one value."""
COUNTS = ("num_input_tokens", "num_output_tokens")
"""What it makes `usage` of."""


def repository_files(name: str, llm: Mapping[str, Any]) -> dict[str, bytes]:
    """The repository's files by path: the model `name` with the LLM API's arguments `llm`."""
    return {
        f"{name}/config.pbtxt": CONFIG,
        f"{name}/1/model.json": as_file({name: value for name, value in llm.items() if value}),
        f"{name}/1/model.py": MODEL.encode(),
    }


def llm_arguments(
    told: Told, *, model_path: str, context_tokens: int, max_sequences: int | None
) -> dict[str, Any]:
    """The LLM API's arguments for that model, but for how it is spread over accelerators."""
    made = settings(told)
    return {
        "model": model_path,
        "max_seq_len": context_tokens,
        "max_batch_size": max_sequences,
        "max_num_tokens": MAX_NUM_TOKENS,
        **made,
        "kv_cache_config": {"free_gpu_memory_fraction": CACHE_SHARE, **made.get("kv_cache_config", {})},
    }


def _config() -> bytes:
    """Shapes are whole, without a dimension for batches: TensorRT-LLM makes its batches itself."""

    def field(name: str, kind: str, dims: str, more: str = "") -> str:
        return f'  {{ name: "{name}" data_type: TYPE_{kind} dims: [ {dims} ]{more} }}'

    inputs = [field("text_input", "STRING", "1, 1"), field("stream", "BOOL", "1, 1", " optional: true")]
    inputs += [field("stop_words", "STRING", "1, -1", " optional: true")]
    inputs += [field(name, kind, "1, 1", " optional: true") for name, kind in SCALARS.items()]
    outputs = [field("text_output", "STRING", "1"), *(field(name, "INT32", "1") for name in COUNTS)]
    lines = (
        "# Made by Sextant: what Triton's OpenAI front end sends, and the counts that it reads back.",
        'backend: "python"',
        "max_batch_size: 0",
        "model_transaction_policy { decoupled: true }",
        "instance_group [ { count: 1 kind: KIND_CPU } ]  # the LLM API takes the accelerators itself",
        "input [",
        ",\n".join(inputs),
        "]",
        "output [",
        ",\n".join(outputs),
        "]",
    )
    return ("\n".join(lines) + "\n").encode()


CONFIG = _config()
"""Of a model that TensorRT-LLM serves."""

MODEL = '''\
"""A model of Triton's Python backend: TensorRT-LLM's LLM API, asked in the words of the OpenAI front end.

Made by Sextant. Beside it, model.json holds the LLM API's arguments, and config.pbtxt what is asked and
answered. Each answer tells how many tokens it took and gave, which the front end makes `usage` of.
"""

import asyncio
import contextlib
import json
import pathlib
import queue
import threading

import numpy
import triton_python_backend_utils as triton

CANCEL_CHECK_S = 0.1
NOTED_MOST = 100_000
METRICS = (
    ("trtllm_num_requests_running", "Requests under way", "GAUGE"),
    ("trtllm_prompt_tokens_total", "Tokens of prompts", "COUNTER"),
    ("trtllm_generation_tokens_total", "Tokens of answers", "COUNTER"),
)  # named as TensorRT-LLM's own server names them
NUMBERS = ("max_tokens", "temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")


class TritonPythonModel:
    def initialize(self, args):
        """Loads the model; Triton is ready when this returns."""
        folder = pathlib.Path(args["model_repository"]) / args["model_version"]
        told = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        self.noted = queue.Queue(NOTED_MOST)  # Triton's metrics wait for Triton, which answers must not
        self.notes = threading.Thread(target=self._note, name="metrics", daemon=True)
        self.notes.start()
        self.families = [_family(*each) for each in METRICS]  # each must outlive its metric
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self.running, self.read, self.written = [each.Metric(labels=labels) for each in self.families]
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, name="answers", daemon=True)
        self.thread.start()
        self.llm = asyncio.run_coroutine_threadsafe(_load(told), self.loop).result()

    def execute(self, requests):
        """Takes requests over; their answers come when they come."""
        for request in requests:
            asyncio.run_coroutine_threadsafe(self._answer(request), self.loop)

    def finalize(self):
        """Lets go of the accelerators."""
        self.llm.shutdown()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()
        self.noted.put(None)
        self.notes.join()

    def _count(self, metric, more):
        with contextlib.suppress(queue.Full):  # a count is lost, the answer is not
            self.noted.put_nowait((metric, more))

    def _note(self):
        while (noted := self.noted.get()) is not None:
            metric, more = noted
            metric.increment(more)

    async def _answer(self, request):
        sender = request.get_response_sender()
        self._count(self.running, 1)
        try:
            last = await self._generate(request, sender)
        except Exception as error:  # one caller's, whatever it is: the others go on
            last = triton.InferenceResponse(error=triton.TritonError(f"{type(error).__name__}: {error}"))
        finally:
            self._count(self.running, -1)
        sender.send(last, flags=triton.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    async def _generate(self, request, sender):
        """Sends every piece but the last, which it returns."""
        from tensorrt_llm import SamplingParams

        text = _texts(request, "text_input")[0]
        streams = bool(_value(request, "stream"))
        promise = self.llm.generate_async(
            text, SamplingParams(**self._sampling(request, text)), streaming=streams
        )
        watch = asyncio.ensure_future(_abort_when_cancelled(sender, promise))
        asked = len(promise.prompt_token_ids)
        lead = text if _value(request, "exclude_input_in_output") is False else ""
        self._count(self.read, asked)
        said, counted = 0, 0
        last = _response(lead, asked, 0)
        try:
            async for output in promise:
                one = output.outputs[0]
                more = len(one.token_ids) - counted
                piece = _response(lead + one.text[said:], asked, more)
                if output.finished or streams:
                    self._count(self.written, more)
                if output.finished:
                    last = piece
                elif streams:
                    sender.send(piece)
                    lead, said, counted = "", len(one.text), len(one.token_ids)
        finally:
            watch.cancel()
        if sender.is_cancelled():
            why = triton.TritonError("the caller left", triton.TritonError.CANCELLED)
            return triton.InferenceResponse(error=why)
        return last

    def _sampling(self, request, text):
        found = {name: _value(request, name) for name in NUMBERS}
        begins = getattr(self.llm.tokenizer, "bos_token", None)
        return {
            "temperature": 1.0,
            "top_p": 1.0,
            **{name: value for name, value in found.items() if value is not None},
            "stop": _texts(request, "stop_words") or None,
            # a chat template has written it already; the prompt of a plain completion has none
            "add_special_tokens": not (begins and text.startswith(begins)),
        }


async def _load(told):
    from tensorrt_llm import LLM

    return await asyncio.get_running_loop().run_in_executor(None, lambda: LLM(**told))


async def _abort_when_cancelled(sender, promise):
    while not sender.is_cancelled():
        await asyncio.sleep(CANCEL_CHECK_S)
    promise.abort()


def _family(name, what, kind):
    return triton.MetricFamily(name=name, description=what, kind=getattr(triton.MetricFamily, kind))


def _texts(request, name):
    tensor = triton.get_input_tensor_by_name(request, name)
    return [] if tensor is None else [each.decode("utf-8") for each in tensor.as_numpy().reshape(-1)]


def _value(request, name):
    tensor = triton.get_input_tensor_by_name(request, name)
    return None if tensor is None else tensor.as_numpy().reshape(-1)[0].item()


def _response(text, input_tokens, output_tokens):
    return triton.InferenceResponse(
        output_tensors=[
            triton.Tensor("text_output", numpy.array([text.encode("utf-8")], dtype=numpy.object_)),
            triton.Tensor("num_input_tokens", numpy.array([input_tokens], dtype=numpy.int32)),
            triton.Tensor("num_output_tokens", numpy.array([output_tokens], dtype=numpy.int32)),
        ]
    )
'''
"""The program of the Python backend, for the image's Python; its imports are the image's."""
