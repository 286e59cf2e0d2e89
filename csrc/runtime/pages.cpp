#include "runtime/pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>

namespace mn {
namespace {

constexpr size_t kMostKept = size_t{64} << 20, kMostBlocks = 32, kStep = size_t{64} << 10;

struct Kept {
  char* pages;
  size_t bytes;
};

// Without a destructor: tensors may outlive everything else in the process.
struct Shelf {
  std::mutex mutex;
  Kept kept[kMostBlocks];  // the oldest first
  size_t count, bytes;

  void remove(size_t at) {
    bytes -= kept[at].bytes;
    std::move(kept + at + 1, kept + count, kept + at);
    --count;
  }
};

constinit Shelf shelf{};

size_t rounded(size_t bytes) { return (bytes + kStep - 1) / kStep * kStep; }

}  // namespace

char* take_pages(size_t bytes) {
  const size_t size = rounded(bytes);
  {
    const std::lock_guard lock(shelf.mutex);
    for (size_t i = shelf.count; i-- > 0;)
      if (shelf.kept[i].bytes == size) {
        char* const pages = shelf.kept[i].pages;
        shelf.remove(i);
        return pages;
      }
  }
  auto* const pages = static_cast<char*>(std::aligned_alloc(kHugePage, size));
  if (!pages) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(pages, size, MADV_HUGEPAGE);
#endif
  return pages;
}

void give_back_pages(char* pages, size_t bytes) {
  const size_t size = rounded(bytes);
  if (size > kMostKept) return std::free(pages);
  const std::lock_guard lock(shelf.mutex);
  while (shelf.count == kMostBlocks || shelf.bytes + size > kMostKept) {
    std::free(shelf.kept[0].pages);
    shelf.remove(0);
  }
  shelf.kept[shelf.count++] = {pages, size};
  shelf.bytes += size;
}

void release_pages() {
  const std::lock_guard lock(shelf.mutex);
  while (shelf.count) {
    std::free(shelf.kept[0].pages);
    shelf.remove(0);
  }
}

}  // namespace mn
