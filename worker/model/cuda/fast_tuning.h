// FastTuning: what the fused path may do. All of it in service; an ablation takes the parts away
// one by one, to see what each brings (arXiv 2207.00032, figure 10a). Results stay right, to the
// rounding of another order of sums. A value; any thread.
#pragma once

namespace conclave {

struct FastTuning {
  // Norm, rotation, cache and gate inside the kernels of products and attention; without it each is
  // a kernel of its own. Activation and residual stay in the products.
  bool fusion = true;
  bool stream = true;      // SBI-GeMM for small batches; without it the tensor cores' tiles
  bool graphs = true;      // decode steps as CUDA graphs
  bool overlap = true;     // dependent launches, weights prefetched to L2
  bool token_step = true;  // one kernel for all layers of a single token

  bool operator==(const FastTuning&) const = default;
};

}  // namespace conclave
