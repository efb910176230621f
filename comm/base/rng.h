// A counter-based random generator (Philox 4x32-10, Salmon et al., SC'11): the n-th number of a
// stream is a function of (seed, stream, n), so that a replayed request draws the same numbers
// wherever it continues. A value; any thread.
#pragma once

#include <array>
#include <cstdint>

namespace conclave {

// One Philox 4x32-10 block: 128 random bits from a 128-bit counter and a 64-bit key.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Uniform in [0, 1) with 24 bits, for position `position` of a request with `seed`.
float UniformAt(uint64_t seed, uint64_t position);

// A sequential view of one stream, for simulations and jitter.
class Rng {
 public:
  explicit Rng(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}

  uint64_t Next();
  // Uniform in [0, bound); bound > 0.
  uint64_t Below(uint64_t bound);
  // True with probability numerator / denominator.
  bool Chance(uint32_t numerator, uint32_t denominator);
  // Uniform in [0, 1).
  double Uniform();

 private:
  uint64_t seed_;
  uint64_t stream_;
  uint64_t counter_ = 0;
};

}  // namespace conclave
