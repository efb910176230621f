// step_check: whether a StepPlan can be run, before anything is touched: a wrong plan becomes a
// Fault, never a crash and never a write outside the cache. Pure functions over values; any thread.
// Shared by the engines, real and fake.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/types/step_plan.h"

namespace conclave {

// Tokens of one dp group in one step; bounds what a plan can make an engine allocate.
inline constexpr int32_t kStepTokensMax = 1 << 16;

// What the engine has, against which a plan is checked.
struct StepLimits {
  int32_t vocab = 0;
  int32_t pages = 0;  // of the KV pool
  int32_t page_tokens = 0;
  int32_t dp_groups = 1;
  int32_t dp = 0;  // the engine's own group
};

// InvalidArgument names the step, the request, the field, its value and the remedy.
absl::Status CheckStepPlan(const StepPlan& plan, const StepLimits& limits);

}  // namespace conclave
