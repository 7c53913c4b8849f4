"""A process that behaves and misbehaves as told, for the supervisor's tests.

`python fake_process.py PORT MODE…` with the modes: `serve` (answers 200 on any path), `stubborn` (ignores
SIGTERM), `say TEXT` (last words on stderr), `exit N` (after `serve`, none), `child` (starts a child that
sleeps and prints its pid), `deaf` (accepts connections, never answers), `busy` (503 from the fourth request
on), `lazy` (answers `/health` and never `/work`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys


def main() -> None:
    port, modes = int(sys.argv[1]), sys.argv[2:]
    if "say" in modes:
        print(modes[modes.index("say") + 1], file=sys.stderr, flush=True)
    if "child" in modes:
        child = subprocess.Popen(["sleep", "1000"])
        print(f"child {child.pid}", flush=True)
    if "stubborn" in modes:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if "exit" in modes:
        os._exit(int(modes[modes.index("exit") + 1]))
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(16)
    answered, kept = 0, []
    while True:
        connection, _ = listener.accept()
        if "deaf" in modes:
            continue
        answered += 1
        asked = connection.recv(4096)
        if "lazy" in modes and b"/work" in asked:
            kept.append(connection)
            continue
        status = b"503 Busy" if "busy" in modes and answered > 3 else b"200 OK"
        with connection:
            connection.sendall(b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


if __name__ == "__main__":
    main()
