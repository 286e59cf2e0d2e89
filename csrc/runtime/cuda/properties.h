// What a plan asks of a device.
#pragma once

namespace mn {

struct Gpu {
  int multiprocessors;
  int major, minor;  // compute capability
};

}  // namespace mn
