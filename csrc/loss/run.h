// From checked arguments to the kernels: plan, scratch, call. Needs no Python.
#pragma once

#include "loss/problem.h"

namespace mn {

// `problem` without rows, scratch and threads, which are filled in here.
void run_loss_forward(LossForward problem);

// The same. Either dx or dx_bf16 is set, or neither.
void run_loss_backward(LossBackward problem);

}  // namespace mn
