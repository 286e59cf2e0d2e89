#include <stdexcept>

#include "runtime/check.h"
#include "runtime/cuda/device.h"

namespace mn {
namespace {

constexpr int kMinimumMajor = 8;

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

void throw_on_error(cudaError_t status, const char* op) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(op) + ": CUDA error " + cudaGetErrorName(status) + ": " +
                           cudaGetErrorString(status));
}

DeviceScope::DeviceScope(int device) {
  throw_on_error(cudaGetDevice(&previous_), "cudaGetDevice");
  if (previous_ == device) return;
  throw_on_error(cudaSetDevice(device), "cudaSetDevice");
  changed_ = true;
}

DeviceScope::~DeviceScope() {
  if (changed_) cudaSetDevice(previous_);
}

Gpu gpu_of(int device, const char* op) {
  Gpu gpu{};
  const auto ask = [&](int& value, cudaDeviceAttr attribute) {
    throw_on_error(cudaDeviceGetAttribute(&value, attribute, device), op);
  };
  ask(gpu.major, cudaDevAttrComputeCapabilityMajor);
  ask(gpu.minor, cudaDevAttrComputeCapabilityMinor);
  ask(gpu.multiprocessors, cudaDevAttrMultiProcessorCount);
  if (gpu.major < kMinimumMajor)
    throw UnsupportedError(
        op,
        {"the kernels need compute capability 8.0 or later, device " + std::to_string(device) +
         " has " + std::to_string(gpu.major) + "." + std::to_string(gpu.minor)},
        "Move the tensors to another device.");
  return gpu;
}

std::string unavailable_reason() {
  int driver = 0, devices = 0, major = 0;
  // Without a driver the runtime reports version 0 and "driver version is insufficient", which
  // would mislead.
  if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0)
    return "no NVIDIA driver (libcuda.so.1) found";
  const cudaError_t status = cudaGetDeviceCount(&devices);
  if (status == cudaErrorInsufficientDriver)
    return "the NVIDIA driver serves CUDA " + version_text(driver) + ", this build needs " +
           runtime_version();
  if (status != cudaSuccess) return std::string("CUDA: ") + cudaGetErrorString(status);
  if (devices == 0) return "the NVIDIA driver sees no GPU";
  for (int device = 0; device < devices; ++device) {
    cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (major >= kMinimumMajor) return "";
  }
  return "the kernels need compute capability 8.0 or later, the newest GPU here has " +
         std::to_string(major) + ".x";
}

std::string runtime_version() {
  int version = 0;
  throw_on_error(cudaRuntimeGetVersion(&version), "cudaRuntimeGetVersion");
  return version_text(version);
}

std::string driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess && version ? version_text(version) : "";
}

}  // namespace mn
