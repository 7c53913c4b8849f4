"""A process that behaves and misbehaves as told, for the supervisor's tests.

`python fake_process.py PORT MODE…` with the modes: `serve` (answers 200 on any path), `stubborn` (ignores
SIGTERM), `say TEXT` (last words on stderr), `exit N` (after `serve`, none), `child` (starts a child that
sleeps and prints its pid), `deaf` (accepts connections, never answers).
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
    while True:
        connection, _ = listener.accept()
        if "deaf" in modes:
            continue
        with connection:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok")


if __name__ == "__main__":
    main()
