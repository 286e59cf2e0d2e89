#include "runtime/isa.h"

#include <atomic>
#include <cstdlib>

namespace mn {
namespace {

// MIMO_NATIVE_ISA is validated where a message can be given (mimo_native.env); here an unusable
// value is ignored.
Isa initial() {
  if (const char* wanted = std::getenv("MIMO_NATIVE_ISA"))
    for (int i = 0; i < kIsaCount; ++i)
      if (std::string(wanted) == kIsaNames[i] && isa_supported(Isa(i))) return Isa(i);
  return isa_best();
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{initial()};
  return isa;
}

}  // namespace

bool isa_compiled([[maybe_unused]] Isa isa) {
#ifdef MN_HAVE_X86
  return true;
#else
  return isa == Isa::scalar;
#endif
}

bool isa_supported(Isa isa) {
  if (!isa_compiled(isa)) return false;
#ifdef MN_HAVE_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512cd");
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return avx2;
    case Isa::avx512:
      return avx512;
    case Isa::avx512bf16:
      return avx512 && __builtin_cpu_supports("avx512bf16") &&
             __builtin_cpu_supports("avx512vbmi") && __builtin_cpu_supports("avx512vnni");
  }
#endif
  return isa == Isa::scalar;
}

Isa isa_best() {
  for (int i = kIsaCount - 1; i > 0; --i)
    if (isa_supported(Isa(i))) return Isa(i);
  return Isa::scalar;
}

Isa isa_current() { return current().load(std::memory_order_relaxed); }
void isa_set(Isa isa) { current().store(isa, std::memory_order_relaxed); }

}  // namespace mn
