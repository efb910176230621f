// OneToken: the layers of a decode step of one sequence by one persistent kernel (token_step),
// where the model's shape allows it. Owned by FastLayers; engine's thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "comm/device/cuda_memory.h"
#include "comm/types/model_shape.h"
#include "kernels/token_step/token_step.h"
#include "worker/kv/device_kv_pool.h"
#include "worker/weights/device_weights.h"

namespace conclave {

class OneToken {
 public:
  OneToken() = default;
  // Not ready where the kernel does not serve the shape.
  static absl::StatusOr<OneToken> Create(const ModelShape& shape, const DeviceWeights& weights,
                                         const DeviceKvPool& kv);

  bool ready() const { return args_.layers != nullptr; }

  struct Input {
    float* residual = nullptr;          // [hidden] in and out
    const int32_t* position = nullptr;  // [1]
    const int32_t* page_table = nullptr;
    const float* rope = nullptr;
    CudaStream stream = nullptr;
  };
  absl::Status Run(const Input& input) const;

  // Device, [expert layers][top_k]: the experts of the token.
  const int32_t* chosen() const { return chosen_.as<int32_t>(); }

 private:
  TokenStepArgs args_;
  DeviceBuffer layers_;
  DeviceBuffer workspace_;
  DeviceBuffer chosen_;
};

}  // namespace conclave
