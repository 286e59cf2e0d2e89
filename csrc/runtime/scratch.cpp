#include "runtime/scratch.h"

#include <sys/mman.h>

#include <cstdlib>
#include <memory>
#include <new>

#include "runtime/pages.h"

namespace mn {
namespace {

struct Free {
  void operator()(char* p) const { std::free(p); }
};

struct Arena {
  std::unique_ptr<char, Free> data;
  size_t bytes = 0;
};

Arena& op_arena() {
  thread_local Arena a;
  return a;
}

Arena& call_arena() {
  thread_local Arena a;
  return a;
}

char* at_least(Arena& a, int64_t bytes) {
  if (static_cast<size_t>(bytes) > a.bytes) {
    a = {};
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

}  // namespace

char* scratch(int64_t bytes) { return at_least(op_arena(), bytes); }
char* workspace(int64_t bytes) { return at_least(call_arena(), bytes); }

void release_scratch() {
  op_arena() = {};
  call_arena() = {};
  release_pages();
}

}  // namespace mn
