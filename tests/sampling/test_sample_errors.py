"""Whatever is wrong with a request, sample says so and returns nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimo_native import ShapeError, UnsupportedError, ops, reference

from .native import draw

NAN, INF = float("nan"), float("inf")


def ints(*values: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)


@pytest.mark.parametrize(
    ("controls", "argument"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": NAN}, "temperature"),
        ({"temperature": INF}, "temperature"),
        ({"temperature": torch.ones(3)}, "temperature"),
        ({"temperature": torch.ones(2, 1)}, "temperature"),
        ({"temperature": torch.ones(2).double()}, "temperature"),
        ({"temperature": torch.ones(4)[::2]}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": torch.ones(2)}, "top_k"),
        ({"top_k": ints(1, 1, dtype=torch.int64)}, "top_k"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_p": -0.5}, "top_p"),
        ({"min_p": 1.5}, "min_p"),
        ({"min_p": NAN}, "min_p"),
        ({"seed": ints(1, dtype=torch.int64)}, "seed"),
        ({"seed": ints(1, 2)}, "seed"),
        ({"position": ints(0, -1, dtype=torch.int64)}, "position"),
        ({"position": torch.zeros(2)}, "position"),
        ({"repetition_penalty": 1.5}, "history"),
        ({"presence_penalty": 0.5, "history": ints(0, 1)}, "history"),
        ({"presence_penalty": 0.5, "history": ints(0, 3)[:, None]}, "history"),
        ({"presence_penalty": 0.5, "history": ints(0, -2)[:, None]}, "history"),
        ({"presence_penalty": 0.5, "history": ints(0)[:, None]}, "history"),
        ({"presence_penalty": 0.5, "history": torch.zeros(2, 1)}, "history"),
        ({"repetition_penalty": 0.0, "history": ints(0, 1)[:, None]}, "repetition_penalty"),
        ({"frequency_penalty": INF, "history": ints(0, 1)[:, None]}, "frequency_penalty"),
        ({"prompt_lens": ints(-1, 0)}, "prompt_lens"),
    ],
)
def test_bad_controls_are_refused(controls: dict, argument: str) -> None:
    with pytest.raises(ShapeError) as caught:
        draw(torch.zeros(2, 3), **controls)
    assert caught.value.argument == argument


@pytest.mark.parametrize(
    "logits",
    [torch.zeros(3), torch.zeros(()), torch.zeros(2, 0), torch.zeros(2, 2, 3), torch.zeros(3, 2).T],
)
def test_bad_logits_are_refused(logits: torch.Tensor) -> None:
    rows = torch.zeros(logits.shape[:1], dtype=torch.int64)
    with pytest.raises(ShapeError, match="logits"):
        ops.sample(logits, seed=rows, position=rows)


def test_other_dtypes_are_refused_with_the_way_out() -> None:
    for dtype in (torch.float16, torch.float64, torch.int64):
        with pytest.raises(UnsupportedError, match="bfloat16, float32"):
            draw(torch.zeros(2, 3, dtype=dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at", [0, 17, 1023, 1024, 2000])
@pytest.mark.parametrize("controls", [{}, {"temperature": 0.0}, {"top_k": 3}])
def test_nan_and_infinity_are_found_anywhere(
    controls: dict, at: int, dtype: torch.dtype, isa: str
) -> None:
    for value, text in ((NAN, "nan"), (INF, "inf")):
        logits = torch.zeros(3, 2001, dtype=dtype)
        logits[1, at] = value
        with pytest.raises(ShapeError, match=f"{text} in row 1, id {at}"):
            draw(logits, **controls)


def test_rows_without_a_finite_logit_are_refused(isa: str) -> None:
    logits = torch.zeros(3, 40)
    logits[2] = -INF
    with pytest.raises(ShapeError, match="a row of -inf"):
        draw(logits)
    logits[2, 39] = NAN
    with pytest.raises(ShapeError, match="nan in row 2, id 39"):
        draw(logits)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(0, 3),
    vocab=st.integers(1, 6),
    values=st.lists(st.sampled_from([0.0, 1.5, -2.0, -INF, INF, NAN]), min_size=18, max_size=18),
    temperature=st.sampled_from([None, 0.0, 0.5, -1.0, NAN]),
    top_k=st.sampled_from([None, 0, 2, 9, -1]),
    top_p=st.sampled_from([None, 0.0, 0.75, 1.0, 1.1]),
    penalty=st.sampled_from([None, 1.25, 0.0]),
    history=st.lists(st.integers(-2, 6), min_size=0, max_size=4),
)
def test_native_and_reference_refuse_the_same(
    rows: int, vocab: int, values: list, temperature, top_k, top_p, penalty, history: list
) -> None:
    """Any combination is either served alike or refused by both."""

    def column(value, dtype=torch.float32):
        return None if value is None else torch.full((rows,), value, dtype=dtype)

    args = {
        "logits": torch.tensor(values)[: rows * vocab].view(rows, vocab),
        "seed": torch.arange(rows),
        "position": torch.arange(rows),
        "temperature": column(temperature),
        "top_k": column(top_k, torch.int32),
        "top_p": column(top_p),
        "repetition_penalty": column(penalty),
        "history": torch.tensor(history, dtype=torch.int32).repeat(rows, 1),
    }
    answers = []
    for sample in (ops.sample, reference.sample):
        try:
            answers.append(sample(**args)[0].tolist())
        except ShapeError:
            answers.append("refused")
    assert answers[0] == answers[1]
