"""``mimo-native generate`` on a tiny random model."""

import json
import os
import signal
import subprocess
import time

import pytest

import mimo_native as mn

from .command_line import COMMAND, ENVIRONMENT, assert_one_clear_line, mimo
from .tiny_checkpoint import save_tiny_checkpoint

SHORT = ("--max-tokens", "12", "--ignore-eos")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return str(save_tiny_checkpoint(tmp_path_factory.mktemp("model") / "tiny"))


@pytest.fixture(scope="module")
def answer(checkpoint) -> dict:
    """The reference run, as JSON."""
    result = mimo("generate", "Hello", "--model", checkpoint, *SHORT, "--json")
    assert result.returncode == 0, result
    return json.loads(result.stdout)


def test_json_holds_text_ids_and_speeds(answer):
    assert len(answer["token_ids"]) == answer["completion_tokens"] == 12
    assert answer["finish_reason"] == "length"
    assert answer["time_to_first_token"] > 0
    assert answer["decode_tokens_per_second"] > 0
    assert answer["logprobs"] is None


def test_it_is_what_the_library_generates(checkpoint, answer):
    model, tokenizer = mn.load(checkpoint)
    prompt = tokenizer.apply_chat([{"role": "user", "content": "Hello"}])
    sampling = mn.Sampling(temperature=0, max_tokens=12, ignore_eos=True)
    [completion] = mn.generate(model, [prompt], sampling=sampling)
    assert completion.token_ids == answer["token_ids"]
    assert completion.text == answer["text"]


def test_text_goes_to_stdout_and_speeds_to_stderr(checkpoint, answer):
    result = mimo("generate", "Hello", "--model", checkpoint, *SHORT)
    assert result.stdout == answer["text"] + "\n"
    for words in ("first token after", "prefill", "decode", "tokens/s", "ended by length"):
        assert words in result.stderr


@pytest.mark.parametrize("prompt", [(), ("-",)])
def test_a_prompt_on_standard_input(checkpoint, answer, prompt):
    command = ("generate", *prompt, "--model", checkpoint, *SHORT, "--json")
    for text in ("Hello", "Hello\n"):
        assert json.loads(mimo(*command, stdin=text).stdout)["token_ids"] == answer["token_ids"]
    nothing = mimo(*command, stdin="")
    assert nothing.returncode == 2
    assert "on standard input" in nothing.stderr


def test_raw_leaves_the_template_out(checkpoint, answer):
    arguments = ("generate", "Hello", "--model", checkpoint, *SHORT, "--raw", "--json")
    raw = json.loads(mimo(*arguments).stdout)
    assert raw["prompt_tokens"] < answer["prompt_tokens"]
    system = ("--system", "Be kind.", "--json")
    longer = json.loads(mimo("generate", "Hello", "--model", checkpoint, *SHORT, *system).stdout)
    assert longer["prompt_tokens"] > answer["prompt_tokens"]


def test_a_seed_repeats(checkpoint):
    sampled = ("--temperature", "1.0", "--top-p", "0.9", "--logprobs", "--json", *SHORT)

    def run(seed: str) -> dict:
        result = mimo("generate", "Hi", "--model", checkpoint, "--seed", seed, *sampled)
        return json.loads(result.stdout)

    first, again, other = run("1"), run("1"), run("2")
    assert first["token_ids"] == again["token_ids"] != other["token_ids"]
    assert first["seed"] == 1
    assert len(first["logprobs"]) == 12
    assert all(value <= 0 for value in first["logprobs"])


@pytest.mark.parametrize("options", [("--threads", "1"), ("--threads", "2")])
def test_threads_do_not_change_the_text(checkpoint, answer, options):
    result = mimo("generate", "Hello", "--model", checkpoint, *SHORT, "--json", *options)
    assert json.loads(result.stdout)["token_ids"] == answer["token_ids"]


def test_a_stop_text_ends_it(checkpoint, answer):
    stop = answer["text"][2:4]
    result = mimo("generate", "Hello", "--model", checkpoint, *SHORT, "--stop", stop, "--json")
    stopped = json.loads(result.stdout)
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == answer["text"][: answer["text"].index(stop)]


def test_options_without_effect_are_said(checkpoint):
    result = mimo("generate", "Hello", "--model", checkpoint, *SHORT, "--top-p", "0.5")
    assert "--top-p has no effect at temperature 0" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--temperature", "-1"), ("temperature", ">= 0", "-1")),
        (("--top-p", "0", "--temperature", "1"), ("top_p", "(0, 1]")),
        (("--max-tokens", "0"), ("max_tokens", ">= 1", "got 0")),
        (("--threads", "0"), ("--threads", ">= 1", "got 0")),
        (("--raw", "--system", "Be kind."), ("--system", "--raw")),
        (("--model", "no/such/place"), ("no/such/place", "expected")),
        (("--model", "missing.gguf"), ("missing.gguf", "on disk")),
    ],
)
def test_errors_are_one_line(checkpoint, arguments, words, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = () if "--model" in arguments else ("--model", checkpoint)
    assert_one_clear_line(mimo("generate", "Hello", *model, *arguments), *words)


def test_a_damaged_checkpoint_is_one_line(checkpoint, tmp_path):
    save_tiny_checkpoint(tmp_path / "copy")
    weights = max((tmp_path / "copy").glob("*.safetensors"), key=lambda p: p.stat().st_size)
    os.truncate(weights, weights.stat().st_size - 100)
    result = mimo("generate", "Hello", "--model", str(tmp_path / "copy"))
    assert_one_clear_line(result, weights.name, "expected", "got")


def test_interrupting_is_clean(checkpoint):
    long = ("--max-tokens", "100000", "--ignore-eos")
    process = subprocess.Popen(
        [*COMMAND, "generate", "Hello", "--model", checkpoint, *long],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        # Tests that run in the background inherit that interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout.read(10)  # it has begun to answer
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert b"ended by cancelled" in errors


def test_a_reader_that_goes_away_is_no_error(checkpoint):
    command = (
        f"{' '.join(COMMAND)} generate Hello --model {checkpoint} --max-tokens 2000 --ignore-eos"
        " | head -c 5"
    )
    result = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        env={**ENVIRONMENT, "OMP_NUM_THREADS": "1"},
        timeout=120,
        check=False,
    )
    assert result.returncode == 0
    assert b"Traceback" not in result.stderr
