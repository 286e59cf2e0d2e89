#include "model/embedding.h"

#include <algorithm>
#include <cstring>

namespace mn {
namespace {

// A row's inputs stand a step apart: pairs of them in bf16, single ones in f32, four bytes either
// way.
void unpack_row(const Embedding& e, int64_t row, char* out) {
  const PackedLayout& l = e.layout;
  const char* from = static_cast<const char*>(e.table) + row / kPanel * l.panel_bytes() +
                     row % kPanel * (kStepBytes / kPanel);
  int64_t left = e.row_bytes();
  for (int64_t step = 0; step < l.steps(); ++step, left -= 4)
    std::memcpy(out + 4 * step, from + step * kStepBytes,
                static_cast<size_t>(std::min<int64_t>(left, 4)));
}

}  // namespace

std::vector<int64_t> read_ids(const Check& check, const Tensor& ids, const char* argument,
                              int64_t vocabulary) {
  check.on_cpu(ids, argument);
  check.dtype(ids, argument, {DType::i64, DType::i32});
  check.shape(ids, argument, {kAny, kAny}, "[B, T]");
  std::vector<int64_t> values;
  values.reserve(static_cast<size_t>(ids.numel()));
  int64_t least = 0, most = 0;
  for (int64_t b = 0; b < ids.shape[0]; ++b)
    for (int64_t t = 0; t < ids.shape[1]; ++t) {
      const int64_t at = b * ids.stride[0] + t * ids.stride[1];
      const int64_t id = ids.dtype == DType::i64 ? ids.as<int64_t>()[at] : ids.as<int32_t>()[at];
      least = std::min(least, id);
      most = std::max(most, id);
      values.push_back(id);
    }
  if (least < 0 || most >= vocabulary)
    check.fail(argument, "token ids in [0, " + std::to_string(vocabulary) + ")",
               "[" + std::to_string(least) + ", " + std::to_string(most) + "]",
               "Use the tokenizer of this model.");
  return values;
}

void embed(const Embedding& e, const std::vector<int64_t>& ids, void* out) {
  char* row = static_cast<char*>(out);
  for (const int64_t id : ids) {
    if (e.packed)
      unpack_row(e, id, row);
    else
      std::memcpy(row, static_cast<const char*>(e.table) + id * e.row_bytes(),
                  static_cast<size_t>(e.row_bytes()));
    row += e.row_bytes();
  }
}

}  // namespace mn
