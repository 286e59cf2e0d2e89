// What the checkers found.
#pragma once

#include <map>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "ptxsim/types.h"

namespace ptxsim {

struct Report {
  std::string kind;     // "race", "out of bounds", "deadlock" ...
  std::string message;  // one sentence, without the place
  std::string kernel;
  Dim3 block{0, 0, 0};
  u32 thread = 0;  // linear in the block
  int ptx_line = 0;
  std::string ptx;          // the statement's text
  std::string source;       // "file.cu:12", empty without line information
  std::string called_from;  // ... and where that line was inlined, if it was
  u64 times = 1;            // how often this kind was found at this instruction
};

// Collects reports from all workers: the first of each kind and instruction, and a count.
class Reports {
 public:
  void add(Report report) {
    const std::lock_guard lock(mutex_);
    const auto [it, added] = seen_.try_emplace({report.kind, report.ptx_line}, reports_.size());
    if (added)
      reports_.push_back(std::move(report));
    else
      ++reports_[it->second].times;
  }
  std::vector<Report> take() {
    const std::lock_guard lock(mutex_);
    seen_.clear();
    return std::move(reports_);
  }

 private:
  std::mutex mutex_;
  std::vector<Report> reports_;
  std::map<std::pair<std::string, int>, size_t> seen_;
};

}  // namespace ptxsim
