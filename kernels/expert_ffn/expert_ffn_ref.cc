#include <cstdint>
#include <vector>

#include "kernels/expert_ffn/expert_ffn.h"
#include "kernels/gemm/gemm.h"
#include "kernels/swiglu/swiglu.h"

namespace conclave {
namespace {

constexpr int64_t kPanel = PackedMatrix::kPanel;

void RefRow(const float* x, const FfnWeights& weights, float* y) {
  const PackedMatrix& gate_up = weights.gate_up;
  std::vector<float> both(gate_up.outputs());
  const int64_t width = gate_up.outputs();
  GemmRef({x, 1, gate_up.inputs(), gate_up.inputs()}, gate_up, {both.data(), 1, width, width});
  std::vector<float> h(weights.ffn);
  for (int64_t n = 0; n < weights.ffn; ++n) {
    const float* gate = &both[n / kPanel * 2 * kPanel + n % kPanel];
    SwiGluRef(gate, gate + kPanel, 1, &h[n]);
  }
  const int64_t hidden = weights.down.outputs();
  GemmRef({h.data(), 1, weights.ffn, weights.ffn}, weights.down, {y, 1, hidden, hidden});
}

}  // namespace

void ExpertFfnRef(const ExpertFfnArgs& args) {
  for (size_t s = 0; s < args.slots.size(); ++s) {
    for (int32_t i = args.table->first[s]; i < args.table->first[s + 1]; ++i) {
      const int32_t entry = args.table->order[i];
      RefRow(args.x.row(args.row_of_entry[entry]), *args.slots[s], args.out.row(entry));
    }
  }
}

}  // namespace conclave
