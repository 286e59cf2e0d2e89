#include "ptxsim/cudart/gpu.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "ptxsim/cudart/outputs.h"

namespace ptxsim {
namespace {

constexpr u64 kAlign = 256;
using Lock = std::lock_guard<std::recursive_mutex>;

}  // namespace

Gpu& Gpu::instance() {
  static Gpu gpu;
  return gpu;
}

void* Gpu::add_binary(const void* wrapper) {
  const Lock lock(mutex_);
  auto binary = std::make_unique<Binary>();
  binary->number = binaries_.size();
  for (PtxImage& ptx : ptx_images(wrapper)) binary->images.push_back({std::move(ptx), nullptr});
  binaries_.push_back(std::move(binary));
  return binaries_.back().get();
}

void Gpu::add_function(const void* host, void* binary, const char* name) {
  const Lock lock(mutex_);
  functions_[host] = {static_cast<Binary*>(binary), name, kSharedByDefault};
}

void Gpu::add_variable(const void* host, void* binary, const char* name) {
  const Lock lock(mutex_);
  variables_[host] = {static_cast<Binary*>(binary), name, 0};
}

void* Gpu::allocate(size_t bytes) {
  const Lock lock(mutex_);
  auto storage = std::make_unique<u8[]>(bytes + 2 * kAlign);
  const u64 begin = (reinterpret_cast<u64>(storage.get()) + kAlign - 1) / kAlign * kAlign;
  if (bytes > 0) memory_.add(begin, bytes, "a device allocation", true, false);
  owned_[begin] = {std::move(storage), bytes};
  return reinterpret_cast<void*>(begin);
}

bool Gpu::free(void* pointer) {
  const Lock lock(mutex_);
  const auto it = owned_.find(reinterpret_cast<u64>(pointer));
  if (it == owned_.end()) return false;
  memory_.remove(it->first);
  owned_.erase(it);
  return true;
}

bool Gpu::add_memory(u64 begin, u64 bytes, const std::string& name, bool writable) {
  const Lock lock(mutex_);
  return memory_.add(begin, bytes, name, writable, true);
}

void Gpu::remove_memory(u64 begin) {
  const Lock lock(mutex_);
  memory_.remove(begin);
}

void Gpu::add_output(u64 begin, u64 bytes) {
  const Lock lock(mutex_);
  std::erase_if(outputs_, [&](const auto& old) {  // one that was freed since
    if (old.second <= begin || begin + bytes <= old.first) return false;
    memory_.remove(old.first);
    return true;
  });
  memory_.add(begin, bytes, "an output", true, false);
  outputs_.emplace_back(begin, begin + bytes);
}

void Gpu::forget_outputs() {
  const Lock lock(mutex_);
  for (const auto& output : outputs_) memory_.remove(output.first);
  outputs_.clear();
}

void add_gpu_output(void* data, size_t bytes) {
  Gpu::instance().add_output(reinterpret_cast<u64>(data), bytes);
}

void Gpu::mark_written(const void* pointer, size_t bytes) {
  const Lock lock(mutex_);
  const u64 begin = reinterpret_cast<u64>(pointer);
  Allocation* a = memory_.find(begin);
  if (!a || !a->tracks_initialised) return;
  for (u64 at = begin, end = std::min(begin + bytes, a->end); at < end;) {
    const u64 part = std::min<u64>(end - at, 1u << 30);
    a->set_initialised(at, static_cast<u32>(part));
    at += part;
  }
}

void* Gpu::variable(const void* host, size_t* bytes) {
  const Lock lock(mutex_);
  const auto it = variables_.find(host);
  if (it == variables_.end()) return nullptr;
  const LoadedModule* module = module_of(*it->second.binary);
  if (!module) return nullptr;
  for (const LoadedModule::Storage& s : module->storage())
    if (s.name == it->second.name) {
      if (bytes) *bytes = s.size;
      return reinterpret_cast<void*>(s.address);
    }
  return nullptr;
}

// The newest PTX that the device may run; code for one architecture is preferred on it.
Gpu::Image* Gpu::image_of(Binary& binary) {
  const int device = options_.major * 10 + options_.minor;
  Image* best = nullptr;
  for (Image& image : binary.images) {
    const PtxImage& p = image.ptx;
    if (p.arch > device || (p.specific && p.arch != device)) continue;
    if (!best || p.arch > best->ptx.arch || (p.arch == best->ptx.arch && p.specific)) best = &image;
  }
  return best;
}

const LoadedModule* Gpu::module_of(Binary& binary) {
  if (binary.substitute) return binary.substitute.get();
  Image* image = image_of(binary);
  if (!image) return nullptr;
  if (!image->module) image->module = std::make_unique<LoadedModule>(image->ptx.text);
  return image->module.get();
}

const Program* Gpu::program_of(const void* host) {
  const Lock lock(mutex_);
  const auto it = functions_.find(host);
  if (it == functions_.end()) return nullptr;
  const LoadedModule* module = module_of(*it->second.binary);
  return module ? module->find(it->second.name) : nullptr;
}

void Gpu::allow_shared(const void* host, u32 bytes) {
  const Lock lock(mutex_);
  functions_[host].allowed_shared = std::max(bytes, kSharedByDefault);
}

u32 Gpu::allowed_shared(const void* host) {
  const Lock lock(mutex_);
  return functions_[host].allowed_shared;
}

LaunchStatus Gpu::refuse(const std::string& kernel, const std::string& why, LaunchStatus status) {
  GpuLaunch launch;
  launch.kernel = kernel;
  Report report;
  report.kind = "launch";
  report.message = why;
  report.kernel = kernel;
  launch.result.reports.push_back(report);
  launches_.push_back(std::move(launch));
  return status;
}

LaunchStatus Gpu::launch(const void* host, const Dim3& grid, const Dim3& block, Dim3 cluster,
                         void** arguments, size_t shared) {
  const Lock lock(mutex_);
  const auto it = functions_.find(host);
  if (it == functions_.end())
    return refuse("?", "no such kernel was registered", LaunchStatus::no_function);
  const Symbol& symbol = it->second;
  const LoadedModule* module = module_of(*symbol.binary);
  const Program* program = module ? module->find(symbol.name) : nullptr;
  if (!program)
    return refuse(symbol.name,
                  "the object holds no PTX text for a device of compute capability " +
                      std::to_string(options_.major) + "." + std::to_string(options_.minor) +
                      "; compile with --no-compress and an architecture such as 90-virtual",
                  LaunchStatus::no_image);
  if (shared > symbol.allowed_shared || shared > kSharedAtMost)
    return refuse(symbol.name,
                  std::to_string(shared) + " bytes of dynamic shared memory, the kernel may have " +
                      std::to_string(symbol.allowed_shared),
                  LaunchStatus::too_much_shared);
  if (cluster.count() == 1 && program->cluster.x) cluster = program->cluster;
  std::vector<u8> params(program->param_bytes);
  for (size_t i = 0; i < program->params.size(); ++i)
    std::memcpy(params.data() + program->params[i].offset, arguments[i], program->params[i].bytes);
  GpuLaunch record;
  record.kernel = symbol.name;
  record.grid = grid;
  record.block = block;
  record.program = program;
  try {
    Launch launch(*module, *program,
                  {grid, block, cluster, static_cast<u32>(shared), options_.multiprocessors},
                  params, memory_, options_.launch);
    record.result = launch.run();
  } catch (const std::invalid_argument& error) {
    return refuse(symbol.name, error.what(), LaunchStatus::bad_shape);
  }
  const bool silent = record.result.reports.empty();
  launches_.push_back(std::move(record));
  return silent ? LaunchStatus::done : LaunchStatus::found_mistakes;
}

void Gpu::configure(const GpuOptions& options) {
  const Lock lock(mutex_);
  options_ = options;
}

GpuOptions Gpu::options() {
  const Lock lock(mutex_);
  return options_;
}

std::vector<GpuLaunch> Gpu::take_launches() {
  const Lock lock(mutex_);
  return std::move(launches_);
}

std::vector<std::pair<size_t, std::string>> Gpu::images() {
  const Lock lock(mutex_);
  std::vector<std::pair<size_t, std::string>> found;
  for (const auto& binary : binaries_)
    if (const Image* image = image_of(*binary)) found.emplace_back(binary->number, image->ptx.text);
  return found;
}

void Gpu::substitute(size_t binary, const std::string& text) {
  const Lock lock(mutex_);
  Binary& b = *binaries_.at(binary);
  if (b.substitute)
    for (const LoadedModule::Storage& variable : b.substitute->storage())
      memory_.remove(variable.address);
  b.substitute = text.empty() ? nullptr : std::make_unique<LoadedModule>(text);
}

}  // namespace ptxsim
