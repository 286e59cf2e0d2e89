// A grouped GEMM of CUTLASS 3.x for sm_90a, bfloat16: TMA, warp-specialised wgmma, tensor maps that the
// device updates, a persistent scheduler.
#include <cuda_runtime.h>

#include <vector>

#include "cutlass/cutlass.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/dispatch_policy.hpp"
#include "cutlass/gemm/group_array_problem_shape.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/util/packed_stride.hpp"

namespace {

using namespace cute;
using Element = cutlass::bfloat16_t;
using Problem = cutlass::gemm::GroupProblemShape<Shape<int, int, int>>;
using Tile = Shape<_128, _128, _64>;
using Cluster = Shape<_1, _1, _1>;
using Epilogue = cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, Element, cutlass::layout::RowMajor*, 8,
    Element, cutlass::layout::RowMajor*, 8, cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
using Mainloop = cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cutlass::layout::RowMajor*, 8, Element,
    cutlass::layout::ColumnMajor*, 8, float, Tile, Cluster,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(Epilogue::SharedStorage))>,
    cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
using Kernel = cutlass::gemm::kernel::GemmUniversal<Problem, Mainloop, Epilogue>;
using Gemm = cutlass::gemm::device::GemmUniversalAdapter<Kernel>;

template <class T>
T* to_device(const std::vector<T>& values) {
  void* device = nullptr;
  cudaMalloc(&device, values.size() * sizeof(T));
  cudaMemcpy(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
  return static_cast<T*>(device);
}

}  // namespace

// d[rows, n] = a[rows, k] b[group][n, k]^T, the rows of group i being sizes[i] many. 0: done.
extern "C" int run(const Element* a, const Element* b, Element* d, const int* sizes, int groups, int n, int k) {
  std::vector<Problem::UnderlyingProblemShape> shapes;
  std::vector<const Element*> as, bs;
  std::vector<Element*> ds;
  std::vector<Kernel::InternalStrideA> stride_a;
  std::vector<Kernel::InternalStrideB> stride_b;
  std::vector<Kernel::InternalStrideD> stride_d;
  for (int i = 0, row = 0; i < groups; row += sizes[i++]) {
    const int m = sizes[i];
    shapes.push_back({m, n, k});
    as.push_back(a + int64_t{row} * k);
    bs.push_back(b + int64_t{i} * n * k);
    ds.push_back(d + int64_t{row} * n);
    stride_a.push_back(cutlass::make_cute_packed_stride(Kernel::InternalStrideA{}, {m, k, 1}));
    stride_b.push_back(cutlass::make_cute_packed_stride(Kernel::InternalStrideB{}, {n, k, 1}));
    stride_d.push_back(cutlass::make_cute_packed_stride(Kernel::InternalStrideD{}, {m, n, 1}));
  }
  const std::vector<const Element*> cs(ds.begin(), ds.end());
  Gemm::Arguments arguments{};
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGrouped;
  arguments.problem_shape = {groups, to_device(shapes), shapes.data()};
  arguments.mainloop = {to_device(as), to_device(stride_a), to_device(bs), to_device(stride_b)};
  arguments.epilogue = {{}, to_device(cs), to_device(stride_d), to_device(ds), to_device(stride_d)};
  arguments.epilogue.thread.alpha = 1.f;
  arguments.hw_info.sm_count = 4;
  Gemm gemm;
  if (gemm.can_implement(arguments) != cutlass::Status::kSuccess) return 1;
  void* workspace = nullptr;
  cudaMalloc(&workspace, Gemm::get_workspace_size(arguments) + 16);
  if (gemm.initialize(arguments, workspace) != cutlass::Status::kSuccess) return 2;
  return gemm.run() == cutlass::Status::kSuccess ? 0 : 3;
}
