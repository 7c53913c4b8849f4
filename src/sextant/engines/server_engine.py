"""What all adapters of engines that run as programs share: options, rules, the launch around argv.

An adapter says how its engine is called (`_call`); what it is called with, where it answers and what it
does differently are data (`spec/data/engines.toml`). Pure: neither disk nor network. Neighbours: one file per
engine; `adapters.py` finds them by kind.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import msgspec

from sextant.base.errors import Misconfigured
from sextant.engines.protocol import Launch, Replica, ServerOptions, ready_timeout_of
from sextant.spec.engine_data import EngineData, Rule, Traits, engines
from sextant.spec.snapshot import Capabilities, Quirks

CONTAINER_RUNTIMES = ("docker", "podman", "nerdctl")
_DEFAULTS = ServerOptions()


class Call(msgspec.Struct, frozen=True):
    """How one replica is called: after the command, and with what environment and files."""

    args: tuple[str, ...]
    env: Mapping[str, str] = {}
    files: Mapping[str, bytes] = {}


class ServerEngine:
    """An adapter for an engine that we start; subclasses add how it is called."""

    name = ""
    own_flags: frozenset[str] = frozenset()
    """Arguments that only the adapter writes, in each of their spellings: where the engine listens, its key,
    which model under which name, and the context, by which the gateway judges prompts."""
    own_variables: frozenset[str] = frozenset()
    """The same as environment variables."""

    @functools.cached_property
    def data(self) -> EngineData:
        """All that is known of this engine."""
        return engines()[self.name]

    @functools.cached_property
    def quirks(self) -> Quirks:
        return self.data.quirks

    @functools.cached_property
    def capabilities(self) -> Capabilities:
        return self.data.capabilities

    @functools.cached_property
    def metric_names(self) -> Mapping[str, str]:
        return self.data.metrics

    def launch(self, replica: Replica) -> Launch:
        """How to start and reach `replica`. Raises Misconfigured when an option is unknown, has a wrong value
        or means nothing to this engine."""
        data = self.data
        options = self._options(replica)
        name = self.upstream_model(replica)
        call = self._call(replica, options, name)
        key = {data.key_variable: f"file:{replica.key_file}"} if data.key_variable else {}
        ruled = [(name, value) for rule in self._rules(replica) for name, value in rule.env.items()]
        env = {**data.env, **dict(ruled), **call.env, **options.env}
        command = options.command or data.command
        waits_s = options.ready_timeout_s
        return Launch(
            argv=(*_with_environment(command, (*env, *key)), *call.args, *options.args),
            env=env,
            base_url=f"http://{replica.host}:{replica.port}{data.api_path}",
            health_path=data.health_path,
            metrics_path=data.metrics_path or None,
            ready_timeout_s=ready_timeout_of(replica.weights_bytes) if waits_s is None else waits_s,
            stop_timeout_s=options.stop_timeout_s,
            files=call.files,
            api_key_ref=f"file:{replica.key_file}" if key else None,
            upstream_model=name,
            secret_env=key,
        )

    def capabilities_of(self, replica: Replica) -> Capabilities:
        """What this engine can do with this replica's model: what hangs on an argument (a parser of tool
        calls) it has only where that is given."""
        given = {*self._ruled_args(replica), *self._options(replica).args}
        given |= {argument.partition("=")[0] for argument in given}
        flags = self.data.capability_flags
        missing: dict[str, Any] = {name: False for name, flag in flags.items() if flag not in given}
        return msgspec.structs.replace(self.capabilities, **missing)

    def upstream_model(self, replica: Replica) -> str:
        """The name under which the engine serves this model."""
        return replica.upstream_model or replica.model_id

    def _call(self, replica: Replica, options: ServerOptions, name: str) -> Call:
        """How the engine is called to serve `replica` as `name`."""
        raise NotImplementedError

    def _model(self, replica: Replica) -> str:
        """The model's file or folder. Raises Misconfigured where none is given."""
        if not replica.model_path:
            raise Misconfigured(
                f"engine {self.name}: it must be told what to load for {replica.model_id}; name the file or "
                f"folder in spec.model.source",
                field="spec.model.source",
            )
        return replica.model_path

    def _rules(self, replica: Replica) -> tuple[Rule, ...]:
        """The rules that apply to this model; none where nothing is known of it."""
        facts = replica.facts
        if facts is None:
            return ()
        return self.data.rules_for(Traits(facts.architecture, facts.chat_template, facts.sizes))

    def _ruled_args(self, replica: Replica) -> tuple[str, ...]:
        """The arguments that the rules give for this model."""
        return tuple(arg for rule in self._rules(replica) for arg in rule.args)

    def _typed(self, precision: str | None, dtype_flag: str, quantisation_flag: str) -> tuple[str, ...]:
        """`precision` as one of two arguments: engines tell a data type from a quantisation."""
        if precision is None:
            return ()
        is_dtype = self.data.is_dtype(precision)
        return (dtype_flag if is_dtype else quantisation_flag, precision)

    def _options(self, replica: Replica) -> ServerOptions:
        try:
            options = msgspec.convert(dict(replica.options), ServerOptions)
            _check(options)
        except (msgspec.ValidationError, ValueError) as error:
            known = ", ".join(ServerOptions.__struct_fields__)
            raise Misconfigured(
                f"engine {self.name}: {error}; its options are {known}", field="spec.engine"
            ) from None
        for option, reason in self.data.refused.items():
            if getattr(options, option) != getattr(_DEFAULTS, option):
                raise Misconfigured(
                    f"engine {self.name}: {option} is {getattr(options, option)}, which it cannot follow: "
                    f"{reason}",
                    field=f"spec.engine.{option}",
                )
        if options.backend is not None and not self.data.backends:
            raise Misconfigured(
                f"engine {self.name}: backend is {options.backend}, and it has none; remove it, or use "
                f"kind: triton",
                field="spec.engine.backend",
            )
        self._refuse_ours(options)
        return options

    def _refuse_ours(self, options: ServerOptions) -> None:
        """Raises Misconfigured where `args` or `env` say what the adapter says: the engine would follow the
        last word, and be watched and asked elsewhere."""
        flags = (argument.partition("=")[0] for argument in options.args)
        flag = next((each for each in flags if _spelled(each) in self.own_flags), None)
        ours = self.own_variables | {self.data.key_variable}
        name = next((each for each in options.env if each in ours), None)
        for field, found in (("args", flag), ("env", name)):
            if found is not None:
                raise Misconfigured(
                    f"engine {self.name}: spec.engine.{field} holds {found}, which is set from the rest of "
                    f"the document (address and key by Sextant itself); remove it",
                    field=f"spec.engine.{field}",
                )


def given(flag: str, value: object | None) -> tuple[str, ...]:
    """`flag` and its value as arguments; nothing where no value (None, zero, empty) is given."""
    return (flag, str(value)) if value else ()


def _spelled(flag: str) -> str:
    """`flag` as engines understand it: some take `_` for `-`."""
    return flag.replace("_", "-") if flag.startswith("--") else flag


def _check(options: ServerOptions) -> None:
    """Raises ValueError where a value of the right type makes no sense."""
    if options.tensor_parallel < 1:
        raise ValueError(f"tensor_parallel is {options.tensor_parallel}, expected 1 or more")
    if options.memory_share is not None and not 0 < options.memory_share <= 1:
        raise ValueError(f"memory_share is {options.memory_share}, expected more than 0 and at most 1")
    if options.max_sequences is not None and options.max_sequences < 1:
        raise ValueError(f"max_sequences is {options.max_sequences}, expected 1 or more")
    if options.ready_timeout_s is not None and options.ready_timeout_s <= 0:
        raise ValueError(f"ready_timeout_s is {options.ready_timeout_s}, expected more than 0")
    if options.stop_timeout_s < 0:
        raise ValueError(f"stop_timeout_s is {options.stop_timeout_s}, expected 0 or more")


def _with_environment(command: tuple[str, ...], names: tuple[str, ...]) -> tuple[str, ...]:
    """`command`; where it starts a container, told to hand these variables on, by name: values stay out of
    argv."""
    runs = len(command) > 1 and PurePath(command[0]).name in CONTAINER_RUNTIMES and command[1] == "run"
    if not runs:
        return command
    handed = [part for name in sorted(names) for part in ("--env", name)]
    return (*command[:2], *handed, *command[2:])
