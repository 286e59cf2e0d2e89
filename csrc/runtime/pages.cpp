#include "runtime/pages.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
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

// Mapped by hand: malloc would answer large blocks that come and go by keeping ever larger ones.
char* map(size_t bytes) {
  void* const whole =
      mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (whole == MAP_FAILED) throw std::bad_alloc();
  char* const begin = static_cast<char*>(whole);
  const size_t before = (kHugePage - reinterpret_cast<uintptr_t>(begin) % kHugePage) % kHugePage;
  char* const pages = begin + before;
  if (before) munmap(begin, before);
  if (before < kHugePage) munmap(pages + bytes, kHugePage - before);
#ifdef MADV_HUGEPAGE
  madvise(pages, bytes, MADV_HUGEPAGE);
#endif
  return pages;
}

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
  return map(size);
}

void give_back_pages(char* pages, size_t bytes) {
  const size_t size = rounded(bytes);
  if (size > kMostKept) {
    munmap(pages, size);
    return;
  }
  const std::lock_guard lock(shelf.mutex);
  while (shelf.count == kMostBlocks || shelf.bytes + size > kMostKept) {
    munmap(shelf.kept[0].pages, shelf.kept[0].bytes);
    shelf.remove(0);
  }
  shelf.kept[shelf.count++] = {pages, size};
  shelf.bytes += size;
}

void release_pages() {
  const std::lock_guard lock(shelf.mutex);
  while (shelf.count) {
    munmap(shelf.kept[0].pages, shelf.kept[0].bytes);
    shelf.remove(0);
  }
}

}  // namespace mn
