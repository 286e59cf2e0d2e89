"""Renders a conversation into the text that a model was trained on, by its own Jinja template.

Templates come with checkpoints, so they run in a sandbox. The environment is the one such
templates are written for: block trimming, loop controls, ``raise_exception``, ``strftime_now``, a
``tojson`` that leaves HTML alone, and ``{% generation %}`` marks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn

from ..errors import CheckpointError, ShapeError, UnsupportedError

if TYPE_CHECKING:
    from jinja2 import Environment, Template

__all__ = ["ChatTemplate", "Message"]

Message = Mapping[str, object]


@dataclass(frozen=True)
class ChatTemplate:
    """A Jinja chat template; ``tokens`` are variables such as ``bos_token`` that it may print."""

    source: str
    tokens: Mapping[str, str] = field(default_factory=dict)

    def render(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        add_generation_prompt: bool = True,
        enable_thinking: bool | None = None,
        variables: Mapping[str, object] | None = None,
    ) -> str:
        """The prompt for ``messages``, mappings with "role" and "content".

        ``tools`` are JSON schemas of functions; ``enable_thinking`` None leaves the choice to the
        template; ``variables`` are any others that it reads. Raises ShapeError for messages that
        the template refuses, CheckpointError for a template that is not valid Jinja,
        UnsupportedError without the ``jinja2`` package.
        """
        _check(messages)
        known = {**self.tokens, **(variables or {})}
        if enable_thinking is not None:
            known["enable_thinking"] = enable_thinking
        template = _compile(self.source)
        try:
            return template.render(
                known,
                messages=[_with_parsed_arguments(message) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                add_generation_prompt=add_generation_prompt,
            )
        except Exception as error:  # a template is a program and may fail in any way
            raise ShapeError(
                "chat template",
                "messages",
                expected="a conversation that this model's template accepts",
                got=f"{type(error).__name__}: {error}".rstrip("."),
            ) from error


def _check(messages: Sequence[Message]) -> None:
    if isinstance(messages, str | Mapping):
        got = type(messages).__name__
    elif bad := [m for m in messages if not isinstance(m, Mapping) or not m.get("role")]:
        got = repr(bad[0])[:80]
    else:
        return
    raise ShapeError(
        "chat template",
        "messages",
        expected='a list of mappings with "role" and "content"',
        got=got,
    )


def _with_parsed_arguments(message: Message) -> dict[str, object]:
    """Templates walk through a call's arguments, which the OpenAI format holds as a JSON string."""
    calls = message.get("tool_calls")
    if not isinstance(calls, Sequence) or isinstance(calls, str):
        return dict(message)
    return {**message, "tool_calls": [_parsed_call(call) for call in calls]}


def _parsed_call(call: object) -> object:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _parsed_call(call["function"])}
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        return dict(call)
    try:
        return {**call, "arguments": json.loads(arguments)}
    except json.JSONDecodeError as error:
        raise ShapeError(
            "chat template",
            "tool_calls.arguments",
            expected="a mapping or its JSON text",
            got=f"{arguments[:80]!r} ({error})",
        ) from error


@lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    environment = _environment()
    from jinja2 import TemplateSyntaxError

    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise CheckpointError(
            "chat template",
            f"line {error.lineno}",
            expected="valid Jinja",
            got=str(error.message),
            remedy="Correct the model's chat_template.jinja.",
        ) from error


def _environment() -> Environment:
    try:
        from jinja2 import nodes
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError as error:
        raise UnsupportedError(
            "chat template",
            ["rendering needs the package jinja2, which is not installed"],
            remedy="Run `pip install 'mimo-native[serve]'`.",
        ) from error

    class GenerationMarks(Extension):
        """``{% generation %}`` surrounds what the model wrote; it prints nothing itself."""

        tags = frozenset({"generation"})

        def parse(self, parser):  # type: ignore[no-untyped-def]
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", GenerationMarks],
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    from jinja2 import TemplateError

    raise TemplateError(message)
