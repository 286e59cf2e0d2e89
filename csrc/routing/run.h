// The router's kernel, with the error for scores that are no numbers.
#pragma once

#include "routing/problem.h"
#include "runtime/check.h"

namespace mn {

void run_route(const Check& check, const RouteProblem& problem);

}  // namespace mn
