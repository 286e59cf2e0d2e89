// Memory of large tensors. What a tensor gives back is kept for the next one of about its size:
// fresh pages cost a fault each, which takes longer than many a kernel that fills them.
#pragma once

#include <cstddef>

namespace mn {

inline constexpr size_t kHugePage = size_t{2} << 20;

// `bytes` or more, aligned to 2 MiB, on pages of that size where the system grants them. From any
// thread. Throws std::bad_alloc.
char* take_pages(size_t bytes);
// Of take_pages, with the same `bytes`. At most 64 MiB are kept, the last ones given back.
void give_back_pages(char* pages, size_t bytes);
void release_pages();  // gives what is kept to the system

}  // namespace mn
