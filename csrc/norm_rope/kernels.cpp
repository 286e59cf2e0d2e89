// RMSNorm and RoPE kernels, compiled once per ISA level.
#include "norm_rope/problem.h"
#include "runtime/parallel.h"
#include "simd/vec.h"

namespace mn::MN_ISA {
namespace {

constexpr int64_t kGrain = 1 << 15;  // elements below which one thread is faster
constexpr int64_t kRowsPerJob = 16;

template <class T, class W>
void rms_norm_row(const T* x, const W* weight, int64_t dim, float eps, T* y) {
  // Two accumulators hide the latency of the additions; their order depends on dim only.
  f32x16 sum0 = f32x16::zero(), sum1 = f32x16::zero();
  int64_t i = 0;
  for (; i + 32 <= dim; i += 32) {
    const f32x16 a = f32x16::load(x + i), b = f32x16::load(x + i + 16);
    sum0 = fma(a, a, sum0);
    sum1 = fma(b, b, sum1);
  }
  for (; i < dim; i += 16) {
    const f32x16 a = f32x16::load_n(x + i, dim - i < 16 ? static_cast<int>(dim - i) : 16);
    sum0 = fma(a, a, sum0);
  }
  const float mean = reduce_add(sum0 + sum1) / static_cast<float>(dim);
  const f32x16 scale = f32x16::set1(1.f / __builtin_sqrtf(mean + eps));
  for (i = 0; i + 16 <= dim; i += 16)
    (f32x16::load(x + i) * scale * f32x16::load(weight + i)).store(y + i);
  if (i < dim) {
    const int n = static_cast<int>(dim - i);
    (f32x16::load_n(x + i, n) * scale * f32x16::load_n(weight + i, n)).store_n(y + i, n);
  }
}

template <class T, class W>
void rms_norm(const RmsNormProblem& p) {
  const T* x = static_cast<const T*>(p.x);
  const W* weight = static_cast<const W*>(p.weight);
  T* y = static_cast<T*>(p.y);
  const int64_t jobs = (p.rows + kRowsPerJob - 1) / kRowsPerJob;
  parallel_for(jobs, p.rows * p.dim, kGrain, [&](int64_t job) {
    const int64_t end = (job + 1) * kRowsPerJob < p.rows ? (job + 1) * kRowsPerJob : p.rows;
    for (int64_t r = job * kRowsPerJob; r < end; ++r)
      rms_norm_row(x + r * p.x_stride, weight, p.dim, p.eps, y + r * p.dim);
  });
}

// Adds the row's part of dweight to `sums`.
template <class T, class W>
void rms_norm_row_backward(const T* x, const W* weight, const T* dy, int64_t dim, float eps, T* dx,
                           float* sums) {
  f32x16 squares = f32x16::zero(), products = f32x16::zero();
  for (int64_t i = 0; i < dim; i += 16) {
    const int n = dim - i < 16 ? static_cast<int>(dim - i) : 16;
    const f32x16 a = f32x16::load_n(x + i, n);
    squares = fma(a, a, squares);
    products = fma(f32x16::load_n(dy + i, n) * f32x16::load_n(weight + i, n), a, products);
  }
  const float inverse = 1.f / static_cast<float>(dim);
  const float root = 1.f / __builtin_sqrtf(reduce_add(squares) * inverse + eps);
  const f32x16 scale = f32x16::set1(root);
  const f32x16 mean = f32x16::set1(reduce_add(products) * root * inverse);
  for (int64_t i = 0; i < dim; i += 16) {
    const int n = dim - i < 16 ? static_cast<int>(dim - i) : 16;
    const f32x16 normed = f32x16::load_n(x + i, n) * scale, d = f32x16::load_n(dy + i, n);
    ((d * f32x16::load_n(weight + i, n) - normed * mean) * scale).store_n(dx + i, n);
    fma(d, normed, f32x16::load_n(sums + i, n)).store_n(sums + i, n);
  }
}

template <class T, class W>
void rms_norm_backward(const RmsNormBackwardProblem& p) {
  const T *x = static_cast<const T*>(p.x), *dy = static_cast<const T*>(p.dy);
  const W* weight = static_cast<const W*>(p.weight);
  T* dx = static_cast<T*>(p.dx);
  parallel_for(p.chunks, p.rows * p.dim, kGrain, [&](int64_t chunk) {
    float* sums = p.partial + chunk * p.dim;
    std::memset(sums, 0, static_cast<size_t>(p.dim) * sizeof(float));
    const int64_t first = chunk * p.chunk_rows;
    const int64_t end = first + p.chunk_rows < p.rows ? first + p.chunk_rows : p.rows;
    for (int64_t r = first; r < end; ++r)
      rms_norm_row_backward(x + r * p.x_stride, weight, dy + r * p.dim, p.dim, p.eps,
                            dx + r * p.dim, sums);
  });
  W* dweight = static_cast<W*>(p.dweight);
  for (int64_t i = 0; i < p.dim; i += 16) {
    const int n = p.dim - i < 16 ? static_cast<int>(p.dim - i) : 16;
    f32x16 sum = f32x16::zero();
    for (int64_t chunk = 0; chunk < p.chunks; ++chunk)
      sum = sum + f32x16::load_n(p.partial + chunk * p.dim + i, n);
    sum.store_n(dweight + i, n);
  }
}

// sign -1 turns by the opposite angles.
template <class T>
void rotate_head(const T* x, const float* table, float sign, int64_t half, int64_t dim, T* y) {
  const f32x16 signs = f32x16::set1(sign);
  for (int64_t j = 0; j < half; j += 16) {
    const int n = half - j < 16 ? static_cast<int>(half - j) : 16;
    const f32x16 c = f32x16::load_n(table + j, n), s = f32x16::load_n(table + half + j, n) * signs;
    const f32x16 a = f32x16::load_n(x + j, n), b = f32x16::load_n(x + half + j, n);
    fma(a, c, f32x16::zero() - b * s).store_n(y + j, n);
    fma(b, c, a * s).store_n(y + half + j, n);
  }
  std::memcpy(y + 2 * half, x + 2 * half, static_cast<size_t>(dim - 2 * half) * sizeof(T));
}

template <class T>
void scale_head(const T* x, f32x16 scale, int64_t dim, T* y) {
  for (int64_t i = 0; i < dim; i += 16) {
    const int n = dim - i < 16 ? static_cast<int>(dim - i) : 16;
    (f32x16::load_n(x + i, n) * scale).store_n(y + i, n);
  }
}

template <class T, class F>
MN_INLINE void for_heads(const RopeTensor& t, int64_t token, const F& f) {
  const T* in = static_cast<const T*>(t.in) + token * t.token_stride;
  T* out = static_cast<T*>(t.out) + token * t.heads * t.dim;
  for (int64_t h = 0; h < t.heads; ++h) f(in + h * t.head_stride, out + h * t.dim);
}

template <class T>
void rope(const RopeProblem& p) {
  const int64_t half = p.rotary_dim / 2;
  const float sign = p.opposite ? -1.f : 1.f;
  const int64_t per_token = p.q.heads * p.q.dim + p.k.heads * p.k.dim + p.v.heads * p.v.dim;
  parallel_for(p.tokens, p.tokens * per_token, kGrain, [&](int64_t t) {
    const float* table = p.table + t * p.rotary_dim;
    for_heads<T>(p.q, t, [&](const T* x, T* y) { rotate_head(x, table, sign, half, p.q.dim, y); });
    for_heads<T>(p.k, t, [&](const T* x, T* y) { rotate_head(x, table, sign, half, p.k.dim, y); });
    const f32x16 scale = f32x16::set1(p.value_scale);
    for_heads<T>(p.v, t, [&](const T* x, T* y) { scale_head(x, scale, p.v.dim, y); });
  });
}

}  // namespace

extern const NormRopeKernels norm_rope_kernels = {
    rms_norm<float, float>,
    rms_norm<bf16, bf16>,
    rms_norm<bf16, float>,
    rms_norm_backward<float, float>,
    rms_norm_backward<bf16, bf16>,
    rms_norm_backward<bf16, float>,
    rope<float>,
    rope<bf16>,
};

}  // namespace mn::MN_ISA
