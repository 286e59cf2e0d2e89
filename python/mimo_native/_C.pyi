from __future__ import annotations
import collections.abc
import torch
import typing
__all__: list[str] = ['PackedLayout', 'advise_huge_pages', 'attention', 'attention_cached', 'attention_varlen', 'cache_commit', 'expert_mlp', 'expert_plan', 'grouped_gemm', 'isa', 'isa_levels', 'linear', 'max_threads', 'pack', 'philox4x32_10', 'philox_uniform', 'probe_bandwidth', 'probe_flops', 'release_scratch', 'rms_norm', 'rope', 'rope_table', 'route', 'route_backward', 'sample', 'set_isa', 'swiglu', 'swiglu_mlp', 'unpack']
class PackedLayout:
    def __init__(self, format: str, experts: typing.SupportsInt | typing.SupportsIndex, outputs: typing.SupportsInt | typing.SupportsIndex, inputs: typing.SupportsInt | typing.SupportsIndex, expert_panels: typing.SupportsInt | typing.SupportsIndex) -> None:
        ...
    @property
    def bytes(self) -> int:
        ...
    @property
    def expert_panels(self) -> int:
        ...
    @property
    def panel_bytes(self) -> int:
        ...
def advise_huge_pages(storage: torch.Tensor) -> bool:
    ...
def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor | None, scale: typing.SupportsFloat | typing.SupportsIndex | None, causal: bool, window_keys: typing.SupportsInt | typing.SupportsIndex | None, sink: torch.Tensor | None, kv_lens: torch.Tensor | None) -> None:
    ...
def attention_cached(q: torch.Tensor, k_new: torch.Tensor, v_new: torch.Tensor, cache_keys: torch.Tensor, cache_values: torch.Tensor, head_dim: typing.SupportsInt | typing.SupportsIndex, v_head_dim: typing.SupportsInt | typing.SupportsIndex, lengths: torch.Tensor, ring: bool, out: torch.Tensor, lse: torch.Tensor | None, cu_seqlens_q: torch.Tensor | None, q_positions: torch.Tensor | None, ancestors: torch.Tensor | None, scale: typing.SupportsFloat | typing.SupportsIndex | None, window_keys: typing.SupportsInt | typing.SupportsIndex | None, sink: torch.Tensor | None) -> None:
    ...
def attention_varlen(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, out: torch.Tensor, lse: torch.Tensor | None, cu_seqlens_q: torch.Tensor, cu_seqlens_k: torch.Tensor, scale: typing.SupportsFloat | typing.SupportsIndex | None, causal: bool, window_keys: typing.SupportsInt | typing.SupportsIndex | None, sink: torch.Tensor | None) -> None:
    ...
def cache_commit(layers: collections.abc.Sequence[tuple[torch.Tensor, torch.Tensor, typing.SupportsInt | typing.SupportsIndex, typing.SupportsInt | typing.SupportsIndex, torch.Tensor | None, torch.Tensor, torch.Tensor]], lengths: torch.Tensor, cu_seqlens: torch.Tensor, rows: torch.Tensor | None, ancestors: torch.Tensor | None, max_tokens: typing.SupportsInt | typing.SupportsIndex | None) -> None:
    ...
def expert_mlp(x: torch.Tensor, w_gate_up: torch.Tensor, gate_up_layout: PackedLayout, w_down: torch.Tensor, down_layout: PackedLayout, ids: torch.Tensor, weights: torch.Tensor, y: torch.Tensor) -> None:
    ...
def expert_plan(ids: torch.Tensor, experts: typing.SupportsInt | typing.SupportsIndex) -> tuple[list[int], list[int], list[int], str]:
    """
    (rows per expert, token of each sorted row, sorted row of each pair, description).
    """
def grouped_gemm(x: torch.Tensor, w: torch.Tensor, layout: PackedLayout, group_sizes: torch.Tensor, y: torch.Tensor) -> None:
    ...
def isa() -> str:
    """
    The level in use.
    """
def isa_levels() -> list[str]:
    """
    Levels this CPU can run, weakest first.
    """
def linear(x: torch.Tensor, w: torch.Tensor, layout: PackedLayout, y: torch.Tensor) -> None:
    ...
def max_threads() -> int:
    ...
def pack(weight: torch.Tensor, storage: torch.Tensor, layout: PackedLayout) -> None:
    ...
def philox4x32_10(counter: typing.Annotated[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(4)"], key: typing.Annotated[collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex], "FixedSize(2)"]) -> typing.Annotated[list[int], "FixedSize(4)"]:
    ...
def philox_uniform(seed: typing.SupportsInt | typing.SupportsIndex, position: typing.SupportsInt | typing.SupportsIndex) -> float:
    ...
def probe_bandwidth(bytes: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Most bytes per second that each thread's own `bytes` can be read with, over all threads.
    """
def probe_flops(dtype: str, threads: typing.SupportsInt | typing.SupportsIndex) -> float:
    """
    Most floating-point operations per second that 'f32' or 'bf16' multiply-adds reach.
    """
def release_scratch() -> None:
    """
    Frees the calling thread's working memory.
    """
def rms_norm(x: torch.Tensor, weight: torch.Tensor, y: torch.Tensor, eps: typing.SupportsFloat | typing.SupportsIndex) -> None:
    ...
def rope(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, table: torch.Tensor, q_out: torch.Tensor, k_out: torch.Tensor, v_out: torch.Tensor, value_scale: typing.SupportsFloat | typing.SupportsIndex) -> None:
    ...
def rope_table(positions: torch.Tensor, table: torch.Tensor, theta: typing.SupportsFloat | typing.SupportsIndex, rotary_dim: typing.SupportsInt | typing.SupportsIndex) -> None:
    ...
def route(logits: torch.Tensor, bias: torch.Tensor | None, top_k: typing.SupportsInt | typing.SupportsIndex, scoring: str, normalize: bool, scaling: typing.SupportsFloat | typing.SupportsIndex, n_group: typing.SupportsInt | typing.SupportsIndex, topk_group: typing.SupportsInt | typing.SupportsIndex, replay_ids: torch.Tensor | None, ids: torch.Tensor, weights: torch.Tensor, counts: torch.Tensor | None, mean_score: torch.Tensor | None) -> None:
    ...
def route_backward(logits: torch.Tensor, ids: torch.Tensor, scoring: str, normalize: bool, scaling: typing.SupportsFloat | typing.SupportsIndex, grad_weights: torch.Tensor | None, grad_mean_score: torch.Tensor | None, grad_logits: torch.Tensor) -> None:
    ...
def sample(logits: torch.Tensor, seed: torch.Tensor, position: torch.Tensor, temperature: torch.Tensor | None, top_k: torch.Tensor | None, top_p: torch.Tensor | None, min_p: torch.Tensor | None, repetition_penalty: torch.Tensor | None, presence_penalty: torch.Tensor | None, frequency_penalty: torch.Tensor | None, history: torch.Tensor | None, prompt_lens: torch.Tensor | None, ids: torch.Tensor, logprobs: torch.Tensor, coins: torch.Tensor | None = None) -> None:
    """
    `coins` [B] float64 in [0, 1) replace the generator's, for tests.
    """
def set_isa(level: str) -> None:
    ...
def swiglu(gate_up: torch.Tensor, y: torch.Tensor) -> None:
    ...
def swiglu_mlp(x: torch.Tensor, w_gate_up: torch.Tensor, gate_up_layout: PackedLayout, w_down: torch.Tensor, down_layout: PackedLayout, y: torch.Tensor) -> None:
    ...
def unpack(storage: torch.Tensor, layout: PackedLayout, weight: torch.Tensor) -> None:
    ...
