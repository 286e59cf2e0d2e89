#include "gemm/arguments.h"

namespace mn {
namespace {

// Codes take rows of either dtype.
DType dtype_of(Format format) { return format == Format::bf16 ? DType::bf16 : DType::f32; }

}  // namespace

RowSource rows_argument(const Check& check, const Tensor& x, const char* name,
                        const PackedLayout& weights) {
  check.ndim_at_least(x, name, 1, "[.., K]");
  check.on_device(x, name);
  if (x.last() != weights.inputs)
    check.fail(name, "a last dimension of K = " + std::to_string(weights.inputs), x.describe());
  const DType wanted = dtype_of(weights.format);
  if (x.dtype != wanted && !(wanted == DType::f32 && x.dtype == DType::bf16))
    check.fail(name, std::string("the dtype of the weight, ") + mn::name(wanted), x.describe(),
               "Convert one of them with .to(dtype).");
  check.last_dim_contiguous(x, name);

  int64_t stride = x.last(), span = 1;  // of one row, and rows that are evenly spaced so far
  for (int i = x.ndim - 2; i >= 0; --i) {
    if (x.shape[i] == 1) continue;
    if (span == 1)
      stride = x.stride[i];
    else if (x.stride[i] != span * stride)
      check.contiguous(x, name);
    span *= x.shape[i];
  }
  return {.data = x.data, .stride = stride, .index = nullptr, .bf16 = x.dtype == DType::bf16};
}

Weights weights_argument(const Check& check, const Tensor& w, const PackedLayout* layout,
                         int matrices, const char* name, const char* symbols) {
  check.on_device(w, name);
  if (layout) {
    if (w.numel() * size_of(w.dtype) < layout->bytes())
      check.fail(name, "storage of " + std::to_string(layout->bytes()) + " bytes", w.describe());
    return {*layout, w.data, true, false, 0, 0};
  }
  if (w.ndim != matrices + 2) check.fail(name, std::string("shape ") + symbols, w.describe());
  check.dtype(w, name, {DType::f32, DType::bf16});
  check.last_dim_contiguous(w, name);
  const PackedLayout plain{.format = w.dtype == DType::bf16 ? Format::bf16 : Format::f32,
                           .experts = matrices ? w.shape[0] : 1,
                           .outputs = w.shape[matrices],
                           .inputs = w.shape[matrices + 1],
                           .expert_panels = (w.shape[matrices] + kPanel - 1) / kPanel};
  return {plain, w.data, false, false, matrices ? w.stride[0] : 0, w.stride[matrices]};
}

DType result_dtype(const Check& check, const Tensor& x,
                   const std::optional<std::string>& out_dtype) {
  if (!out_dtype) return x.dtype;
  if (*out_dtype == "torch.float32") return DType::f32;
  if (*out_dtype == "torch.bfloat16") return DType::bf16;
  check.fail("out_dtype", "torch.float32 or torch.bfloat16", *out_dtype);
}

std::vector<int64_t> group_sizes_argument(const Check& check, const Tensor& sizes, int64_t groups,
                                          int64_t total) {
  const char* name = "group_sizes";
  check.shape(sizes, name, {groups}, "[G]");
  check.dtype(sizes, name, {DType::i64, DType::i32});
  check.on_cpu(sizes, name);
  check.contiguous(sizes, name);
  std::vector<int64_t> result(static_cast<size_t>(groups));
  int64_t sum = 0;
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t size =
        sizes.dtype == DType::i64 ? sizes.as<int64_t>()[g] : sizes.as<int32_t>()[g];
    if (size < 0 || size > total - sum)
      check.fail(name, "non-negative sizes that sum to M = " + std::to_string(total),
                 std::to_string(size) + " at position " + std::to_string(g));
    result[static_cast<size_t>(g)] = size;
    sum += size;
  }
  if (sum != total)
    check.fail(name, "non-negative sizes that sum to M = " + std::to_string(total),
               "a sum of " + std::to_string(sum));
  return result;
}

}  // namespace mn
