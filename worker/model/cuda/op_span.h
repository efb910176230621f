// OpSpan: one run of an operator on a GPU, timed: what traces and `bench kernels` are made of.
// Values; a TraceSink is called on engines' threads, also of several engines at once.
#pragma once

#include <functional>
#include <string>
#include <vector>

namespace conclave {

// One run of an operator.
struct OpSpan {
  std::string name;
  int rank = 0;
  int layer = -1;
  double begin_us = 0;  // since the process began to trace
  double duration_us = 0;
  double bytes = 0;  // of memory that it must move
  double flops = 0;
};

// Called on an engine's thread once per traced step; several engines share it.
using TraceSink = std::function<void(std::vector<OpSpan> spans)>;

}  // namespace conclave
