// DeviceWeights: the slices of a model that one rank of a plan holds, in the memory of a GPU, in
// the tiles of kernels/cuda/weight_tiles.h. Built once by LoadDeviceWeights, read by model/cuda.
// Move-only; made and freed with its device current.
#pragma once

#include <atomic>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/device/compute_pool.h"
#include "comm/device/cuda_memory.h"
#include "comm/types/worker_facts.h"
#include "kernels/cuda/weight_tiles.h"
#include "worker/weights/weight_source.h"

namespace conclave {

// As LayerWeights of model_weights.h; pointers are to device memory.
struct DeviceLayer {
  int layer = 0;
  int heads = 0;  // of this rank
  int kv_heads = 0;
  const float* input_norm = nullptr;  // [hidden]
  const float* q_norm = nullptr;      // [head_dim] or [heads * head_dim], or null
  const float* k_norm = nullptr;
  const float* ffn_norm = nullptr;  // [hidden]
  WeightView qkv;                   // [(heads + 2 kv_heads) * head_dim, hidden]: q, k, v rows
  WeightView output;                // [hidden, heads * head_dim]
  WeightView router;                // [experts, hidden]; none in a dense layer
  WeightView gate_up;               // slots x [2 * ceil8(ffn), hidden], gate and up interleaved
  WeightView down;                  // slots x [hidden, ffn]
  int64_t ffn = 0;                  // width of a slot
  int output_slices = 8;            // reduction slices that `output` holds
  int down_slices = 8;
};

struct DeviceWeights {
  std::vector<DeviceLayer> layers;  // of this rank's stage, ascending
  int64_t vocab_begin = 0;          // rows of the embedding and the head, as ModelWeights
  int64_t vocab_end = 0;
  WeightView embedding;  // first stage; bf16, or the source's dtype when exact
  WeightView head;       // last stage; may be the same tiles as the embedding
  const float* final_norm = nullptr;
  int64_t bytes = 0;  // held on the device
  std::vector<DeviceBuffer> buffers;
};

struct LoadedDeviceModel {
  DeviceWeights weights;
  int64_t checkpoint_bytes_read = 0;
  int64_t checkpoint_bytes_share = 0;
};

// Reads rank `rank`'s slices into the memory of `device`. Deterministic assignments keep the
// source's dtype, others get bfloat16, or the quantisation they ask for in all matrices but
// embedding and router. Errors as LoadModelWeights.
struct DeviceLoadOptions {
  int device = 0;
  ComputePool* pool = nullptr;
  std::atomic<uint64_t>* progress = nullptr;
  const std::atomic<bool>* cancelled = nullptr;
};
absl::StatusOr<LoadedDeviceModel> LoadDeviceWeights(const Assign& assign, WeightSource& source,
                                                    const DeviceLoadOptions& options);

}  // namespace conclave
