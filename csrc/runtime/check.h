// Argument checks of the bindings. Each failure says op, argument, expected, got and remedy;
// success allocates nothing.
#pragma once

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "runtime/tensor.h"

namespace mn {

// Become mimo_native.errors.ShapeError and UnsupportedError in Python (runtime/module.cpp).
struct ShapeError : std::exception {
  std::string op, argument, expected, got, remedy;
  ShapeError(std::string op, std::string argument, std::string expected, std::string got,
             std::string remedy)
      : op(std::move(op)),
        argument(std::move(argument)),
        expected(std::move(expected)),
        got(std::move(got)),
        remedy(std::move(remedy)) {}
};

struct UnsupportedError : std::exception {
  std::string op;
  std::vector<std::string> reasons;
  std::string remedy;
  UnsupportedError(std::string op, std::vector<std::string> reasons, std::string remedy)
      : op(std::move(op)), reasons(std::move(reasons)), remedy(std::move(remedy)) {}
};

// A dimension in an expected shape: a fixed size, or kAny.
inline constexpr int64_t kAny = -1;

enum class Device { cpu, cuda };

class Check {
 public:
  // `device` is where the tensors of on_device must be: one validation serves both modules.
  explicit Check(const char* op, Device device = Device::cpu) : op_(op), device_(device) {}

  // `symbols` names the dimensions in the message, e.g. "[N, Hq, Dqk]".
  void shape(const Tensor& t, const char* argument, std::initializer_list<int64_t> sizes,
             const char* symbols) const;
  void ndim_at_least(const Tensor& t, const char* argument, int ndim, const char* symbols) const;
  void dtype(const Tensor& t, const char* argument, std::initializer_list<DType> allowed) const;
  void same_dtype(const Tensor& t, const char* argument, const Tensor& other,
                  const char* other_argument) const;
  void on_cpu(const Tensor& t, const char* argument) const;
  void on_device(const Tensor& t, const char* argument) const;
  void same_device(const Tensor& t, const char* argument, const Tensor& other,
                   const char* other_argument) const;
  void contiguous(const Tensor& t, const char* argument) const;
  void last_dim_contiguous(const Tensor& t, const char* argument) const;
  // A plain condition; the strings are only built on failure, so pass cheap expressions.
  [[noreturn]] void fail(const char* argument, const std::string& expected, const std::string& got,
                         const std::string& remedy = "") const;
  void range(int64_t value, const char* argument, int64_t low, int64_t high) const;  // inclusive

  const char* op() const { return op_; }

 private:
  const char* op_;
  Device device_;
};

}  // namespace mn
