// Which level's lane handlers this CPU runs.
#include <cstdlib>
#include <cstring>

#include "ptxsim/operations.h"

namespace ptxsim {

namespace portable {
extern const LaneHandlers lane_handlers;
}
#ifdef PTXSIM_HAVE_X86
namespace avx512 {
extern const LaneHandlers lane_handlers;
}
#endif

namespace {

const LaneHandlers& choose() {
  const char* wanted = std::getenv("PTXSIM_LEVEL");
  const auto allowed = [&](const char* level) {
    return wanted == nullptr || std::strcmp(wanted, level) == 0;
  };
#ifdef PTXSIM_HAVE_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx512f") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512dq") && allowed("avx512"))
    return avx512::lane_handlers;
#endif
  return portable::lane_handlers;
}

}  // namespace

const LaneHandlers& lane_handlers() {
  static const LaneHandlers& chosen = choose();
  return chosen;
}

}  // namespace ptxsim
