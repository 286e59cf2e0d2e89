"""attention_cached: chunks, ragged rows, rings and draft trees equal attention over the whole."""

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from mimo_native import ShapeError, reference

HEADS, GROUPS, QK, V = 4, 2, 8, 6


@dataclass(frozen=True)
class Rows:
    """Committed tokens of each row; ``kept`` of them at most, as a ring would have."""

    keys: list[Tensor]
    values: list[Tensor]
    kept: int = 10**6

    def unpacked(self, row: int) -> tuple[Tensor, Tensor, Tensor]:
        positions = torch.arange(len(self.keys[row]))[-self.kept :]
        return self.keys[row][positions], self.values[row][positions], positions

    def as_stored(self, x: Tensor) -> Tensor:
        return x


def tokens(n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    sizes = (n, HEADS, QK), (n, GROUPS, QK), (n, GROUPS, V)
    return tuple(torch.randn(*s, generator=gen, dtype=torch.float64) for s in sizes)


SINK = torch.linspace(-2, 2, HEADS, dtype=torch.float64)


@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("chunk", [1, 3, 5, 12])
def test_chunks_equal_the_whole(window: int | None, chunk: int) -> None:
    q, k, v = tokens(12, seed=0)
    want, want_lse = reference.attention(
        q[None], k[None], v[None], window_keys=window, sink=SINK, return_lse=True
    )
    for start in range(0, 12, chunk):
        new = slice(start, min(start + chunk, 12))
        rows = Rows([k[:start]], [v[:start]], kept=10**6 if window is None else max(window - 1, 1))
        o, lse = reference.attention_cached(
            q[None, new],
            k[None, new],
            v[None, new],
            rows,
            window_keys=window,
            sink=SINK,
            return_lse=True,
        )
        torch.testing.assert_close(o, want[:, new], rtol=0, atol=1e-14)
        torch.testing.assert_close(lse, want_lse[:, :, new], rtol=0, atol=1e-14)


def test_ragged_rows_equal_each_row_alone() -> None:
    old, new = [7, 0, 3, 5], [1, 4, 0, 2]
    committed = [tokens(n, seed=10 + row) for row, n in enumerate(old)]
    fresh = [tokens(n, seed=20 + row) for row, n in enumerate(new)]
    rows = Rows([k for _, k, _ in committed], [v for _, _, v in committed])
    packed = [torch.cat(parts) for parts in zip(*fresh, strict=True)]
    edges = torch.tensor([0, *new]).cumsum(0)
    o, lse = reference.attention_cached(
        *packed, rows, cu_seqlens_q=edges, window_keys=5, sink=SINK, return_lse=True
    )
    assert lse.shape == (HEADS, sum(new))
    for row, (q, k, v) in enumerate(fresh):
        whole = torch.cat((committed[row][1], k)), torch.cat((committed[row][2], v))
        want, want_lse = reference.attention(
            q[None], whole[0][None], whole[1][None], window_keys=5, sink=SINK, return_lse=True
        )
        mine = slice(edges[row], edges[row + 1])
        torch.testing.assert_close(o[mine], want[0], rtol=0, atol=1e-14)
        torch.testing.assert_close(lse[:, mine], want_lse[0], rtol=0, atol=1e-14)


def random_tree(nodes: int, seed: int) -> tuple[list[list[int]], Tensor]:
    """Paths from the root to every node, and the ancestor masks; node 0 is the root."""
    gen = torch.Generator().manual_seed(seed)
    paths = [[0]]
    for node in range(1, nodes):
        parent = int(torch.randint(node, (1,), generator=gen))
        paths.append([*paths[parent], node])
    masks = [sum(1 << ancestor for ancestor in path) for path in paths]
    signed = [mask - (1 << 64) if mask >> 63 else mask for mask in masks]
    return paths, torch.tensor(signed, dtype=torch.int64)


@pytest.mark.parametrize("window", [None, 1, 2, 3, 9])
@pytest.mark.parametrize(("committed", "nodes"), [(0, 5), (6, 1), (6, 17), (3, 64)])
def test_tree_nodes_equal_plain_decoding_of_their_path(
    window: int | None, committed: int, nodes: int
) -> None:
    _, k_old, v_old = tokens(committed, seed=1)
    q, k, v = tokens(nodes, seed=2)
    paths, ancestors = random_tree(nodes, seed=nodes)
    got, lse = reference.attention_cached(
        q[None],
        k[None],
        v[None],
        Rows([k_old], [v_old]),
        ancestors=ancestors[None],
        window_keys=window,
        sink=SINK,
        return_lse=True,
    )
    for node, path in enumerate(paths):
        keys, values = torch.cat((k_old, k[path])), torch.cat((v_old, v[path]))
        want, want_lse = reference.attention(
            q[None, node, None],
            keys[None],
            values[None],
            window_keys=window,
            sink=SINK,
            return_lse=True,
        )
        torch.testing.assert_close(got[:, node], want[:, 0], rtol=0, atol=1e-14)
        torch.testing.assert_close(lse[:, :, node], want_lse[..., 0], rtol=0, atol=1e-14)


def test_positions_decide_what_a_window_sees_not_slots() -> None:
    q, k, v = tokens(1, seed=3)
    _, k_old, v_old = tokens(4, seed=4)
    rows = Rows([k_old], [v_old])
    far = reference.attention_cached(
        q[None], k[None], v[None], rows, q_positions=torch.tensor([[6]]), window_keys=4
    )
    # At position 6 the window reaches back to position 3, the last committed one.
    want = reference.attention(
        q[None], torch.cat((k_old[3:], k))[None], torch.cat((v_old[3:], v))[None]
    )
    torch.testing.assert_close(far, want)


def test_gradients_reach_new_and_committed_tokens() -> None:
    _, k_old, v_old = (t.requires_grad_() for t in tokens(3, seed=5))
    q, k, v = (t.requires_grad_() for t in tokens(3, seed=6))
    sink = SINK.clone().requires_grad_()

    def call(q: Tensor, k: Tensor, v: Tensor, k_old: Tensor, v_old: Tensor, sink: Tensor) -> Tensor:
        return reference.attention_cached(
            q[None], k[None], v[None], Rows([k_old], [v_old]), window_keys=4, sink=sink
        )

    assert torch.autograd.gradcheck(call, (q, k, v, k_old, v_old, sink))


def test_bad_requests_are_refused() -> None:
    q, k, v = (t[None] for t in tokens(65, seed=7))
    rows = Rows([k[0, :0]], [v[0, :0]])
    own = torch.ones(1, 65, dtype=torch.int64)
    for call, argument in [
        (lambda: reference.attention_cached(q, k, v, rows, ancestors=own), "ancestors"),
        (
            lambda: reference.attention_cached(
                q[:, :2], k[:, :2], v[:, :2], rows, ancestors=own[:, :2]
            ),
            "ancestors",
        ),
        (
            lambda: reference.attention_cached(q, k, v, rows, q_positions=torch.arange(64)[None]),
            "q_positions",
        ),
        (lambda: reference.attention_cached(q, k[:, 1:], v[:, 1:], rows), "k_new"),
        (lambda: reference.attention_cached(q[0], k[0], v[0], rows), "q"),
    ]:
        with pytest.raises(ShapeError) as caught:
            call()
        assert caught.value.argument == argument
