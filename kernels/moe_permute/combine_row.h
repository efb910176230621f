// The vector part of the combine: one token. Internal to kernels/moe_permute; any thread.
#pragma once

#include <cstdint>

#include "kernels/moe_permute/moe_permute.h"

namespace conclave {

void CheckCombineArgs(const CombineArgs& args);

void CombineRow(const CombineArgs& args, int64_t token);

}  // namespace conclave
