"""torch.compile sees the sampler as one node and draws the same tokens."""

import torch

from mimo_native.ops import sample

from .cases import SampleCase

CASE = SampleCase(rows=3, vocab=50, temperature=(0.8,), top_p=(0.9,))


def test_compiled_equals_eager() -> None:
    torch._dynamo.reset()
    args = CASE.make()
    compiled = torch.compile(lambda: sample(**args), fullgraph=True, backend="aot_eager")
    for got, want in zip(compiled(), sample(**args), strict=True):
        assert got.equal(want)


def test_opcheck() -> None:
    args = CASE.make()
    order = torch.ops.mimo_native.sample.default._schema.arguments
    values = tuple(args.get(argument.name) for argument in order)
    torch.library.opcheck(torch.ops.mimo_native.sample.default, values)
