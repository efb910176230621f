// The vector part of rope: one token's heads, with its angles worked out. Internal to kernels/rope;
// any thread.
#pragma once

#include "kernels/rope/rope.h"

namespace conclave {

inline constexpr int kRopeHeadDimMax = 256;

struct RopeAngles {
  float cosine[kRopeHeadDimMax / 2];
  float sine[kRopeHeadDimMax / 2];
};

void CheckRopeArgs(const RopeArgs& args);

// row [heads * head_dim], in place.
void NormRopeRow(const RopeArgs& args, const RopeAngles& angles, float* row);

}  // namespace conclave
