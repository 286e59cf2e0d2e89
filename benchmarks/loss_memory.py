"""CPU time and working memory of one forward and backward of the cross-entropy over a vocabulary.

    python -m benchmarks.loss_memory ours 512 4096 bf16
    python -m benchmarks.loss_memory torch 512 4096 bf16

One process per line: the peak of the resident set, from which the inputs that are already there,
the loss and both gradients are taken off. Linux only.
"""

import argparse
import time

import torch
import torch.nn.functional as F

import mimo_native as mn

from .resident import peak_growth

_LOSSES = {"ours": mn.ops.linear_cross_entropy, "torch": F.linear_cross_entropy}
_DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("whose", choices=_LOSSES)
    parser.add_argument("rows", type=int)
    parser.add_argument("width", type=int)
    parser.add_argument("dtype", choices=_DTYPES)
    parser.add_argument("--vocab", type=int, default=152_576)
    args = parser.parse_args()
    torch.set_num_threads(1)
    loss, dtype = _LOSSES[args.whose], _DTYPES[args.dtype]
    hidden = torch.randn(args.rows, args.width).to(dtype).requires_grad_()
    weight = torch.empty(args.vocab, args.width, dtype=dtype)
    for part in weight.split(8192):
        part.copy_(torch.randn(part.shape) / args.width**0.5)
    weight.requires_grad_()
    targets = torch.randint(args.vocab, (args.rows,))
    few = hidden.detach()[:8].clone().requires_grad_(), weight.detach()[:1024].clone()
    loss(few[0], few[1].requires_grad_(), targets[:8] % 1024).backward()

    began = time.process_time()
    growth = peak_growth(lambda: loss(hidden, weight, targets).backward())
    seconds = time.process_time() - began
    workspace = growth - sum(t.numel() * t.element_size() for t in (hidden, weight))
    print(f"{args.whose} {args.rows} {args.width} {args.dtype}: {seconds:.2f} s CPU, "
          f"{workspace / 1e6:.0f} MB workspace")  # fmt: skip


if __name__ == "__main__":
    main()
