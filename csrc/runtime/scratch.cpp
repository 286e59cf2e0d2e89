#include "runtime/scratch.h"

#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <new>

namespace mn {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

struct Free {
  void operator()(char* p) const { std::free(p); }
};

struct Arena {
  std::unique_ptr<char, Free> data;
  size_t bytes = 0;
};

Arena& arena() {
  thread_local Arena a;
  return a;
}

}  // namespace

char* scratch(int64_t bytes) {
  Arena& a = arena();
  if (static_cast<size_t>(bytes) > a.bytes) {
    release_scratch();
    const size_t size = (static_cast<size_t>(bytes) + kHugePage - 1) / kHugePage * kHugePage;
    a.data.reset(static_cast<char*>(std::aligned_alloc(kHugePage, size)));
    if (!a.data) throw std::bad_alloc();
    a.bytes = size;
#ifdef MADV_HUGEPAGE
    madvise(a.data.get(), size, MADV_HUGEPAGE);
#endif
  }
  return a.data.get();
}

void release_scratch() { arena() = {}; }

}  // namespace mn
