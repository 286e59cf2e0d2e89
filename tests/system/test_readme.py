"""The front page: its commands are safe, its example runs, its paths exist."""

import re
from pathlib import Path

import pytest

import mimo_native as mn

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
COMMANDS = [block.strip() for kind, block in BLOCKS if kind == "sh"]
EXAMPLES = [block for kind, block in BLOCKS if kind == "python"]


def test_it_is_short():
    assert len(README.splitlines()) <= 100


def test_the_commands_never_fetch_a_cuda_torch():
    assert len(COMMANDS) == 2
    for command in COMMANDS:
        assert "torch==2.13.0 --extra-index-url https://download.pytorch.org/whl/cpu" in command
        assert command.startswith("PIP_RETRIES=0 ")


def test_the_checks_run_the_second_command():
    text = (ROOT / ".ci" / "run").read_text()
    wanted = re.search(r"grep -F '(.*)' README\.md", text)[1]
    assert [line for line in README.splitlines() if wanted in line] == COMMANDS[1:]


def test_the_first_example_runs(capsys):
    scope = {}
    exec(compile(EXAMPLES[0], "README.md", "exec"), scope)
    assert scope["out"].shape == (1, 2048, 64, 128)
    assert scope["lse"].shape == (1, 64, 2048)


def test_the_second_example_runs(smollm2_path, capsys):
    exec(compile(EXAMPLES[1], "README.md", "exec"), {"mn": mn})
    assert "Paris" in capsys.readouterr().out


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)#]+)\)", README))
def test_links_lead_somewhere(target):
    assert (ROOT / target).exists()


def test_it_says_whose_it_is_not():
    assert "Independent; not affiliated with or endorsed by Xiaomi" in README
