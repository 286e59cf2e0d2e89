"""Triton kernels, to be compiled without a GPU: PTX by a compiler that is proven on hardware."""

import triton
import triton.language as tl


@triton.jit
def softmax(out, x, cols, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    value = tl.load(x + row * stride + at, mask=at < cols, other=-float("inf"))
    value = tl.exp(value - tl.max(value, axis=0))
    tl.store(out + row * stride + at, value / tl.sum(value, axis=0), mask=at < cols)


@triton.jit
def layer_norm(out, x, weight, bias, cols, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    at = tl.arange(0, BLOCK)
    inside = at < cols
    value = tl.load(x + row * cols + at, mask=inside, other=0.0).to(tl.float32)
    mean = tl.sum(value, axis=0) / cols
    centred = tl.where(inside, value - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis=0) / cols + eps)
    w = tl.load(weight + at, mask=inside)
    b = tl.load(bias + at, mask=inside)
    tl.store(out + row * cols + at, (centred * scale * w + b).to(tl.bfloat16), mask=inside)


@triton.jit
def matmul(c, a, b, M, N, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    cols = tl.program_id(1) * BN + tl.arange(0, BN)
    depth = tl.arange(0, BK)
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for k in range(0, K, BK):
        left = tl.load(
            a + rows[:, None] * K + k + depth[None, :], mask=rows[:, None] < M, other=0.0
        )
        right = tl.load(
            b + (k + depth[:, None]) * N + cols[None, :], mask=cols[None, :] < N, other=0.0
        )
        total = tl.dot(left, right, total)
    inside = (rows[:, None] < M) & (cols[None, :] < N)
    tl.store(c + rows[:, None] * N + cols[None, :], total, mask=inside)


@triton.jit
def attention(out, q, k, v, T, scale, D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    head = tl.program_id(1) * T * D
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    dims = tl.arange(0, D)
    query = tl.load(q + head + rows[:, None] * D + dims[None, :])
    largest = tl.full((BM,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    result = tl.zeros((BM, D), dtype=tl.float32)
    for start in range(0, (tl.program_id(0) + 1) * BM, BN):
        keys = start + tl.arange(0, BN)
        key = tl.load(k + head + keys[None, :] * D + dims[:, None])
        score = tl.dot(query, key) * scale
        score = tl.where(rows[:, None] >= keys[None, :], score, -float("inf"))
        above = tl.maximum(largest, tl.max(score, axis=1))
        weight = tl.exp2(score - above[:, None])
        shrink = tl.exp2(largest - above)
        total = total * shrink + tl.sum(weight, axis=1)
        value = tl.load(v + head + keys[:, None] * D + dims[None, :])
        result = result * shrink[:, None] + tl.dot(weight.to(tl.bfloat16), value)
        largest = above
    tl.store(
        out + head + rows[:, None] * D + dims[None, :], (result / total[:, None]).to(tl.bfloat16)
    )


@triton.jit
def histogram(counts, total, x, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < n
    value = tl.load(x + at, mask=inside, other=0)
    tl.atomic_add(counts + value, 1, mask=inside)
    tl.atomic_max(total, tl.max(value, axis=0))


@triton.jit
def spin_sum(out, lock, x, BLOCK: tl.constexpr):
    part = tl.sum(tl.load(x + tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)), axis=0)
    while tl.atomic_cas(lock, 0, 1) == 1:
        pass
    before = tl.load(out)  # by every thread; one of them stores
    tl.debug_barrier()
    tl.store(out, before + part)
    tl.debug_barrier()
    tl.atomic_xchg(lock, 0)
