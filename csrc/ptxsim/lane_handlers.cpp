// The table of one level.
#include "ptxsim/lane_level.h"

namespace ptxsim::PTXSIM_LEVEL {

#define PTXSIM_STRING(x) #x
#define PTXSIM_NAME(x) PTXSIM_STRING(x)

extern const LaneHandlers lane_handlers = {
    PTXSIM_NAME(PTXSIM_LEVEL), integer_handler, float_handler, compare_handler, select_handler,
    convert_handler,           matrix_handler,  products,
};

}  // namespace ptxsim::PTXSIM_LEVEL
