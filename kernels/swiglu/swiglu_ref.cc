#include <cmath>

#include "kernels/swiglu/swiglu.h"

namespace conclave {

void SwiGluRef(const float* gate, const float* up, int64_t count, float* h) {
  for (int64_t i = 0; i < count; ++i) h[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

}  // namespace conclave
