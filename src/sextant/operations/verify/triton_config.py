"""Triton's model repositories: every `config.pbtxt` by Triton's own message, read without Triton.

The message comes with NVIDIA's client (`pip install sextant-llm[verify]`); its module is loaded by its file,
since its package imports all of gRPC. What is not installed is said, like a validator that is missing.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from sextant.operations.verify.findings import Fault, NotRun, Outcome, Ran
from sextant.operations.verify.subject import Subject

NAME = "config.pbtxt"
BY_TRITON = "config.pbtxt"
"""The name of this check, and of what it finds."""
MESSAGE = "grpc/model_config_pb2.py"
"""In NVIDIA's client."""
COUNTS = {"num_input_tokens", "num_output_tokens"}
"""Outputs that Triton's OpenAI front end makes `usage` of."""
OWN_COUNTS = ("vllm",)
"""Backends that add these outputs by themselves."""
AGAIN = "change the document and render again"
UNMETERED = (
    "add the outputs num_input_tokens and num_output_tokens, or accept that the gateway marks the usage of "
    "every answer as estimated"
)


def judge_triton(subject: Subject) -> Outcome:
    """What is wrong with the model configurations of a bundle, in files and in ConfigMaps."""
    found = dict(_configurations(subject))
    if not found:
        return Outcome()
    try:
        model_config()
        from google.protobuf import text_format
    except ImportError as error:
        why = f"{error}; pip install 'sextant-llm[verify]'"
        return Outcome(not_run=(NotRun(BY_TRITON, why),))
    faults = []
    for path, text in found.items():
        try:
            read = text_format.Parse(text, model_config())
        except text_format.ParseError as error:
            faults.append(Fault(BY_TRITON, f"is no model configuration: {error}", AGAIN, path))
            continue
        if not read.backend and not read.platform:
            faults.append(Fault(BY_TRITON, "names no backend, so Triton cannot load the model", AGAIN, path))
        lacking = COUNTS - {field.name for field in read.output}
        if lacking and read.backend not in OWN_COUNTS:
            said = f"does not answer {' and '.join(sorted(lacking))}, so its tokens are not counted"
            faults.append(Fault(BY_TRITON, said, UNMETERED, path))
    return Outcome(faults=tuple(faults), ran=(Ran(BY_TRITON, len(found), "files"),))


def model_config() -> Any:
    """An empty `ModelConfig`. Raises ImportError where NVIDIA's client or protobuf is not installed."""
    return _messages().ModelConfig()


@functools.cache
def _messages() -> Any:
    client = importlib.util.find_spec("tritonclient")
    if client is None or not client.submodule_search_locations:
        raise ImportError("tritonclient is not installed")
    spec = importlib.util.spec_from_file_location(
        "sextant_triton_model_config", Path(client.submodule_search_locations[0]) / MESSAGE
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"tritonclient holds no {MESSAGE}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _configurations(subject: Subject) -> Iterator[tuple[str, str]]:
    """Path and text of each; of what stands inside an object, the path ends in its key."""
    for path, text in subject.texts.items():
        if path.endswith(f"/{NAME}"):
            yield path, text
        elif NAME in text and path.endswith((".yaml", ".yml")):
            for body in subject.objects.get(path) or _read(text):
                yield from _inside(path, body)


def _read(text: str) -> tuple[Any, ...]:
    """What cannot be read is a fault by another rule."""
    try:
        return tuple(yaml.safe_load_all(text))
    except yaml.YAMLError:
        return ()


def _inside(path: str, body: Any) -> Iterator[tuple[str, str]]:
    """A ConfigMap's `data`, and a compose file's `configs`."""
    if not isinstance(body, Mapping):
        return
    data = body.get("data")
    configs = body.get("configs")
    if isinstance(data, Mapping):
        held = {str(key): value for key, value in data.items()}
    elif isinstance(configs, Mapping):
        held = {str(key): (each or {}).get("content") for key, each in configs.items()}
    else:
        return
    for key, text in held.items():
        if key.endswith((NAME, NAME.replace(".", "-"))):
            yield f"{path}#{key}", text if isinstance(text, str) else json.dumps(text)
