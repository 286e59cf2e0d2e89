// The PTX that nvcc embeds in an object file.
#pragma once

#include <string>
#include <vector>

namespace ptxsim {

struct PtxImage {
  int arch = 0;           // 90 for .target sm_90 and sm_90a
  bool specific = false;  // sm_90a: for this architecture only
  std::string text;
};

// `wrapper` is what the registration code of an object hands to the runtime. Only plain text is
// read, so objects must be compiled with --no-compress; compressed images are passed over.
std::vector<PtxImage> ptx_images(const void* wrapper);

}  // namespace ptxsim
