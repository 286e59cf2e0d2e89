// Special registers: which names there are, and their values for a warp.
#include <array>
#include <map>

#include "ptxsim/block.h"
#include "ptxsim/decoder.h"

namespace ptxsim {
namespace {

const std::map<std::string, Special>& names() {
  static const std::map<std::string, Special> table = {
      {"%tid.x", Special::tid_x},
      {"%tid.y", Special::tid_y},
      {"%tid.z", Special::tid_z},
      {"%ntid.x", Special::ntid_x},
      {"%ntid.y", Special::ntid_y},
      {"%ntid.z", Special::ntid_z},
      {"%ctaid.x", Special::ctaid_x},
      {"%ctaid.y", Special::ctaid_y},
      {"%ctaid.z", Special::ctaid_z},
      {"%nctaid.x", Special::nctaid_x},
      {"%nctaid.y", Special::nctaid_y},
      {"%nctaid.z", Special::nctaid_z},
      {"%laneid", Special::laneid},
      {"%warpid", Special::warpid},
      {"%nwarpid", Special::nwarpid},
      {"%smid", Special::smid},
      {"%nsmid", Special::nsmid},
      {"%lanemask_eq", Special::lanemask_eq},
      {"%lanemask_le", Special::lanemask_le},
      {"%lanemask_lt", Special::lanemask_lt},
      {"%lanemask_ge", Special::lanemask_ge},
      {"%lanemask_gt", Special::lanemask_gt},
      {"%cluster_ctaid.x", Special::cluster_ctaid_x},
      {"%cluster_ctaid.y", Special::cluster_ctaid_y},
      {"%cluster_ctaid.z", Special::cluster_ctaid_z},
      {"%cluster_nctaid.x", Special::cluster_nctaid_x},
      {"%cluster_nctaid.y", Special::cluster_nctaid_y},
      {"%cluster_nctaid.z", Special::cluster_nctaid_z},
      {"%clusterid.x", Special::clusterid_x},
      {"%clusterid.y", Special::clusterid_y},
      {"%clusterid.z", Special::clusterid_z},
      {"%nclusterid.x", Special::nclusterid_x},
      {"%nclusterid.y", Special::nclusterid_y},
      {"%nclusterid.z", Special::nclusterid_z},
      {"%cluster_ctarank", Special::cluster_ctarank},
      {"%cluster_nctarank", Special::cluster_nctarank},
      {"%dynamic_smem_size", Special::dynamic_smem_size},
      {"%total_smem_size", Special::total_smem_size},
  };
  return table;
}

u32 along(const Dim3& d, int axis) { return axis == 0 ? d.x : axis == 1 ? d.y : d.z; }

u32 value_of(Special which, const RunningWarp& w, int lane) {
  const Block& block = *w.block;
  const LaunchShape& shape = block.shape();
  const u32 thread = w.index * kLanes + static_cast<u32>(lane);
  const u32 bit = 1u << lane;
  const auto axis = [&](Special first) {
    return static_cast<int>(which) - static_cast<int>(first);
  };
  const Dim3 in_cluster{block.id.x % shape.cluster.x, block.id.y % shape.cluster.y,
                        block.id.z % shape.cluster.z};
  switch (which) {
    case Special::tid_x: return thread % shape.block.x;
    case Special::tid_y: return thread / shape.block.x % shape.block.y;
    case Special::tid_z: return thread / (shape.block.x * shape.block.y);
    case Special::ntid_x:
    case Special::ntid_y:
    case Special::ntid_z: return along(shape.block, axis(Special::ntid_x));
    case Special::ctaid_x:
    case Special::ctaid_y:
    case Special::ctaid_z: return along(block.id, axis(Special::ctaid_x));
    case Special::nctaid_x:
    case Special::nctaid_y:
    case Special::nctaid_z: return along(shape.grid, axis(Special::nctaid_x));
    case Special::laneid: return static_cast<u32>(lane);
    case Special::warpid: return w.index;
    case Special::nwarpid: return static_cast<u32>(block.warps.size());
    case Special::smid: return static_cast<u32>(block.linear % shape.multiprocessors);
    case Special::nsmid: return shape.multiprocessors;
    case Special::lanemask_eq: return bit;
    case Special::lanemask_lt: return bit - 1;
    case Special::lanemask_le: return bit | (bit - 1);
    case Special::lanemask_ge: return ~(bit - 1);
    case Special::lanemask_gt: return ~(bit | (bit - 1));
    case Special::cluster_ctaid_x:
    case Special::cluster_ctaid_y:
    case Special::cluster_ctaid_z: return along(in_cluster, axis(Special::cluster_ctaid_x));
    case Special::cluster_nctaid_x:
    case Special::cluster_nctaid_y:
    case Special::cluster_nctaid_z: return along(shape.cluster, axis(Special::cluster_nctaid_x));
    case Special::clusterid_x:
    case Special::clusterid_y:
    case Special::clusterid_z: {
      const int a = axis(Special::clusterid_x);
      return along(block.id, a) / along(shape.cluster, a);
    }
    case Special::nclusterid_x:
    case Special::nclusterid_y:
    case Special::nclusterid_z: {
      const int a = axis(Special::nclusterid_x);
      return along(shape.grid, a) / along(shape.cluster, a);
    }
    case Special::cluster_ctarank: return block.rank;
    case Special::cluster_nctarank: return static_cast<u32>(shape.cluster.count());
    case Special::dynamic_smem_size: return shape.dynamic_shared;
    case Special::total_smem_size: return block.shared.size();
  }
  return 0;
}

}  // namespace

s32 Decoder::special(const std::string& name) {
  const auto it = names().find(name);
  if (it == names().end()) unsupported("special register " + name);
  const auto [known, added] = specials_.try_emplace(it->second, 0);
  if (added) {
    known->second = allocate(4);
    program_.specials.push_back({known->second, it->second});
  }
  return known->second;
}

void fill_special_registers(const Program& program, RunningWarp& warp) {
  for (const SpecialRegister& special : program.specials)
    for (int lane = 0; lane < kLanes; ++lane)
      reg<u32>(warp, special.offset)[lane] = value_of(special.which, warp, lane);
}

}  // namespace ptxsim
