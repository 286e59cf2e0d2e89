#include "runtime/cuda/module.h"

#include "runtime/cuda/device.h"
#include "runtime/errors_python.h"

#ifdef MN_SIMULATED_GPU
#include "ptxsim/cudart/outputs.h"
#include "runtime/new_tensor.h"
#define MN_CUDA_MODULE _cuda_sim
#else
#define MN_CUDA_MODULE _cuda
#endif

PYBIND11_MODULE(MN_CUDA_MODULE, m) {
  mn::register_errors();
#ifdef MN_SIMULATED_GPU
  mn::observe_new_tensors(ptxsim::add_gpu_output);
#endif
  // Asked before every call: a machine does not gain or lose its GPU while a process runs.
  m.def(
      "unavailable_reason",
      []() -> const std::string& {
        static const std::string reason = mn::unavailable_reason();
        return reason;
      },
      "Why no kernel can run on this machine; empty when one can.");
  m.def("runtime_version", &mn::runtime_version, "CUDA version of the runtime, as in '13.0'.");
  m.def("driver_version", &mn::driver_version,
        "Newest CUDA version of the driver; '' without one.");
  m.def("runtime_linkage", [] { return MN_CUDART; }, "'static', 'shared' or 'simulated'.");
  mn::bind_attention_cuda(m);
  mn::bind_experts_cuda(m);
  mn::bind_gemm_cuda(m);
  mn::bind_norm_rope_cuda(m);
  mn::bind_sampling_cuda(m);
  mn::bind_speculative_cuda(m);
  mn::bind_routing_cuda(m);
}
