"""Kernels of one instruction: every thread loads operands, executes it and stores the result."""

from collections.abc import Sequence

import torch

from mimo_native.testing import ptxsim

HEADER = ".version 8.5\n.target sm_90a\n.address_size 64\n"


def ptx_type(tensor: torch.Tensor) -> tuple[str, int]:
    size = tensor.element_size()
    return {1: "b8", 2: "b16", 4: "b32", 8: "b64"}[size], size


def elementwise(body: str, inputs: Sequence[torch.Tensor], output: torch.Tensor) -> str:
    """PTX whose thread i has %in0, %in1 .. = inputs[k][i] and stores %out to output[i].

    Eight-bit values are in 16-bit registers. ``body`` may use %p0..%p7, %r0..%r7, %rd0..%rd7.
    """
    lines = [HEADER, ".visible .entry kernel("]
    names = [f"in{k}" for k in range(len(inputs))] + ["out"]
    lines.append(",\n".join(f"  .param .u64 p_{name}" for name in names))
    lines += [")", "{", "  .reg .pred %p<8>;", "  .reg .b16 %h<8>;", "  .reg .b32 %r<8>, %tid;"]
    lines += ["  .reg .b64 %rd<8>, %a;"]
    for name, tensor in zip(names, [*inputs, output], strict=True):
        kind, _ = ptx_type(tensor)
        lines.append(f"  .reg .{'b16' if kind == 'b8' else kind} %{name};")
    lines.append("  mov.u32 %tid, %tid.x;")
    for name, tensor in zip(names, [*inputs, output], strict=True):
        kind, size = ptx_type(tensor)
        lines += [
            f"  ld.param.u64 %a, [p_{name}];",
            "  mul.wide.u32 %rd7, %tid, " + f"{size};",
            "  add.u64 %a, %a, %rd7;",
        ]
        if name != "out":
            lines.append(f"  ld.global.{kind.replace('b8', 'u8')} %{name}, [%a];")
    lines.append(body)
    kind, _ = ptx_type(output)
    lines += [f"  st.global.{kind.replace('b8', 'u8')} [%a], %out;", "  ret;", "}"]
    return "\n".join(lines)


def run(body: str, inputs: Sequence[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """``output`` after the kernel of ``body`` ran with one thread per element."""
    module = ptxsim.Module(elementwise(body, inputs, output))
    assert not module.unsupported, module.unsupported
    module.launch("kernel", 1, output.numel(), [*inputs, ptxsim.Output(output)])
    return output
