"""LangChain's OpenAI integration, unchanged, on chat completions and on Responses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import openai
import pydantic
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from stack import MODEL, RunningStack

pytestmark = pytest.mark.slow

SUM = "What is 123 + 456?"
Maker = Callable[..., ChatOpenAI]


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"21 degrees in {city}"


class Person(pydantic.BaseModel):
    """A person."""

    name: str
    age: int


class Place(pydantic.BaseModel):
    """Get the weather of a city."""

    city: str


@pytest.fixture(params=[False, True], ids=["chat", "responses"])
def make(request: pytest.FixtureRequest, stack: RunningStack) -> Maker:
    def build(**options: Any) -> ChatOpenAI:
        given: dict[str, Any] = {
            "base_url": stack.openai_url,
            "api_key": stack.key,
            "model": MODEL,
            "temperature": 0,
            "max_retries": 0,
            "use_responses_api": request.param,
            **options,
        }
        return ChatOpenAI(**given)

    return build


def test_invoke(make: Maker) -> None:
    answer = make().invoke([SystemMessage("You are a helpful assistant."), HumanMessage(SUM)])
    assert isinstance(answer, AIMessage)
    assert "579" in answer.text
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0


def test_stream(make: Maker) -> None:
    pieces = list(make(stream_usage=True).stream(SUM))
    assert len(pieces) > 2
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert "579" in whole.text
    assert whole.usage_metadata is not None
    assert whole.usage_metadata["output_tokens"] > 0


async def test_async(make: Maker) -> None:
    # its own cached connections would outlive this test's event loop
    async with httpx2.AsyncClient() as connections:
        model = make(http_async_client=connections)
        assert "579" in (await model.ainvoke(SUM)).text
        assert "579" in "".join([piece.text async for piece in model.astream(SUM)])


def test_tools_and_the_turn_with_their_result(make: Maker) -> None:
    asked = HumanMessage("What is the weather in Paris?")
    answer = make().bind_tools([get_weather], tool_choice="required").invoke([asked])
    (call,) = answer.tool_calls
    assert call["name"] == "get_weather"
    result = ToolMessage(get_weather.invoke(call["args"]), tool_call_id=call["id"])
    after = make().bind_tools([get_weather]).invoke([asked, answer, result])
    assert after.text
    assert not after.tool_calls


def test_structured_output(make: Maker) -> None:
    form = make().with_structured_output(Person, method="json_schema")
    assert isinstance(form.invoke("Anna is 31 years old. Give JSON."), Person)
    call = make().with_structured_output(Place, method="function_calling")
    assert isinstance(call.invoke("What is the weather in Paris?"), Place)


def test_errors(make: Maker) -> None:
    with pytest.raises(openai.AuthenticationError):
        make(api_key="sk-wrong").invoke(SUM)
    with pytest.raises(openai.NotFoundError):
        make(model="no-such-model").invoke(SUM)
    with pytest.raises(openai.BadRequestError):
        make(temperature=5).invoke(SUM)
