#include "ptxsim/memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <new>
#include <utility>

namespace ptxsim {

LazyPages::LazyPages(size_t bytes) : bytes_(std::max<size_t>(bytes, 1)) {
  void* pages = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  data_ = static_cast<u8*>(pages);
}

LazyPages::~LazyPages() {
  if (data_) munmap(data_, bytes_);
}

LazyPages& LazyPages::operator=(LazyPages&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

ShadowLine* Allocation::shadow_line(u64 address) const {
  std::call_once(shadow_once, [&] {
    shadow =
        std::make_unique<LazyPages>((end / kGranule - begin / kGranule + 1) * sizeof(ShadowLine));
  });
  return reinterpret_cast<ShadowLine*>(shadow->data()) + (address / kGranule - begin / kGranule);
}

bool Allocation::is_initialised(u64 address, u32 bytes) const {
  const u8* bits = initialised->data();
  for (u64 i = address - begin; i < address - begin + bytes; ++i)
    if (!(bits[i / 8] >> (i % 8) & 1)) return false;
  return true;
}

void Allocation::set_initialised(u64 address, u32 bytes) {
  u8* bits = initialised->data();
  for (u64 i = address - begin; i < address - begin + bytes; ++i)
    __atomic_fetch_or(&bits[i / 8], static_cast<u8>(1u << (i % 8)), __ATOMIC_RELAXED);
}

bool GlobalMemory::add(u64 begin, u64 bytes, std::string name, bool writable, bool initialised) {
  const u64 end = begin + bytes;
  auto at = std::upper_bound(allocations_.begin(), allocations_.end(), begin,
                             [](u64 value, const auto& a) { return value < a->begin; });
  if (at != allocations_.begin()) {
    Allocation& before = **std::prev(at);
    if (before.begin <= begin && end <= before.end) {
      before.writable |= writable;
      return true;
    }
    if (before.end > begin) return false;
  }
  if (at != allocations_.end() && (*at)->begin < end) return false;
  auto allocation = std::make_unique<Allocation>();
  allocation->begin = begin;
  allocation->end = end;
  allocation->name = std::move(name);
  allocation->writable = writable;
  allocation->tracks_initialised = !initialised;
  if (!initialised) allocation->initialised = std::make_unique<LazyPages>(bytes / 8 + 1);
  allocations_.insert(at, std::move(allocation));
  return true;
}

void GlobalMemory::remove(u64 begin) {
  std::erase_if(allocations_, [&](const auto& a) { return a->begin == begin; });
}

Allocation* GlobalMemory::find(u64 address) const {
  const auto at = std::upper_bound(allocations_.begin(), allocations_.end(), address,
                                   [](u64 value, const auto& a) { return value < a->begin; });
  if (at == allocations_.begin()) return nullptr;
  Allocation* a = std::prev(at)->get();
  return address < a->end ? a : nullptr;
}

void GlobalMemory::advance_time(u32 latest) {
  time_base_ = latest;
  if (latest < (1u << 27)) return;  // a Record has 28 bits
  for (const auto& a : allocations_)
    if (a->shadow) *a->shadow = LazyPages(a->shadow->size());
  time_base_ = 1;
}

std::string GlobalMemory::describe(u64 address) const {
  const Allocation* nearest = nullptr;
  u64 distance = ~u64{0};
  for (const auto& a : allocations_) {
    const u64 d = address < a->begin  ? a->begin - address
                  : address >= a->end ? address - a->end
                                      : 0;
    if (d < distance) {
      distance = d;
      nearest = a.get();
    }
  }
  if (!nearest) return "no memory was given to the launch";
  char text[160];
  if (address < nearest->begin)
    std::snprintf(text, sizeof text, "%llu bytes before %s of %llu bytes",
                  static_cast<unsigned long long>(distance), nearest->name.c_str(),
                  static_cast<unsigned long long>(nearest->end - nearest->begin));
  else
    std::snprintf(text, sizeof text, "at byte %llu of %s, which has %llu bytes",
                  static_cast<unsigned long long>(address - nearest->begin), nearest->name.c_str(),
                  static_cast<unsigned long long>(nearest->end - nearest->begin));
  return text;
}

}  // namespace ptxsim
