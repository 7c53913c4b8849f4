"""What the model of Triton's Python backend finds in Triton's image: the backend's module and TensorRT-LLM.

Both are stand-ins with the names that the program uses; the engine answers a prompt with its words from the
last to the first, one token a word. `modules()` is what `sys.modules` must hold for it.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import weakref
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

FINAL = 1


class Tensor:
    def __init__(self, name: str, value: Any) -> None:
        self.name, self.value = name, value

    def as_numpy(self) -> Any:
        return self.value


class TritonError(Exception):
    CANCELLED = 7

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


@dataclasses.dataclass
class InferenceResponse:
    output_tensors: tuple[Tensor, ...] | list[Tensor] = ()
    error: TritonError | None = None

    def value(self, name: str) -> Any:
        """One output, as text or number."""
        (found,) = [tensor for tensor in self.output_tensors if tensor.name == name]
        (value,) = found.as_numpy()
        return value.decode() if isinstance(value, bytes) else int(value)


class Sender:
    def __init__(self) -> None:
        self.sent: list[InferenceResponse] = []
        self.ended = threading.Event()
        self.left = False

    def is_cancelled(self) -> bool:
        return self.left

    def send(self, response: InferenceResponse, flags: int = 0) -> None:
        assert not self.ended.is_set(), "nothing may come after the last"
        self.sent.append(response)
        if flags == FINAL:
            self.ended.set()


class MetricFamily:
    """Triton's own metrics, kept by name."""

    GAUGE, COUNTER = 1, 2
    values: ClassVar[dict[str, float]] = {}

    def __init__(self, name: str, description: str, kind: int) -> None:
        assert description and kind in (self.GAUGE, self.COUNTER)
        self.name, self.kind = name, kind
        self.values[name] = 0.0

    def Metric(self, labels: dict[str, str]) -> Metric:
        assert labels == {"model": "r1", "version": "1"}
        return Metric(weakref.ref(self))


class Metric:
    """As Triton's: gone with its family."""

    def __init__(self, family: weakref.ref[MetricFamily]) -> None:
        self.family = family

    def increment(self, value: float) -> None:
        family = self.family()
        assert family is not None, "the 'MetricFamily' has been deleted"
        assert value >= 0 or family.kind == family.GAUGE
        family.values[family.name] += value


class Request:
    """As the front end makes one: every value in a shape of its own."""

    def __init__(self, text: str, **values: Any) -> None:
        kinds = {"max_tokens": np.int32, "temperature": np.float32, "seed": np.uint64}
        self.inputs = {"text_input": np.array([[text.encode()]], dtype=np.object_)}
        for name, value in values.items():
            if name == "stop_words":
                self.inputs[name] = np.array([[each.encode() for each in value]], dtype=np.object_)
            else:
                self.inputs[name] = np.array([[value]], dtype=kinds.get(name, np.bool_))
        self.sender = Sender()

    def get_response_sender(self) -> Sender:
        return self.sender


class SamplingParams:
    def __init__(self, **told: Any) -> None:
        self.told = told


class One:
    def __init__(self) -> None:
        self.text = ""
        self.token_ids: list[int] = []


class Promise:
    """TensorRT-LLM's RequestOutput, as far as the program asks it."""

    def __init__(self, text: str, told: dict[str, Any], streaming: bool) -> None:
        words = text.split()
        self.prompt_token_ids = [*range(len(words) + told["add_special_tokens"])]
        self.endless = "endless" in words
        self.words = words[::-1][: told.get("max_tokens")]
        self.outputs, self.streaming = [One()], streaming
        self.finished = self.aborted = False

    def __aiter__(self) -> Promise:
        return self

    def abort(self) -> None:
        self.aborted = True

    async def __anext__(self) -> Promise:
        if self.finished:
            raise StopAsyncIteration
        one = self.outputs[0]
        while True:
            await asyncio.sleep(0)
            if self.words and not self.aborted:
                word = self.words[0] if self.endless else self.words.pop(0)
                one.text += f" {word}"
                one.token_ids.append(len(one.token_ids))
            self.finished = self.aborted or not self.words
            if self.finished or self.streaming:
                return self


class LLM:
    made: LLM

    class tokenizer:
        bos_token = "<s>"

    def __init__(self, **told: Any) -> None:
        self.told, self.asked, self.ended = told, list[dict[str, Any]](), False
        LLM.made = self

    def generate_async(self, text: str, params: SamplingParams, streaming: bool) -> Promise:
        self.asked.append(params.told)
        if text == "too long":
            raise ValueError("the prompt is longer than max_seq_len")
        return Promise(text, params.told, streaming)

    def shutdown(self) -> None:
        self.ended = True


def modules() -> dict[str, ModuleType]:
    """The two modules by name."""
    triton, engine = ModuleType("triton_python_backend_utils"), ModuleType("tensorrt_llm")
    told: dict[str, type] = {
        "Tensor": Tensor,
        "TritonError": TritonError,
        "InferenceResponse": InferenceResponse,
    }
    told["MetricFamily"] = MetricFamily
    vars(triton).update(told, TRITONSERVER_RESPONSE_COMPLETE_FINAL=FINAL)
    vars(triton)["get_input_tensor_by_name"] = lambda request, name: (
        Tensor(name, request.inputs[name]) if name in request.inputs else None
    )
    vars(engine).update(LLM=LLM, SamplingParams=SamplingParams)
    return {"triton_python_backend_utils": triton, "tensorrt_llm": engine}
