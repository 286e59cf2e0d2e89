// The router's kernels, compiled once per ISA level.
#include "routing/backward.h"
#include "routing/forward.h"

namespace mn::MN_ISA {

extern const RoutingKernels routing_kernels = {route, route_backward};

}  // namespace mn::MN_ISA
