// What a rank of a plan holds in memory: the bytes of its weight slices and of its KV cache per
// token. Used by the planner to choose a grid that fits, and by whoever shows a plan. Pure
// functions over values; any thread may call them. Counted: weights in their own dtype, norms in
// float32. Not counted: activations and communication buffers.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/dtype.h"
#include "comm/types/model_shape.h"
#include "comm/types/parallel_plan.h"

namespace conclave {

struct RankMemory {
  int64_t weight_bytes = 0;
  int64_t kv_bytes_per_token = 0;  // over all layers of the rank's stage
  bool operator==(const RankMemory&) const = default;
};

// Layers cut evenly over `stages`; the earlier stages get the extra ones.
std::vector<LayerRange> SplitLayers(int layers, int stages);

// KV heads that one rank of a tensor-parallel group of `tp` keeps: at least one, so groups wider
// than the model's kv_heads hold copies.
int KvHeadsOfRank(const ModelShape& shape, int tp);

// The rank at `position` of a resolved spec, whose stage holds the layers `stage`.
RankMemory MemoryOfRank(const ModelShape& shape, const ParallelSpec& spec, LayerRange stage,
                        GridPosition position, Dtype kv_dtype);

// By rank.
std::vector<RankMemory> MemoryOfPlan(const ModelShape& shape, const ParallelPlan& plan,
                                     Dtype kv_dtype);

}  // namespace conclave
