// Global memory: which addresses a launch may use. Memory is used in place; an address is valid if
// an allocation covers it.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ptxsim/shadow.h"
#include "ptxsim/types.h"

namespace ptxsim {

// Memory of zeros that costs nothing until it is touched.
class LazyPages {
 public:
  explicit LazyPages(size_t bytes);
  ~LazyPages();
  LazyPages(const LazyPages&) = delete;
  LazyPages& operator=(LazyPages&& other) noexcept;
  u8* data() const { return data_; }
  size_t size() const { return bytes_; }

 private:
  u8* data_ = nullptr;
  size_t bytes_;
};

struct Allocation {
  u64 begin = 0, end = 0;
  std::string name;
  bool writable = true;
  bool tracks_initialised = false;
  // Made on first use, for granules counted from begin rounded down.
  mutable std::once_flag shadow_once;
  mutable std::unique_ptr<LazyPages> shadow;
  std::unique_ptr<LazyPages> initialised;  // a bit per byte

  ShadowLine* shadow_line(u64 address) const;
  bool is_initialised(u64 address, u32 bytes) const;
  void set_initialised(u64 address, u32 bytes);
};

class GlobalMemory {
 public:
  // Fails (returns false) where it would overlap another allocation in part. An equal or enclosing
  // one is kept as it is.
  bool add(u64 begin, u64 bytes, std::string name, bool writable, bool initialised);
  void remove(u64 begin);
  Allocation* find(u64 address) const;  // the one that holds address; null if none
  // The nearest allocation, to say how far outside an address is.
  std::string describe(u64 address) const;

  // Launches follow each other: no access of an earlier one races with a later one.
  u32 time_base() const { return time_base_; }
  void advance_time(u32 latest);

 private:
  std::vector<std::unique_ptr<Allocation>> allocations_;  // by begin
  u32 time_base_ = 1;
};

}  // namespace ptxsim
