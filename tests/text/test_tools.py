"""Parsing answers: what the template writes comes back, and nothing a model says raises."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimo_native.text import MIMO_TEMPLATE, ChatTemplate
from mimo_native.text.tools import Answer, ToolCall, parse_answer

PROPERTIES = {
    "query": {"type": "string"},
    "limit": {"type": "integer"},
    "ratio": {"type": ["number", "null"]},
    "deep": {"type": "boolean"},
    "tags": {"type": "array"},
    "where": {"type": "object"},
}
TOOLS = [
    {"type": "function", "function": {"name": "other", "parameters": {"properties": {}}}},
    {"type": "function", "function": {"name": "search", "parameters": {"properties": PROPERTIES}}},
]
PLAIN = st.text().filter(lambda text: "</parameter>" not in text)
ARGUMENTS = st.fixed_dictionaries(
    {},
    optional={
        "query": PLAIN,
        "limit": st.integers(),
        "ratio": st.none() | st.floats(allow_nan=False),
        "deep": st.booleans(),
        "tags": st.lists(st.text(alphabet="abc é\n")),
        "where": st.dictionaries(st.text(alphabet="xyz"), st.integers()),
    },
)


def written(message):
    """What a model would have to write to produce ``message``."""
    prompt = [{"role": "user", "content": "Hello"}]
    template = ChatTemplate(MIMO_TEMPLATE)
    before = template.render(prompt)
    after = template.render([*prompt, message], add_generation_prompt=False)
    return after.removeprefix(before).removesuffix("<|im_end|>")


@given(st.lists(ARGUMENTS, max_size=3), st.text(alphabet="abc <>/\n"))
def test_calls_come_back_as_they_were(arguments, reasoning):
    calls = [{"name": "search", "arguments": each} for each in arguments]
    message = {
        "role": "assistant",
        "content": "Let me look.",
        "reasoning_content": reasoning,
        "tool_calls": calls,
    }
    answer = parse_answer(written(message), tools=TOOLS)
    expected = tuple(ToolCall("search", each) for each in arguments)
    assert answer == Answer(reasoning, "Let me look.", expected)


@given(st.text(alphabet="<>/=\n") | st.lists(st.sampled_from(
    ["<think>", "</think>", "<tool_call>", "\n", "<function=f>", "<parameter=k>", "</parameter>",
     "</function>", "</tool_call>", "x"])).map("".join))  # fmt: skip
def test_nothing_a_model_says_raises_or_disappears(text):
    answer = parse_answer(text, tools=TOOLS)
    kept = (answer.reasoning or "") + answer.content
    # Of parameters with one name the last counts, so only texts without any can be weighed.
    assert "<parameter" in text or kept.count("x") == text.count("x")


@pytest.mark.parametrize(
    ("text", "reasoning", "content"),
    [
        ("Hello", None, "Hello"),
        ("<think></think>Hello", "", "Hello"),
        ("\n<think>\nwhy\n</think>\n\nHello", "\nwhy\n", "\n\nHello"),
        ("why</think>Hello", "why", "Hello"),  # the prompt had opened the block
        ("<think>cut off", "cut off", ""),
        ("Hello <think>", None, "Hello <think>"),
        ("", None, ""),
    ],
)
def test_reasoning(text, reasoning, content):
    assert parse_answer(text) == Answer(reasoning, content)


def test_content_around_calls_is_kept_and_trimmed():
    call = "<tool_call>\n<function=f>\n</function>\n</tool_call>"
    answer = parse_answer(f"First.\n{call}\n{call}\nLast.\n")
    assert answer.content == "First.\n\n\nLast."
    assert answer.tool_calls == (ToolCall("f", {}), ToolCall("f", {}))


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\n<function=f>\n<parameter=k>cut",
        "<tool_call>\n<function=f>\n<parameter=k>v</parameter>\n</function>\n",
        "<tool_call>\n<function=f>\nsomething else\n</function>\n</tool_call>",
        "<tool_call>{}</tool_call>",
    ],
)
def test_malformed_calls_stay_visible(text):
    assert parse_answer(text) == Answer(None, text)


def test_a_good_call_after_a_broken_one_is_found():
    good = "<tool_call>\n<function=g>\n</function>\n</tool_call>"
    answer = parse_answer("<tool_call>\n<function=f>\nnothing\n" + good)
    assert answer.tool_calls == (ToolCall("g", {}),)
    assert answer.content == "<tool_call>\n<function=f>\nnothing"


def test_a_value_too_deep_to_parse_stays_text():
    deep = "[" * 100_000
    call = f"<tool_call><function=search><parameter=tags>{deep}</parameter></function></tool_call>"
    assert parse_answer(call, tools=TOOLS).tool_calls[0].arguments == {"tags": deep}


def test_values_are_verbatim_and_typed_only_by_the_schema():
    body = "<parameter=query> 3\n</parameter>\n<parameter=limit>3</parameter>\n"
    body += "<parameter=deep>perhaps</parameter>\n<parameter=code></function></parameter>\n"
    text = "<tool_call>\n<function=search>\n" + body + "</function>\n</tool_call>"
    typed = {"query": " 3\n", "limit": 3, "deep": "perhaps", "code": "</function>"}
    assert parse_answer(text, tools=TOOLS).tool_calls == (ToolCall("search", typed),)
    bare = [tool["function"] for tool in TOOLS]
    assert parse_answer(text, tools=bare) == parse_answer(text, tools=TOOLS)
    assert parse_answer(text).tool_calls[0].arguments["limit"] == "3"
