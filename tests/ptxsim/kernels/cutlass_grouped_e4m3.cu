// A grouped GEMM of CUTLASS 4.2 for sm_90a with e4m3 operands and float32 scales: of rows per 128 inputs, of
// weights per 128 x 128. wgmma of 128 inputs, then the scales, then the sum.
#include <cuda_runtime.h>

#include <vector>

#include "cutlass/cutlass.h"
#include "cutlass/epilogue/collective/collective_builder.hpp"
#include "cutlass/gemm/collective/collective_builder.hpp"
#include "cutlass/gemm/device/gemm_universal_adapter.h"
#include "cutlass/gemm/dispatch_policy.hpp"
#include "cutlass/gemm/group_array_problem_shape.hpp"
#include "cutlass/gemm/kernel/gemm_universal.hpp"
#include "cutlass/detail/blockwise_scale_layout.hpp"
#include "cutlass/util/packed_stride.hpp"

namespace {

using namespace cute;
using Element = cutlass::float_e4m3_t;
using Out = cutlass::bfloat16_t;
using Scales = cutlass::detail::Sm90BlockwiseScaleConfig<1, 128, 128, cute::GMMA::Major::MN, cute::GMMA::Major::K>;
using LayoutA = decltype(Scales::deduce_layoutSFA());
using LayoutB = decltype(Scales::deduce_layoutSFB());
using Problem = cutlass::gemm::GroupProblemShape<Shape<int, int, int>>;
using Tile = Shape<_128, _128, _128>;
using Cluster = Shape<_1, _1, _1>;
using Epilogue = cutlass::epilogue::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Tile, Cluster,
    cutlass::epilogue::collective::EpilogueTileAuto, float, float, Out, cutlass::layout::RowMajor*, 8,
    Out, cutlass::layout::RowMajor*, 8, cutlass::epilogue::PtrArrayTmaWarpSpecializedCooperative>::CollectiveOp;
using Mainloop = cutlass::gemm::collective::CollectiveBuilder<
    cutlass::arch::Sm90, cutlass::arch::OpClassTensorOp, Element, cute::tuple<cutlass::layout::RowMajor*, LayoutA*>, 16, Element,
    cute::tuple<cutlass::layout::ColumnMajor*, LayoutB*>, 16, float, Tile, Cluster,
    cutlass::gemm::collective::StageCountAutoCarveout<static_cast<int>(sizeof(Epilogue::SharedStorage))>,
    cutlass::gemm::KernelPtrArrayTmaWarpSpecializedCooperativeFP8Blockwise>::CollectiveOp;
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
// sa: of each group [k / 128][its rows], one after the other; sb [group][n / 128][k / 128].
extern "C" int run(const Element* a, const Element* b, Out* d, const float* sa, const float* sb, const int* sizes, int groups, int n, int k) {
  std::vector<Problem::UnderlyingProblemShape> shapes;
  std::vector<const Element*> as, bs;
  std::vector<Out*> ds;
  std::vector<const float*> sas, sbs;
  std::vector<LayoutA> layout_a;
  std::vector<LayoutB> layout_b;
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
    sas.push_back(sa + int64_t{row} * (k / 128));
    sbs.push_back(sb + int64_t{i} * ((n + 127) / 128) * (k / 128));
    layout_a.push_back(Scales::tile_atom_to_shape_SFA(make_shape(m, n, k, 1)));
    layout_b.push_back(Scales::tile_atom_to_shape_SFB(make_shape(m, n, k, 1)));
    stride_d.push_back(cutlass::make_cute_packed_stride(Kernel::InternalStrideD{}, {m, n, 1}));
  }
  const std::vector<const Out*> cs(ds.begin(), ds.end());
  Gemm::Arguments arguments{};
  arguments.mode = cutlass::gemm::GemmUniversalMode::kGrouped;
  arguments.problem_shape = {groups, to_device(shapes), shapes.data()};
  arguments.mainloop = {to_device(as), to_device(stride_a), to_device(bs), to_device(stride_b),
    to_device(sas), to_device(layout_a), to_device(sbs), to_device(layout_b)};
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
