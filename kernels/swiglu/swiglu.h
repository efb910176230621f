// swiglu: h = silu(gate) * up with silu(x) = x / (1 + exp(-x)), the activation between the two
// matrix products of an FFN. The exponential is our own polynomial in fused multiply-adds, so that
// AVX2 and AVX-512 give the same bits; its relative error is below 2e-6. Bytes: gate and up read, h
// written; about 20 flops an element.
#pragma once

#include <cstdint>

namespace conclave {

// h may be gate or up. Any thread.
void SwiGlu(const float* gate, const float* up, int64_t count, float* h);
void SwiGluRef(const float* gate, const float* up, int64_t count, float* h);

}  // namespace conclave
