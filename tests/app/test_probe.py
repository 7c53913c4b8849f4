"""Probes: what counts as an answer, and how a failure is told."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sextant.app.probe import ProbeFailed, connect_probe, http_probe, ledger_probe
from stack_under_test import free_port


@asynccontextmanager
async def answering(data: bytes | None) -> AsyncIterator[str]:
    """A server that answers every request with `data`, or never."""
    serving: list[tuple[asyncio.Task[None] | None, asyncio.StreamWriter]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append((asyncio.current_task(), writer))
        await reader.readuntil(b"\r\n\r\n")
        if data is None:
            await asyncio.sleep(3600)
        else:
            writer.write(data)
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task, writer in serving:
            if task is not None:
                task.cancel()
            writer.transport.abort()
        await asyncio.gather(*(task for task, _ in serving if task), return_exceptions=True)


async def test_200_is_well() -> None:
    async with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as url:
        await http_probe(f"{url}/health", lambda: {"Authorization": "Bearer x"})()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"HTTP/1.1 503 No\r\n\r\n", "answered 503"),
        (b"HTTP/1.1 401 No\r\n\r\n", "its API key is not accepted"),
        (b"HTTP/1.1 404 No\r\n\r\n", "is the base URL the API's root"),
        (b"SSH-2.0-OpenSSH\r\n", "not HTTP"),
        (b"", "not HTTP"),
        (None, "no answer within 0.2 s"),
    ],
)
async def test_anything_else_is_told(data: bytes | None, said: str) -> None:
    async with answering(data) as url:
        with pytest.raises(ProbeFailed, match=said):
            await http_probe(f"{url}/health", timeout_s=0.2)()


async def test_an_endless_line_is_bounded() -> None:
    async with answering(b"HTTP/1.1 200 " + b"x" * (2 * 1024 * 1024)) as url:
        with pytest.raises(ProbeFailed):
            await http_probe(f"{url}/health")()


async def test_nothing_listens(tmp_path: Path) -> None:
    port = free_port()
    for probe in (
        http_probe(f"http://127.0.0.1:{port}/health"),
        connect_probe("127.0.0.1", port),
    ):
        with pytest.raises(ProbeFailed, match="nothing listens there"):
            await probe()
    with pytest.raises(ProbeFailed, match="No such file"):
        await ledger_probe(tmp_path / "none.sock")()


async def test_connects_count(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        await connect_probe("127.0.0.1", server.getsockname()[1])()


async def test_a_ledger_that_stands_still_is_no_ledger(tmp_path: Path) -> None:
    """The kernel takes connections for a process that is stopped; only a greeting shows that it works."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        with pytest.raises(ProbeFailed, match="no greeting within"):
            await ledger_probe(tmp_path / "s", timeout_s=0.2)()


async def test_a_ledger_that_works_greets(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *(
            "-m",
            "sextant.app.ledger_process",
            "--db",
            str(tmp_path / "l.db"),
            "--socket",
            str(tmp_path / "s"),
        ),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(20):
            while not (tmp_path / "s").exists():
                await asyncio.sleep(0.02)
        await ledger_probe(tmp_path / "s")()
        process.send_signal(signal.SIGSTOP)
        with pytest.raises(ProbeFailed):
            await ledger_probe(tmp_path / "s", timeout_s=0.2)()
    finally:
        process.kill()
        await process.wait()
