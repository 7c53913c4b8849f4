"""The embedded engine's process: `python -m sextant.engines.embedded_server --settings FILE`.

Starts llama.cpp's server on the port that the supervisor reserved and serves until SIGTERM. It dies with its
parent. Standard error goes to the engine's log; the last line before a failed start says what to do.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import Any

import msgspec

from sextant.base.config import resolve_secret, variable
from sextant.base.errors import Misconfigured, SextantError
from sextant.base.lifeline import PARENT_VARIABLE, bind_to_parent
from sextant.engines import openmp
from sextant.engines.cores import default_threads, usable_cores
from sextant.engines.embedded import HTTP_THREADS, EmbeddedSettings

CORES_EVERY_S = 5.0
"""How often the engine looks whether it still has its cores."""
SENT_CODES = frozenset({0, -1, -6, 128})
"""`si_code` of a signal that somebody sent: SI_USER, SI_QUEUE, SI_TKILL, and SI_KERNEL of a Ctrl-C."""
_LOG_WARNINGS = 2  # llama.cpp's verbosity; its higher levels print prompts


def main(argv: list[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Returns the exit status: 0 stopped, 75 to be started again on fewer
    cores, 78 misconfigured, 70 failed."""
    parser = argparse.ArgumentParser(prog="sextant.engines.embedded_server")
    parser.add_argument("--settings", required=True, type=Path)
    given = parser.parse_args(argv)
    parent = variable(PARENT_VARIABLE)
    bind_to_parent(int(parent) if parent else None)
    stop_signals = {signal.SIGTERM, signal.SIGINT}
    # Before llama.cpp starts its threads, so that they inherit the mask.
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    try:
        settings = fitted(msgspec.json.decode(given.settings.read_bytes(), type=EmbeddedSettings))
        server = start(settings, openmp_folder=given.settings.resolve().parent / "openmp")
    except (Misconfigured, msgspec.DecodeError, OSError) as error:
        print(f"sextant: {error}", file=sys.stderr, flush=True)
        return os.EX_CONFIG
    except SextantError as error:
        print(f"sextant: {error}", file=sys.stderr, flush=True)
        return os.EX_SOFTWARE
    print(f"sextant: engine answers on {server.listening_address}", file=sys.stderr, flush=True)
    stopped = serve_until_stopped(settings, stop_signals)
    print("sextant: engine stops", file=sys.stderr, flush=True)
    # Stopped, requests were drained by the gateway; short of cores, those under way would take minutes each
    # and end as an engine's failure, unbilled. llama.cpp's own teardown waits for idle connections.
    os._exit(0 if stopped else os.EX_TEMPFAIL)


def fitted(settings: EmbeddedSettings) -> EmbeddedSettings:
    """`settings` with no more counted threads than this process's own cores allow: whoever starts the engine
    may have more cores than it is given."""
    if not settings.threads_counted:
        return settings
    return msgspec.structs.replace(settings, threads=min(settings.threads, default_threads()))


def serve_until_stopped(
    settings: EmbeddedSettings, stop_signals: set[signal.Signals], *, look_every_s: float = CORES_EVERY_S
) -> bool:
    """Waits for a signal and returns True; False when cores were taken away (a pinned or resized container)
    and the counted threads no longer fit. OpenMP's threads spin while they wait for each other: two on one
    core answer 0.4 requests/s where one answers 65, so it is better to start again with fewer."""
    while not _is_sent(signal.sigtimedwait(stop_signals, look_every_s), stop_signals):
        cores = usable_cores()
        if settings.threads_counted and settings.threads > cores:
            print(
                f"sextant: {cores} cores are left to the engine, which has {settings.threads} threads; "
                f"it starts again with fewer",
                file=sys.stderr,
                flush=True,
            )
            return False
    return True


def _is_sent(received: signal.struct_siginfo | None, wanted: set[signal.Signals]) -> bool:
    """Whether one of the signals wanted was received. CPython answers with uninitialised memory when a wait
    is interrupted past its end, as by the SIGCONT after a freeze (a paused container, a suspended machine).
    """
    return received is not None and received.si_signo in wanted and received.si_code in SENT_CODES


def start(settings: EmbeddedSettings, openmp_folder: Path) -> Any:
    """llama.cpp's server, loaded and listening. Raises Misconfigured or SextantError saying why not.

    `openmp_folder` is where a link may be made when the system has no OpenMP library.
    """
    if not Path(settings.model_file).is_file():
        raise Misconfigured(f"the model file {settings.model_file} does not exist; check spec.model")
    xllamacpp = _library(openmp_folder)
    try:
        return xllamacpp.Server(parameters(settings, xllamacpp))
    except RuntimeError:
        raise SextantError(
            f"llama.cpp could not load {settings.model_file} or listen on {settings.host}:{settings.port}; "
            f"the lines above say why"
        ) from None


def _library(openmp_folder: Path) -> Any:
    """llama.cpp as a Python module. Raises Misconfigured saying what to install."""
    try:
        import xllamacpp
    except ImportError as error:
        way = "pip install xllamacpp"
        if "libgomp" in str(error):
            openmp.start_again_with_stand_in(openmp_folder)
            way = openmp.WAYS
        raise Misconfigured(f"llama.cpp cannot be loaded ({error}); run: {way}") from None
    return xllamacpp


def parameters(settings: EmbeddedSettings, xllamacpp: Any) -> Any:
    """`settings` as llama.cpp's parameters. Nothing is served but the API: no UI, no slots page, no CORS."""
    params = xllamacpp.CommonParams()
    params.model.path = settings.model_file
    params.model_alias = {settings.alias}
    params.hostnames = [settings.host]
    params.port = settings.port
    params.reuse_port = True  # the supervisor holds the port, bound but not listening
    params.api_keys = [resolve_secret(f"file:{settings.key_file}")]
    params.n_ctx = settings.context_tokens * settings.slots
    params.n_parallel = settings.slots
    params.cont_batching = True
    params.cache_prompt = True
    params.cache_ram_mib = settings.prompt_cache_mib
    params.n_batch = settings.batch_tokens
    params.n_ubatch = min(params.n_ubatch, settings.batch_tokens)
    params.cpuparams.n_threads = settings.threads
    params.cpuparams_batch.n_threads = settings.threads
    params.n_threads_http = HTTP_THREADS
    params.use_jinja = True
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_DEEPSEEK
    params.endpoint_metrics = True
    params.endpoint_slots = False
    params.endpoint_props = False
    params.ui = False
    params.cors_origins = "null"
    params.cors_origins_explicit = True
    params.cors_credentials = False
    params.ctx_shift = False  # a full context ends with finish_reason "length", never by forgetting the start
    params.fit_params = False
    params.offline = True
    params.verbosity = _LOG_WARNINGS
    return params


if __name__ == "__main__":
    sys.exit(main())
