"""generate and stream: the engine for a list of prompts."""

from collections.abc import Iterator, Sequence

from ..cache import KvFormat
from ..errors import ShapeError, UnsupportedError
from ..nn import MiMoForCausalLM
from .engine import Engine
from .request import Completion, Piece
from .sampling import Sampling
from .speculation import Mode

__all__ = ["generate", "stream"]

Prompts = Sequence[str] | Sequence[Sequence[int]]


def generate(
    model: MiMoForCausalLM,
    prompts: Prompts,
    *,
    sampling: Sampling | Sequence[Sampling] | None = None,
    speculative: Mode | None = None,
    max_batch: int = 8,
    record_routing: bool = False,
    kv_format: KvFormat | None = None,
) -> list[Completion]:
    """Complete every prompt (token ids, or text where the model has a tokenizer), in order.

    sampling: one for all or one per prompt. speculative: draft with the MTP blocks and from the
    text so far, a "chain" or a "tree" each time, or what pays ("auto"); the output is the same.
    record_routing: keep the experts of every token fed.
    kv_format: how global layers store keys and values, as in ``model.new_cache``.
    Raises ShapeError before anything runs where a prompt or an option is wrong.
    """
    engine = _start(model, prompts, sampling, speculative, max_batch, record_routing, kv_format)
    while engine.has_work:
        engine.step()
    return [engine.finished[i].completion() for i in range(len(prompts))]


def stream(
    model: MiMoForCausalLM,
    prompts: Prompts,
    *,
    sampling: Sampling | Sequence[Sampling] | None = None,
    speculative: Mode | None = None,
    max_batch: int = 8,
    kv_format: KvFormat | None = None,
) -> Iterator[Piece]:
    """As ``generate``, but yields every request's pieces as they come."""
    engine = _start(model, prompts, sampling, speculative, max_batch, False, kv_format)
    while engine.has_work:
        yield from engine.step()


def _start(
    model: MiMoForCausalLM,
    prompts: Prompts,
    sampling: Sampling | Sequence[Sampling] | None,
    speculative: Mode | None,
    max_batch: int,
    record_routing: bool,
    kv_format: KvFormat | None,
) -> Engine:
    if isinstance(prompts, str):
        raise ShapeError(
            "generate",
            "prompts",
            expected="a list of prompts",
            got="a string",
            remedy="Put it in a list.",
        )
    encoded = [_encode(model, prompt) for prompt in prompts]
    if sampling is None or isinstance(sampling, Sampling):
        sampling = [sampling or Sampling()] * len(encoded)
    if len(sampling) != len(encoded):
        raise ShapeError(
            "generate",
            "sampling",
            expected=f"one, or one per prompt ({len(encoded)})",
            got=str(len(sampling)),
        )
    longest = max(
        (len(p) + s.max_tokens for p, s in zip(encoded, sampling, strict=True)), default=1
    )
    engine = Engine(
        model,
        max_batch=max(1, min(max_batch, len(encoded))),
        max_tokens=longest,
        record_routing=record_routing,
        speculative=speculative,
        kv_format=kv_format,
    )
    for prompt, controls in zip(encoded, sampling, strict=True):
        engine.add(prompt, controls)
    return engine


def _encode(model: MiMoForCausalLM, prompt: str | Sequence[int]) -> Sequence[int]:
    if not isinstance(prompt, str):
        return prompt
    if model.tokenizer is None:
        raise UnsupportedError(
            "generate",
            ["text prompts need a tokenizer and this model has none"],
            remedy="Pass token ids, or set model.tokenizer.",
        )
    return model.tokenizer.encode(prompt)
