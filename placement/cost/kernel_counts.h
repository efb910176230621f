// Kernels that one step launches on a rank, as worker/model/cuda issues them at batch sizes above
// one; the cost model charges HardwareProfile::kernel_seconds for each. Collectives count one more
// each. Values; any thread.
#pragma once

namespace conclave {

// Norm with the residual; queries, keys and values; rope, their norms and the KV write; attention;
// output product.
inline constexpr int kAttentionKernels = 5;
// Norm with the residual; gate and up; down.
inline constexpr int kDenseFfnKernels = 3;
// Norm with the residual; gate with top-k and routing table; permute; gate and up; down; combine.
inline constexpr int kMoeKernels = 6;
// Split over the tp group before an exchange; order restored after it.
inline constexpr int kSplitKernels = 2;
// Gate and up; down.
inline constexpr int kSharedKernels = 2;
// Embedding; last norm; head; sampling.
inline constexpr int kHeadKernels = 4;

}  // namespace conclave
