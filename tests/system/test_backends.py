"""The choice of a backend: declared capabilities, contexts, refusals with reasons."""

import inspect
import subprocess
import sys
import threading

import pytest
import torch

import mimo_native as mn
from mimo_native import UnsupportedError, backends, ops, reference

X = torch.ones(2, 1, 4, 8)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registry of the test's own, in which nothing is declared."""
    monkeypatch.setattr(backends, "_registry", {})
    monkeypatch.setattr(backends, "_settled", {})


@pytest.fixture
def attention(registry: None) -> None:
    """A CPU kernel that knows windows but no sinks, has no backward and wants heads of 8."""
    backends.register(
        "attention",
        "cpu",
        dtypes=(torch.float32,),
        options=("scale", "causal", "window_keys", "return_lse"),
        limit=lambda q, *_: None if q.shape[-1] == 8 else f"head dimension {q.shape[-1]}, not 8",
    )


def test_what_is_declared_is_served(attention: None) -> None:
    for _ in range(2):  # the second answer may come from memory
        assert backends.choose("attention", X, X, X, causal=True, window_keys=3) == "cpu"
        assert backends.choose("attention", X, X, X, sink=None, return_lse=False) == "cpu"


@pytest.mark.parametrize(
    ("tensor", "call", "reason"),
    [
        (X, {"sink": X}, "cpu: does not serve sink"),
        (X.double(), {}, "cpu: float64 is not one of float32"),
        (X[..., :4], {}, "cpu: head dimension 4, not 8"),
        (X, {"needs_grad": True}, "cpu: has no backward, and a gradient is needed"),
        (X.clone().requires_grad_(), {}, "cpu: has no backward, and a gradient is needed"),
        (X.to("meta"), {}, "cpu: the tensors are on 'meta'"),
    ],
)
def test_what_is_not_declared_is_refused(
    attention: None, tensor: torch.Tensor, call: dict, reason: str
) -> None:
    assert backends.choose("attention", X, X, X) == "cpu"
    with pytest.raises(UnsupportedError) as caught:
        backends.choose("attention", tensor, tensor, tensor, **call)
    assert reason in caught.value.reasons
    assert 'backends.use("reference")' in str(caught.value)
    with backends.use("reference"):
        assert backends.choose("attention", tensor, tensor, tensor, **call) == "reference"
    assert backends.choose("attention", X, X, X) == "cpu"


def test_a_limit_is_asked_every_time_where_all_options_are_served(registry: None) -> None:
    limit = {"reason": None}
    backends.register(
        "rms_norm",
        "cpu",
        dtypes=(torch.float32,),
        options=("eps",),
        limit=lambda *_: limit["reason"],
    )
    assert backends.choose("rms_norm", X, X) == "cpu"
    limit["reason"] = "too wide"
    with pytest.raises(UnsupportedError, match="too wide"):
        backends.choose("rms_norm", X, X)


def test_explain_says_who_runs_and_why_not_the_others(attention: None) -> None:
    answer = backends.explain("attention", X, X, X, window_keys=2)
    assert answer.backend == "cpu"
    assert repr(answer).splitlines() == [
        "attention: cpu runs",
        "  not cuda: the tensors are on 'cpu'",
        "  not reference: runs only where it is asked for",
    ]
    refused = backends.explain("attention", X.double().requires_grad_(), X, X, sink=X)
    assert refused.backend is None
    assert len(refused.reasons["cpu"]) == 3
    with backends.use("reference"):
        assert backends.explain("attention", X, X, X).reasons["cpu"] == (
            "'reference' is asked for",
        )
    with pytest.raises(UnsupportedError, match="no such operation"):
        backends.explain("atention", X)
    with pytest.raises(UnsupportedError, match="no option 'window'"):
        backends.explain("attention", X, window=3)
    assert backends.explain("linear", X, X).reasons["cpu"] == ("has no kernel for it",)


def test_explain_knows_the_kernels_of_a_fresh_process() -> None:
    code = (
        "import torch\n"
        "from mimo_native import backends\n"
        "assert backends.explain('rms_norm', torch.ones(2), torch.ones(2)).backend == 'cpu'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_contexts_nest_and_end() -> None:
    def chosen() -> str:
        return backends.choose("rms_norm", X, X)

    with backends.use("reference"):
        assert chosen() == "reference"
        with backends.use(None):
            assert chosen() == "cpu"
        with pytest.raises(ZeroDivisionError), backends.use("cpu"):
            raise ZeroDivisionError
        assert chosen() == "reference"
    assert chosen() == "cpu"
    with pytest.raises(UnsupportedError, match="no backend 'gpu'"), backends.use("gpu"):
        pass

    @backends.use("reference")
    def decorated() -> str:
        return chosen()

    assert (decorated(), chosen()) == ("reference", "cpu")


def test_another_thread_keeps_its_own_choice() -> None:
    seen = []
    with backends.use("reference"):
        thread = threading.Thread(target=lambda: seen.append(backends.choose("rms_norm", X, X)))
        thread.start()
        thread.join()
    assert seen == ["cpu"]


def test_the_reference_runs_through_the_op() -> None:
    x = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.ones(5, dtype=torch.float64)
    with pytest.raises(UnsupportedError):
        mn.ops.rms_norm(x, weight)
    with backends.use("reference"):
        mn.ops.rms_norm(x, weight).sum().backward()
    assert x.grad is not None


SHARED = sorted(set(ops.__all__) & set(reference.__all__))


@pytest.mark.parametrize("name", SHARED)
def test_reference_and_op_have_one_signature(name: str) -> None:
    of_op, of_reference = (
        {
            p.name: (p.kind, p.default)
            for p in inspect.signature(getattr(module, name)).parameters.values()
        }
        for module in (ops, reference)
    )
    assert of_op == of_reference


ONLY_CUDA = {"rope_cached"}  # the CPU packs keys when they are committed


@pytest.mark.parametrize("name", SHARED)
def test_the_cpu_serves_every_option_of_every_op(name: str) -> None:
    """So that the choice is remembered; one left out would be refused where it is asked for."""
    backend = "cuda" if name in ONLY_CUDA else "cpu"
    parameters = inspect.signature(getattr(reference, name)).parameters.values()
    options = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert backends._registry[name, backend].options == options
    assert (name in ONLY_CUDA) == ((name, "cpu") not in backends._registry)


def test_the_reference_needs_no_extension() -> None:
    code = (
        "import sys; sys.modules['mimo_native._C'] = None\n"
        "import torch, mimo_native\n"
        "from mimo_native import backends, reference\n"
        "x = torch.ones(2, 4)\n"
        "assert reference.linear(x, x).shape == (2, 2)\n"
        "with backends.use('reference'): assert backends.choose('linear', x, x) == 'reference'\n"
        "try: backends.choose('linear', x, x)\n"
        "except mimo_native.UnsupportedError as error: assert 'cannot be imported' in str(error)\n"
        "else: raise SystemExit('the extension was not missed')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_no_tensor_is_named_with_its_op() -> None:
    with pytest.raises(TypeError, match=r"rms_norm: expected a torch\.Tensor first, got ndarray"):
        ops.rms_norm(torch.ones(2, 8).numpy(), torch.ones(8))


def test_functorch_is_served_by_the_reference() -> None:
    weight, x = torch.ones(8), torch.randn(3, 2, 8)
    with pytest.raises(TypeError, match=r"backends\.use\(.reference.\)"):
        torch.vmap(lambda row: ops.rms_norm(row, weight))(x)
    with backends.use("reference"):
        got = torch.vmap(lambda row: ops.rms_norm(row, weight))(x)
        slope = torch.func.grad(lambda row: ops.rms_norm(row, weight).sum())(x)
    assert torch.allclose(got, reference.rms_norm(x, weight))
    leaf = x.clone().requires_grad_()
    assert torch.allclose(slope, torch.autograd.grad(ops.rms_norm(leaf, weight).sum(), leaf)[0])
