"""Takes a finished MiMo answer apart: reasoning, what the reader sees, and calls of tools.

    <think>REASONING</think>CONTENT
    <tool_call>
    <function=NAME>
    <parameter=KEY>VALUE</parameter>
    </function>
    </tool_call>

Values stand there as they are, newlines included; only the tool's schema tells 3 from "3".
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Answer", "ToolCall", "parse_answer"]

_OPEN, _CLOSE = "<think>", "</think>"
_CALL_START = re.compile(r"<tool_call>\s*<function=([^>\s]+)>")
_PARAMETER = re.compile(r"\s*<parameter=([^>\s]+)>(.*?)</parameter>", re.DOTALL)
_CALL_END = re.compile(r"\s*</function>\s*</tool_call>")


@dataclass(frozen=True)
class ToolCall:
    """One call: the function's name and its arguments, typed as its schema says."""

    name: str
    arguments: Mapping[str, object]


@dataclass(frozen=True)
class Answer:
    """The parts of an answer; ``reasoning`` is None where the model did not think."""

    reasoning: str | None
    content: str
    tool_calls: tuple[ToolCall, ...] = ()


def parse_answer(text: str, *, tools: Sequence[Mapping[str, object]] = ()) -> Answer:
    """Split ``text``, the model's words after the generation prompt.

    ``tools`` are the schemas that the prompt listed; arguments they do not describe stay strings.
    An answer cut off while thinking is all reasoning; a call that is cut off or malformed stays in
    the content, where it can be seen. Nothing in ``text`` raises.
    """
    reasoning, rest = _split_reasoning(text)
    content: list[str] = []
    calls: list[ToolCall] = []
    at = 0
    while start := _CALL_START.search(rest, at):
        parsed = _parse_call(rest, start, tools)
        if parsed is None:
            content.append(rest[at : start.end()])
            at = start.end()
            continue
        content.append(rest[at : start.start()])
        call, at = parsed
        calls.append(call)
    content.append(rest[at:])
    visible = "".join(content)
    return Answer(reasoning, visible.strip() if calls else visible, tuple(calls))


def _split_reasoning(text: str) -> tuple[str | None, str]:
    opened = text.lstrip().startswith(_OPEN)
    body = text.lstrip().removeprefix(_OPEN) if opened else text
    reasoning, closed, rest = body.partition(_CLOSE)
    if opened or closed:
        return reasoning, rest
    return None, text


def _parse_call(
    text: str, start: re.Match[str], tools: Sequence[Mapping[str, object]]
) -> tuple[ToolCall, int] | None:
    """The call that begins at ``start`` and where it ends, None if it is not well formed."""
    name, at = start[1], start.end()
    types = _parameter_types(name, tools)
    arguments: dict[str, object] = {}
    while parameter := _PARAMETER.match(text, at):
        key, value = parameter[1], parameter[2]
        arguments[key] = _typed(value, types.get(key, {"string"}))
        at = parameter.end()
    end = _CALL_END.match(text, at)
    return (ToolCall(name, arguments), end.end()) if end else None


def _parameter_types(name: str, tools: Sequence[Mapping[str, object]]) -> dict[str, set[str]]:
    """The JSON types of each parameter of the tool ``name`` that its schema gives."""
    for tool in tools:
        function = tool.get("function", tool)
        if not isinstance(function, Mapping) or function.get("name") != name:
            continue
        parameters = function.get("parameters")
        properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
        if isinstance(properties, Mapping):
            return {
                key: _types(schema)
                for key, schema in properties.items()
                if isinstance(schema, Mapping) and "type" in schema
            }
    return {}


def _types(schema: Mapping[str, object]) -> set[str]:
    kind = schema["type"]
    return set(kind) if isinstance(kind, list) else {str(kind)}


def _typed(value: str, types: set[str]) -> object:
    if "string" in types:
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
