// The instruction-set levels every CPU kernel is compiled for, and the one in use.
#pragma once

#include <array>
#include <string>

namespace mn {

enum class Isa { scalar, avx2, avx512, avx512bf16 };
inline constexpr int kIsaCount = 4;
inline constexpr std::array<const char*, kIsaCount> kIsaNames = {"scalar", "avx2", "avx512",
                                                                 "avx512bf16"};

bool isa_compiled(Isa isa);   // this build holds the level's objects
bool isa_supported(Isa isa);  // ... and this CPU can run them
Isa isa_best();
Isa isa_current();
void isa_set(Isa isa);  // the caller has checked isa_supported

// One pointer per level to a family's table of kernels; a level that was not compiled is null.
template <class Table>
struct PerIsa {
  std::array<const Table*, kIsaCount> tables;
  const Table& operator()() const { return *tables[static_cast<int>(isa_current())]; }
};

}  // namespace mn

// Declares `const Table name` in each level's namespace and a dispatcher `name##_for_isa()`.
#ifdef MN_HAVE_X86
#define MN_DECLARE_KERNELS(Table, name)                                  \
  namespace scalar {                                                     \
  extern const Table name;                                               \
  }                                                                      \
  namespace avx2 {                                                       \
  extern const Table name;                                               \
  }                                                                      \
  namespace avx512 {                                                     \
  extern const Table name;                                               \
  }                                                                      \
  namespace avx512bf16 {                                                 \
  extern const Table name;                                               \
  }                                                                      \
  inline const Table& name##_for_isa() {                                 \
    static const PerIsa<Table> all{                                      \
        {&scalar::name, &avx2::name, &avx512::name, &avx512bf16::name}}; \
    return all();                                                        \
  }
#else
#define MN_DECLARE_KERNELS(Table, name)                                         \
  namespace scalar {                                                            \
  extern const Table name;                                                      \
  }                                                                             \
  inline const Table& name##_for_isa() {                                        \
    static const PerIsa<Table> all{{&scalar::name, nullptr, nullptr, nullptr}}; \
    return all();                                                               \
  }
#endif
