"""Clients from the package index, unchanged, against the running stack."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import anthropic
import httpx
import openai
import pytest

from stack import RunningStack


@pytest.fixture(scope="session")
def openai_client(stack: RunningStack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=stack.openai_url, api_key=stack.key, max_retries=0, timeout=60) as client:
        yield client


@pytest.fixture
async def openai_async(stack: RunningStack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.openai_url, api_key=stack.key, max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture(scope="session")
def anthropic_client(stack: RunningStack) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(
        base_url=stack.anthropic_url, api_key=stack.key, max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture
async def anthropic_async(stack: RunningStack) -> AsyncIterator[anthropic.AsyncAnthropic]:
    async with anthropic.AsyncAnthropic(
        base_url=stack.anthropic_url, api_key=stack.key, max_retries=0, timeout=60
    ) as client:
        yield client


@pytest.fixture(scope="session")
def http(stack: RunningStack) -> Iterator[httpx.Client]:
    """Plain HTTP with the right key, for what the clients hide."""
    headers = {"authorization": f"Bearer {stack.key}"}
    with httpx.Client(base_url=stack.url, headers=headers, timeout=60) as client:
        yield client
