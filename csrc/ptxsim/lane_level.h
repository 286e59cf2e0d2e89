// The lane handlers of the level that is being compiled: PTXSIM_LEVEL is its name.
#pragma once

#include "ptxsim/operations.h"

namespace ptxsim::PTXSIM_LEVEL {

Handler integer_handler(Op op, Type type);
Handler float_handler(Op op, Type type, bool flush, bool saturate);
Handler compare_handler(Compare compare, Type type);
Handler select_handler(int bytes);
Handler convert_handler(const Conversion& how);
void products(const float* a, const float* b, float* d, int k, int n);
Handler matrix_handler(int m, int n, int k, Type a, Type b, Type accumulator);

}  // namespace ptxsim::PTXSIM_LEVEL
