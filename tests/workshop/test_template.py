"""The chat template: golden renderings, in Python and by the engine's own Jinja."""

from __future__ import annotations

from sextant.workshop.nano import template

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
                "days": {"type": "array", "items": {"type": "integer"}},
            },
            "required": ["city"],
        },
    },
}
CALL = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "北京"}'}}
TOOL_TURNS = [
    {"role": "user", "content": "北京天气?"},
    {"role": "assistant", "content": None, "reasoning_content": "Call get_weather", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": '{"t": 3}'},
]
OFFER = (
    "\n\n## Tools\nget_weather: Get the weather\n- city (string, required): The city\n"
    '- unit (string, one of ["celsius", "fahrenheit"])\n'
    '- days ({"type": "array", "items": {"type": "integer"}})'
)
MADE = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>"
    '{"city": "北京"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>'
)


def test_a_question_with_a_system_prompt():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert template.render(messages) == "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜><think>"


def test_thinking_off_closes_the_reasoning():
    messages = [{"role": "user", "content": "Hi"}]
    assert (
        template.render(messages, thinking=False)
        == "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜><think></think>"
    )


def test_earlier_reasoning_is_dropped_however_it_comes_back():
    for answer in (
        {"role": "assistant", "content": "4", "reasoning_content": "2+2"},
        {"role": "assistant", "content": "<think>2+2</think>\n4"},
    ):
        messages = [{"role": "user", "content": "2+2"}, answer, {"role": "user", "content": "1+1"}]
        assert template.render(messages) == (
            "<｜begin▁of▁sentence｜><｜User｜>2+2<｜Assistant｜><think></think>4<｜end▁of▁sentence｜>"
            "<｜User｜>1+1<｜Assistant｜><think>"
        )


def test_tools_calls_and_results_keep_the_reasoning_of_their_own_turn():
    assert template.render(TOOL_TURNS, tools=[WEATHER]) == (
        f"<｜begin▁of▁sentence｜>{OFFER}<｜User｜>北京天气?"
        f"<｜Assistant｜><think>Call get_weather</think>{MADE}<｜end▁of▁sentence｜>"
        '<｜tool▁output▁begin｜>{"t": 3}<｜tool▁output▁end｜><｜Assistant｜><think>'
    )


def test_content_parts_are_joined():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert template.render([{"role": "user", "content": parts}]).endswith(
        "<｜User｜>ab<｜Assistant｜><think>"
    )


def test_completion_with_and_without_reasoning():
    assert template.completion(thinking="x", content="y") == "x</think>y<｜end▁of▁sentence｜>"
    assert template.completion(thinking=None, content="y") == "y<｜end▁of▁sentence｜>"
    assert (
        template.completion(thinking="", content="", tool_calls=[CALL])
        == f"</think>{MADE}<｜end▁of▁sentence｜>"
    )
