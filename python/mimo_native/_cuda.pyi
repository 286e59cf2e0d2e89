from __future__ import annotations
import collections.abc
import torch
import typing
__all__: list[str] = ['attention', 'attention_cached', 'attention_plan', 'attention_varlen', 'build_draft_tree', 'cache_commit', 'driver_version', 'expert_mlp', 'gemm_plan', 'grouped_gemm', 'linear', 'rms_norm', 'rope', 'rope_cached', 'rope_table', 'route', 'runtime_linkage', 'runtime_version', 'sample', 'swiglu', 'swiglu_mlp', 'unavailable_reason', 'walk_tree']
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor | None, scale: typing.SupportsFloat | typing.SupportsIndex | None, causal: bool, window_keys: typing.SupportsInt | typing.SupportsIndex | None, sink: torch.Tensor | None, kv_lens: torch.Tensor | None) -> None:
    ...
def attention_cached(q: torch.Tensor, k_new: torch.Tensor, v_new: torch.Tensor, cache_keys: torch.Tensor, cache_values: torch.Tensor, head_dim: typing.SupportsInt | typing.SupportsIndex, v_head_dim: typing.SupportsInt | typing.SupportsIndex, lengths: torch.Tensor, ring: bool, out: torch.Tensor, lse: torch.Tensor | None, cu_seqlens_q: torch.Tensor | None, ancestors: torch.Tensor | None, scale: typing.SupportsFloat | typing.SupportsIndex | None, window_keys: typing.SupportsInt | typing.SupportsIndex | None, sink: torch.Tensor | None) -> None:
    ...
def attention_plan(*, sequences: typing.SupportsInt | typing.SupportsIndex, tokens: typing.SupportsInt | typing.SupportsIndex, longest: typing.SupportsInt | typing.SupportsIndex, most_keys: typing.SupportsInt | typing.SupportsIndex, q_heads: typing.SupportsInt | typing.SupportsIndex, kv_heads: typing.SupportsInt | typing.SupportsIndex, dim_qk: typing.SupportsInt | typing.SupportsIndex, dim_v: typing.SupportsInt | typing.SupportsIndex, window: typing.SupportsInt | typing.SupportsIndex, element: typing.SupportsInt | typing.SupportsIndex, multiprocessors: typing.SupportsInt | typing.SupportsIndex) -> dict:
    """
    How a call would be laid over a GPU; csrc/attention/plan_sm80.h has the fields.
    """
def attention_varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor | None, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor, scale: typing.SupportsFloat | typing.SupportsIndex | None, causal: bool, window_keys: typing.SupportsInt | typing.SupportsIndex | None, sink: torch.Tensor | None) -> None:
    ...
def build_draft_tree(tokens: torch.Tensor, parents: torch.Tensor, root_position: typing.SupportsInt | typing.SupportsIndex) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    ...
def cache_commit(layers: collections.abc.Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]], table: torch.Tensor) -> None:
    ...
def driver_version() -> str:
    """
    Newest CUDA version of the driver; '' without one.
    """
def expert_mlp(x: torch.Tensor, w_gate_up: torch.Tensor, gate_up_layout: None, w_down: torch.Tensor, down_layout: None, ids: torch.Tensor, weights: torch.Tensor, saved: None) -> torch.Tensor:
    ...
def gemm_plan(rows: typing.SupportsInt | typing.SupportsIndex, outputs: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, groups: typing.SupportsInt | typing.SupportsIndex, bf16: bool, multiprocessors: typing.SupportsInt | typing.SupportsIndex) -> tuple[int, str]:
    """
    (tile, description) of a product of aligned tensors.
    """
def grouped_gemm(x: torch.Tensor, w: torch.Tensor, layout: None, group_sizes: torch.Tensor) -> torch.Tensor:
    ...
def linear(x: torch.Tensor, w: torch.Tensor, layout: None, out_dtype: str | None) -> torch.Tensor:
    ...
def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: typing.SupportsFloat | typing.SupportsIndex) -> torch.Tensor:
    ...
def rope(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, value_scale: typing.SupportsFloat | typing.SupportsIndex, opposite: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ...
def rope_cached(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, value_scale: typing.SupportsFloat | typing.SupportsIndex, cache_keys: torch.Tensor, cache_values: torch.Tensor, rows: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    ...
def rope_table(positions: torch.Tensor, theta: typing.SupportsFloat | typing.SupportsIndex, rotary_dim: typing.SupportsInt | typing.SupportsIndex) -> torch.Tensor:
    ...
def route(logits: torch.Tensor, bias: torch.Tensor | None, top_k: typing.SupportsInt | typing.SupportsIndex, scoring: str, normalize: bool, scaling: typing.SupportsFloat | typing.SupportsIndex, n_group: typing.SupportsInt | typing.SupportsIndex, topk_group: typing.SupportsInt | typing.SupportsIndex, replay_ids: torch.Tensor | None, stats: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    ...
def runtime_linkage() -> str:
    """
    'static', 'shared' or 'simulated'.
    """
def runtime_version() -> str:
    """
    CUDA version of the runtime, as in '13.0'.
    """
def sample(logits: torch.Tensor, seed: torch.Tensor, position: torch.Tensor, temperature: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    ...
def swiglu(gate_up: torch.Tensor) -> torch.Tensor:
    ...
def swiglu_mlp(x: torch.Tensor, w_gate_up: torch.Tensor, gate_up_layout: None, w_down: torch.Tensor, down_layout: None, saved: None) -> torch.Tensor:
    ...
def unavailable_reason() -> str:
    """
    Why no kernel can run on this machine; empty when one can.
    """
def walk_tree(tokens: torch.Tensor, parents: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    ...
