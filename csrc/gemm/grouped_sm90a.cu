#include "gemm/grouped_sm90a.h"

#include <cutlass/cutlass.h>
#include <cutlass/gemm/device/gemm_universal_adapter.h>
#include <cutlass/epilogue/collective/collective_builder.hpp>
#include <cutlass/gemm/collective/collective_builder.hpp>
#include <cutlass/gemm/dispatch_policy.hpp>
#include <cutlass/gemm/group_array_problem_shape.hpp>
#include <cutlass/gemm/kernel/gemm_universal.hpp>
#include <stdexcept>

#include "gemm/row_tiles_sm80.cuh"

namespace mn {
namespace {

using Element = cutlass::bfloat16_t;
using Shape = cutlass::gemm::GroupProblemShape<cute::Shape<int, int, int>>;
using Tile = cute::Shape<cute::_128, cute::_128, cute::_64>;
using Cluster = cute::Shape<cute::_1, cute::_1, cute::_1>;
constexpr int kAlign = 8;  // elements: TMA reads and writes multiples of 16 bytes

using Epilogue = cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, Element,
    cutlass::layout::RowMajor*, kAlign, Element, cutlass::layout::RowMajor*, kAlign,
    cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
using Mainloop = cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor*,
    kAlign, Element, cutlass::layout::ColumnMajor*, kAlign, float, Tile, Cluster,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(
        sizeof(Epilogue::SharedStorage))>,
    cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<Shape, Mainloop, Epilogue>;
using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

// What CUTLASS reads of each group, and the rows that belong to one.
struct Groups {
  Shape::UnderlyingProblemShape* shape;
  const Element** x;
  const Element** w;
  Element** y;
  Kernel::InternalStrideA* x_stride;
  Kernel::InternalStrideB* w_stride;
  Kernel::InternalStrideD* y_stride;
  int* rows;
  void* rest;  // CUTLASS's own
};

// Parts of the workspace one after the other; `end` is how many bytes they take.
Groups lay_out(void* workspace, int groups, int64_t& end) {
  end = 0;
  const auto part = [&](auto*& pointer, int64_t bytes) {
    pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(
        reinterpret_cast<uintptr_t>(workspace) + end);
    end += (bytes + kWorkspaceAlignment - 1) / kWorkspaceAlignment * kWorkspaceAlignment;
  };
  const auto array = [&](auto*& pointer) {
    part(pointer, groups * static_cast<int64_t>(sizeof(*pointer)));
  };
  Groups g{};
  array(g.shape), array(g.x), array(g.w), array(g.y);
  array(g.x_stride), array(g.w_stride), array(g.y_stride);
  part(g.rows, sizeof(int));
  part(g.rest, 0);
  return g;
}

__global__ void __launch_bounds__(kRowTileThreads)
    describe_groups(const GroupedSm90aProblem p, const Groups g) {
  __shared__ int64_t rows_of_warp[kRowTileThreads / 32];
  const int group = static_cast<int>(threadIdx.x);
  const int64_t rows = p.rows;
  const int64_t size = group < p.groups ? size_of_group(p.sizes, p.wide_sizes, group, rows) : 0;
  int64_t total;
  const int64_t before = sum_before(size, total, rows_of_warp);
  if (group == 0) *g.rows = static_cast<int>(min(total, rows));
  if (group >= p.groups) return;
  const int64_t first = min(before, rows);
  const int count = static_cast<int>(min(before + size, rows) - first);
  g.shape[group] = {count, p.outputs, p.inputs};
  g.x[group] = static_cast<const Element*>(p.x) + first * p.x_stride;
  g.w[group] = static_cast<const Element*>(p.w) + group * p.group_stride;
  g.y[group] = static_cast<Element*>(p.y) + first * p.outputs;
  cute::get<0>(g.x_stride[group]) = p.x_stride;
  cute::get<0>(g.w_stride[group]) = p.w_stride;
  cute::get<0>(g.y_stride[group]) = p.outputs;
}

// Rows of no group.
__global__ void clear_rest(const GroupedSm90aProblem p, const int* rows) {
  for (int row = *rows + static_cast<int>(blockIdx.x); row < p.rows; row += gridDim.x)
    for (int i = threadIdx.x; i < p.outputs; i += blockDim.x)
      static_cast<Element*>(p.y)[int64_t{row} * p.outputs + i] = Element(0.f);
}

Gemm::Arguments arguments_of(const GroupedSm90aProblem& p, const Groups& g) {
  Gemm::Arguments a{};
  a.mode = cutlass::gemm::GemmUniversalMode::kGrouped;
  a.problem_shape = {p.groups, g.shape, nullptr};
  a.mainloop = {g.x, g.x_stride, g.w, g.w_stride};
  // The result is not a sum: nothing is read where it goes.
  a.epilogue = {{}, const_cast<const Element**>(g.y), g.y_stride, g.y, g.y_stride};
  a.epilogue.thread.alpha = 1.f;
  a.epilogue.thread.beta = 0.f;
  a.hw_info.sm_count = p.multiprocessors;
  return a;
}

void require(cutlass::Status status) {
  if (status != cutlass::Status::kSuccess)
    throw std::runtime_error(std::string("grouped_gemm: CUTLASS: ") +
                             cutlass::cutlassGetStatusString(status));
}

}  // namespace

bool grouped_sm90a_serves(const GroupedSm90aProblem& p) {
  const auto aligned = [](const void* pointer, int64_t stride) {
    return reinterpret_cast<uintptr_t>(pointer) % 16 == 0 && stride % kAlign == 0;
  };
  const bool reads = aligned(p.x, p.x_stride) && aligned(p.w, p.w_stride) &&
                     (p.groups == 1 || p.group_stride % kAlign == 0);
  return reads && aligned(p.y, p.outputs) && p.inputs > 0 && p.inputs % kAlign == 0;
}

int64_t grouped_sm90a_workspace(const GroupedSm90aProblem& p) {
  int64_t end = 0;
  const Groups g = lay_out(nullptr, p.groups, end);
  return end + static_cast<int64_t>(Gemm::get_workspace_size(arguments_of(p, g)));
}

void grouped_sm90a(const GroupedSm90aProblem& p, cudaStream_t stream) {
  constexpr int kClearThreads = 256;
  int64_t end = 0;
  const Groups g = lay_out(p.workspace, p.groups, end);
  describe_groups<<<1, kRowTileThreads, 0, stream>>>(p, g);
  Gemm gemm;
  const Gemm::Arguments arguments = arguments_of(p, g);
  require(gemm.can_implement(arguments));
  require(gemm.initialize(arguments, g.rest, stream));
  require(gemm.run(stream));
  clear_rest<<<p.multiprocessors, kClearThreads, 0, stream>>>(p, g.rows);
}

}  // namespace mn
