// Working memory of a call, kept by the calling thread between calls: a prefill would otherwise
// spend more time on page faults than on some of its layers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace mn {

// Adds up the parts of one call's scratch, each aligned to a cache line pair.
class ScratchPlan {
 public:
  int64_t add(int64_t bytes) {
    const int64_t at = total_;
    total_ += (bytes + 127) / 128 * 128;
    return at;
  }
  int64_t total() const { return total_; }

 private:
  int64_t total_ = 0;
};

// At least `bytes`, aligned to 2 MiB, valid until the thread's next call of the same function or of
// release_scratch. Throws std::bad_alloc.
char* scratch(int64_t bytes);    // of one op
char* workspace(int64_t bytes);  // of a call that makes a sequence of ops
void release_scratch();          // and what is kept for large tensors

}  // namespace mn
