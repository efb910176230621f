// For tests and benchmarks: runs a body once for each instruction set that the kernels are compiled
// for and this machine has, so that results can be compared between AVX2 and AVX-512. Changes the
// process-wide choice of Highway; one thread.
#pragma once

// clang-format off: the baseline of Highway must be named before any of its headers.
#include "kernels/tensor/simd_targets.h"
// clang-format on

#include <string>

#include "absl/functional/function_ref.h"
#include "hwy/highway.h"

namespace conclave {

// Restricts dispatch to one target (HWY_AVX2, HWY_AVX3); 0 restores the automatic choice.
inline void UseTarget(int64_t target) {
  hwy::SetSupportedTargetsForTest(target);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

// Calls body(name) for every target; then restores the automatic choice.
inline void ForEachTarget(absl::FunctionRef<void(const std::string& name)> body) {
  UseTarget(0);
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    UseTarget(target);
    body(hwy::TargetName(target));
  }
  UseTarget(0);
}

}  // namespace conclave
