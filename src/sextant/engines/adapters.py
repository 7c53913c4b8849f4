"""Every engine's adapter by its kind, `spec.engine.kind` of the document."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from sextant.base.errors import Misconfigured
from sextant.engines.embedded import EmbeddedEngine
from sextant.engines.llamacpp import LlamaCppEngine
from sextant.engines.mindie import MindieEngine
from sextant.engines.nim import NimEngine
from sextant.engines.protocol import EngineAdapter, Replica
from sextant.engines.remote import RemoteEngine
from sextant.engines.server_engine import ServerEngine
from sextant.engines.sglang import SglangEngine
from sextant.engines.triton import TritonEngine
from sextant.engines.trtllm import TrtllmEngine
from sextant.engines.vllm import VllmEngine
from sextant.spec.engine_data import Binding, engines
from sextant.spec.snapshot import Capabilities

ADAPTERS: Mapping[str, EngineAdapter] = MappingProxyType(
    {
        "embedded": EmbeddedEngine(),
        "remote": RemoteEngine(),
        "vllm": VllmEngine(),
        "sglang": SglangEngine(),
        "llamacpp": LlamaCppEngine(),
        "triton": TritonEngine(),
        "trtllm": TrtllmEngine(),
        "nim": NimEngine(),
        "mindie": MindieEngine(),
    }
)


def adapter_of(kind: str) -> EngineAdapter:
    """The adapter of `kind`. Raises Misconfigured naming the kinds there are."""
    found = ADAPTERS.get(kind)
    if found is None:
        raise Misconfigured(
            f"spec.engine.kind is {kind!r}; expected one of {', '.join(ADAPTERS)}", field="spec.engine.kind"
        )
    return found


def capabilities_of(kind: str, replica: Replica) -> Capabilities:
    """What the engine can do with this replica's model and options: tool calls and reasoning only where it
    has a parser for them. For `embedded` see `embedded.capabilities_of`; for `remote` the document says."""
    adapter = adapter_of(kind)
    if isinstance(adapter, ServerEngine):
        return adapter.capabilities_of(replica)
    return adapter.capabilities


def binding_of(kind: str) -> Binding:
    """What the engine sets on its listening socket. A port held for it must have been bound with the same
    option set (`state.reserve_port`); with `none`, let it go right before the start."""
    adapter_of(kind)
    return engines()[kind].binds_with
