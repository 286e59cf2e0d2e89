// The device behind the simulated CUDA runtime: its memory, the kernels of the objects that
// registered with it, and what its launches found.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "ptxsim/cudart/fat_binary.h"
#include "ptxsim/launch.h"

namespace ptxsim {

struct GpuOptions {
  int major = 9, minor = 0;
  u32 multiprocessors = 4;
  LaunchOptions launch;
};

// A launch, done.
struct GpuLaunch {
  std::string kernel;
  Dim3 grid, block;
  const Program* program = nullptr;  // null: the launch was refused, as its report says
  LaunchResult result;
};

enum class LaunchStatus { done, no_function, no_image, bad_shape, too_much_shared, found_mistakes };

class Gpu {
 public:
  static constexpr u32 kSharedByDefault = 48 * 1024, kSharedAtMost = 227 * 1024;

  static Gpu& instance();

  // --- Registration, by the objects' start-up code ---
  void* add_binary(const void* wrapper);
  void add_function(const void* host, void* binary, const char* name);
  void add_variable(const void* host, void* binary, const char* name);

  // --- Memory ---
  void* allocate(size_t bytes);
  bool free(void* pointer);  // false: not from allocate()
  bool add_memory(u64 begin, u64 bytes, const std::string& name, bool writable);
  void remove_memory(u64 begin);
  void add_output(u64 begin, u64 bytes);  // outputs.h
  void forget_outputs();
  void mark_written(const void* pointer, size_t bytes);
  void* variable(const void* host, size_t* bytes);  // null: none

  // --- Launches, one at a time ---
  LaunchStatus launch(const void* host, const Dim3& grid, const Dim3& block, Dim3 cluster,
                      void** arguments, size_t shared);
  const Program* program_of(const void* host);
  void allow_shared(const void* host, u32 bytes);
  u32 allowed_shared(const void* host);

  // --- For tests ---
  void configure(const GpuOptions& options);
  GpuOptions options();
  std::vector<GpuLaunch> take_launches();
  // PTX of every registered object that this device would run: binary number and text.
  std::vector<std::pair<size_t, std::string>> images();
  // Runs `text` instead of a binary's PTX; empty: the binary's own again.
  void substitute(size_t binary, const std::string& text);

 private:
  struct Image {
    PtxImage ptx;
    std::unique_ptr<LoadedModule> module;
  };
  struct Binary {
    size_t number = 0;
    std::vector<Image> images;
    std::unique_ptr<LoadedModule> substitute;
  };
  struct Symbol {
    Binary* binary = nullptr;
    std::string name;
    u32 allowed_shared = kSharedByDefault;
  };

  Image* image_of(Binary& binary);
  const LoadedModule* module_of(Binary& binary);
  LaunchStatus refuse(const std::string& kernel, const std::string& why, LaunchStatus status);

  std::recursive_mutex mutex_;
  GpuOptions options_;
  GlobalMemory memory_;
  std::map<u64, std::pair<std::unique_ptr<u8[]>, size_t>> owned_;  // by address
  std::vector<std::pair<u64, u64>> outputs_;                       // begin, end
  std::vector<std::unique_ptr<Binary>> binaries_;
  std::map<const void*, Symbol> functions_, variables_;
  std::vector<GpuLaunch> launches_;
};

}  // namespace ptxsim
