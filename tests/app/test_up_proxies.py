"""A key that is kept to a network, behind a proxy: a real stack."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stack_under_test import Stack, sextant, stack, until

pytestmark = pytest.mark.slow

DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {name: proxied}
spec:
  model: {name: sextant-nano}
  engine: {kind: embedded, slots: 1, threads: 1}
"""
TRUSTING = "  gateway: {trusted_proxies: [127.0.0.1]}\n"
CALLER = "203.0.113.7"


def key_of_a_network(of: Stack) -> str:
    made = sextant("key", "create", "--network", "203.0.113.0/24", "--json", f"--state={of.root}")
    assert made.returncode == 0, made.stderr
    return str(json.loads(made.stdout)["key"])


def ask(of: Stack, key: str, forwarded: str) -> int:
    body = {"model": "sextant-nano", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1}
    headers = {"Authorization": f"Bearer {key}", "X-Forwarded-For": forwarded}
    return of.ask("POST", "/v1/chat/completions", body, **headers).status


def test_the_caller_is_whom_a_trusted_proxy_names(tmp_path: Path) -> None:
    document = tmp_path / "document.yaml"
    document.write_text(DOCUMENT + TRUSTING)
    with stack(document=document) as one:
        key = key_of_a_network(one)
        assert ask(one, key, f"198.51.100.1, {CALLER}") == 200
        assert ask(one, key, f"{CALLER}, 198.51.100.1") == 403
        assert ask(one, key, "nonsense") == 403
        log = one.root / "logs" / "gateway.log"
        until(lambda: f'"peer":"{CALLER}"' in log.read_text(), "the access log names the caller")
        assert one.stop() == 0
    document.write_text(DOCUMENT)
    with stack(document=document) as one:
        assert ask(one, key_of_a_network(one), CALLER) == 403
