// For tests of token_step: small random models with their weights as numbers and as tiles, and one
// token through them by plain loops in double precision. The caller's thread; every CUDA error ends
// the program.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "comm/base/rng.h"
#include "kernels/token_step/token_device_memory.h"
#include "kernels/token_step/token_step.h"

namespace conclave {

// Matrices of one shape: the numbers, rounded to the format, and their tiles.
struct TokenMatrices {
  std::vector<float> values;  // [matrices][outputs][inputs]
  std::vector<uint8_t> tiles;
  WeightView view;  // without data
  const float* Row(int matrix, int output) const {
    return values.data() + (int64_t{matrix} * view.outputs + output) * view.inputs;
  }
};
// Outputs of inputs of size 1 are about `gain`.
TokenMatrices RandomMatrices(Rng& rng, const WeightView& shape, float gain);

struct TokenHostLayer {
  bool routed = false;
  TokenMatrices qkv, output, router, gate_up, down;
  std::vector<float> input_norm, q_norm, k_norm, ffn_norm;
  std::vector<uint16_t> cache;
};

struct TokenModel {
  TokenShape shape;
  std::vector<TokenHostLayer> layers;
  std::vector<float> residual, rope;
  std::vector<int32_t> page_table;
  int32_t pages = 0;
  int32_t position = 0;
};
// routed[i]: layer i has a router. The cache is NaN beyond `position`.
TokenModel RandomTokenModel(Rng& rng, TokenShape shape, const std::vector<bool>& routed,
                            int position);

struct TokenResult {
  std::vector<float> residual;
  std::vector<std::vector<uint16_t>> caches;
  std::vector<int32_t> chosen;
};
TokenResult TokenStepRef(const TokenModel& model);

// The model on the device; Run may be called again and again.
class TokenDeviceModel {
 public:
  explicit TokenDeviceModel(const TokenModel& model);
  TokenResult Run();

 private:
  void* Keep(const void* data, int64_t bytes);

  const TokenModel& model_;
  std::vector<std::unique_ptr<TokenBytes>> memory_;
  std::vector<TokenLayer> layers_;
  TokenStepArgs args_;
  std::unique_ptr<TokenBytes> workspace_;
};

}  // namespace conclave
