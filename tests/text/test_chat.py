"""Chat templates: MiMo's own word for word, any model's as transformers renders it, refusals."""

import json
import sys
from pathlib import Path

import pytest

from mimo_native.errors import CheckpointError, ShapeError, UnsupportedError
from mimo_native.text import MIMO_TEMPLATE, ChatTemplate, Tokenizer
from mimo_native.weights.gguf_file import GGUFFile

from .vocabularies import byte_level, gguf_metadata, save

SYSTEM = "<|im_start|>system\nYou are MiMo, a helpful AI assistant engineered by Xiaomi.<|im_end|>"
HELLO = [{"role": "user", "content": "Hello"}]
MIMO = ChatTemplate(MIMO_TEMPLATE)


def turn(role, text):
    return f"<|im_start|>{role}\n{text}<|im_end|>"


def test_mimo_prompts_word_for_word():
    user = turn("user", "Hello")
    start = "<|im_start|>assistant\n"
    assert MIMO.render(HELLO, enable_thinking=False) == SYSTEM + user + start + "<think></think>"
    assert MIMO.render(HELLO, enable_thinking=True) == SYSTEM + user + start
    assert MIMO.render(HELLO) == SYSTEM + user + start
    assert MIMO.render(HELLO, add_generation_prompt=False) == SYSTEM + user
    own = [{"role": "system", "content": "Be brief."}, *HELLO]
    assert MIMO.render(own, add_generation_prompt=False) == turn("system", "Be brief.") + user


@pytest.mark.parametrize(
    ("keep", "first", "last"), [(None, "why", "how"), (True, "why", "how"), (False, "", "how")]
)
def test_mimo_reasoning_in_the_history(keep, first, last):
    messages = [
        *HELLO,
        {"role": "assistant", "content": "Hi.", "reasoning_content": "why"},
        *HELLO,  # equal to the first: the last user turn goes by place, not by content
        {"role": "assistant", "content": "<think>how</think>Hi again."},
        {"role": "assistant", "content": "plain"},
    ]
    variables = {} if keep is None else {"keep_all_reasoning": keep}
    text = MIMO.render(messages, add_generation_prompt=False, variables=variables)
    assert text == (
        SYSTEM
        + turn("user", "Hello")
        + turn("assistant", f"<think>{first}</think>Hi.")
        + turn("user", "Hello")
        + turn("assistant", f"<think>{last}</think>Hi again.")
        + turn("assistant", "<think></think>plain")
    )


CALL = (
    "<tool_call>\n<function=search>\n<parameter=query>two\nlines & <b></parameter>\n"
    '<parameter=limit>3</parameter>\n<parameter=tags>["é"]</parameter>\n</function>\n</tool_call>'
)
ARGUMENTS = {"query": "two\nlines & <b>", "limit": 3, "tags": ["é"]}


@pytest.mark.parametrize("arguments", [ARGUMENTS, json.dumps(ARGUMENTS)], ids=["dict", "json"])
@pytest.mark.parametrize("wrapped", [True, False])
def test_mimo_tool_calls_and_results(arguments, wrapped):
    call = {"name": "search", "arguments": arguments}
    call = {"id": "1", "type": "function", "function": call} if wrapped else call
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": [{"type": "text", "text": "two"}]},
        *HELLO,
    ]
    result = "<tool_response>\n{}\n</tool_response>\n"
    assert MIMO.render(messages, add_generation_prompt=False) == (
        SYSTEM
        + turn("user", "Hello")
        + turn("assistant", "<think></think>" + CALL)
        + turn("tool", result.format("one") + result.format("two"))
        + turn("user", "Hello")
    )


def test_mimo_lists_the_tools():
    tool = {"type": "function", "function": {"name": "f", "description": "<é>"}}
    text = MIMO.render(HELLO, tools=[tool])
    assert text.startswith(SYSTEM.removesuffix("<|im_end|>") + "\n\n# Tools")
    assert '<tools>\n{"name": "f", "description": "<é>"}\n</tools>' in text
    assert "# Tools" not in MIMO.render(HELLO, tools=[])


def test_mimo_refuses_what_is_not_text():
    picture = [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]
    with pytest.raises(ShapeError, match="only text can be rendered, got a part of type image"):
        MIMO.render(picture)


TEMPLATES = {
    "marks": "{% for m in messages %}{% generation %}{{ m.content }}\n"
    "{% endgeneration %}{% endfor %}",
    "trim": "{% for m in messages %}\n  {% if m.role == 'user' %}\n  U: {{ m.content }}\n"
    "  {% endif %}\n{% endfor %}\n{{ bos_token }}|{{ eos_token }}\n",
    "loops": "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m | tojson }}"
    "{% endfor %}{% if add_generation_prompt %}>>{% endif %}",
    "tools": "{% if tools %}{{ tools | tojson(indent=2) }}{% endif %}{{ undefined_name }}.",
    "thinking": "{{ enable_thinking is defined }} {{ messages[0]['content'] | trim | upper }}",
    "scope": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("thinking", [None, True, False])
def test_any_template_renders_as_in_transformers(name, thinking):
    from transformers import PreTrainedTokenizerFast

    messages = [
        {"role": "user", "content": " naïve <b> & 漢字 "},
        {"role": "assistant", "content": "Hi"},
    ]
    tools = [{"type": "function", "function": {"name": "f", "description": "<é>"}}]
    peer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    extra = {} if thinking is None else {"enable_thinking": thinking}
    want = peer.apply_chat_template(
        messages,
        tools=tools,
        chat_template=TEMPLATES[name],
        tokenize=False,
        add_generation_prompt=True,
        **extra,
    )
    ours = ChatTemplate(
        TEMPLATES[name], {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}
    ).render(messages, tools=tools, enable_thinking=thinking)
    assert ours == want


def test_the_template_of_smollm2(smollm2_path):
    tokenizer = Tokenizer.from_pretrained(smollm2_path)
    ids = tokenizer.apply_chat(HELLO)
    assert tokenizer.decode(ids, skip_special=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids[0] == 1
    assert ids.count(2) == 2


def test_where_a_directory_keeps_its_template(tmp_path):
    path = save(
        tmp_path / "m",
        byte_level(),
        config={"model_type": "mimo_v2_flash"},
        tokenizer_config={"bos_token": "<|im_start|>"},
    )

    def rendered():
        chat = Tokenizer.from_pretrained(path).chat
        return chat and chat.render(HELLO)

    assert rendered() == MIMO.render(HELLO)
    config = {"bos_token": "<|im_start|>", "chat_template": "{{ bos_token }}from the config"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    assert rendered() == "<|im_start|>from the config"
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    (path / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert rendered() == "yes"
    (path / "chat_template.jinja").write_text("from the file")
    assert rendered() == "from the file"
    (path / "chat_template.jinja").unlink()
    (path / "tokenizer_config.json").unlink()
    (path / "config.json").write_text('{"model_type": "llama"}')
    assert rendered() is None


def test_a_rendered_prompt_gets_no_second_begin_token():
    template = "{{ bos_token }}{{ messages[0].content }}"
    metadata = {**gguf_metadata(add_bos_token=True), "tokenizer.chat_template": template}
    tokenizer = Tokenizer.from_gguf(GGUFFile(Path("small.gguf"), metadata, {}))
    ids = tokenizer.apply_chat(HELLO)
    assert ids.count(1) == 1
    assert ids == tokenizer.encode("Hello")


@pytest.mark.parametrize(
    ("messages", "got"),
    [
        ("Hello", "got str"),
        ({"role": "user", "content": "Hello"}, "got dict"),
        ([{"content": "Hello"}], r"got \{'content': 'Hello'\}"),
        (["Hello"], "got 'Hello'"),
    ],
)
def test_messages_of_the_wrong_form(messages, got):
    with pytest.raises(ShapeError, match=f'list of mappings with "role".*{got}'):
        MIMO.render(messages)


def test_a_template_may_refuse():
    strict = ChatTemplate("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(ShapeError, match=r"messages: .*got TemplateError: roles must alternate"):
        strict.render(HELLO)
    calls = [{"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": "{"}]}]
    with pytest.raises(ShapeError, match=r"tool_calls\.arguments: .*got '\{'"):
        MIMO.render(calls)


def test_templates_that_are_broken_or_hostile():
    with pytest.raises(CheckpointError, match="line 2: expected valid Jinja"):
        ChatTemplate("\n{% if %}").render(HELLO)
    for attack in (
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ raise_exception.__globals__.json }}",
        "{{ messages.append(1) }}",
        "{{ range(10**9) | list }}",
    ):
        with pytest.raises(ShapeError, match="chat template"):
            ChatTemplate(attack).render(HELLO)


def test_without_a_template_or_the_package(monkeypatch):
    with pytest.raises(UnsupportedError, match=r"no chat template.*chat_template\.jinja"):
        Tokenizer(byte_level()).apply_chat(HELLO)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(UnsupportedError, match=r"jinja2.*pip install 'mimo-native\[serve\]'"):
        ChatTemplate("a template no other test has compiled").render(HELLO)
