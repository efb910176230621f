#include "comm/base/rng.h"

#include "glog/logging.h"

namespace conclave {
namespace {

constexpr uint32_t kMultiplier0 = 0xD2511F53u;
constexpr uint32_t kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u;
constexpr uint32_t kWeyl1 = 0xBB67AE85u;

uint32_t Low(uint64_t x) { return static_cast<uint32_t>(x); }
uint32_t High(uint64_t x) { return static_cast<uint32_t>(x >> 32); }

}  // namespace

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * counter[0];
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * counter[2];
    counter = {High(product1) ^ counter[1] ^ key[0], Low(product1),
               High(product0) ^ counter[3] ^ key[1], Low(product0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

float UniformAt(uint64_t seed, uint64_t position) {
  const auto block = Philox({Low(position), High(position), 0, 0}, {Low(seed), High(seed)});
  return static_cast<float>(block[0] >> 8) * 0x1p-24f;
}

uint64_t Rng::Next() {
  const auto block = Philox({Low(counter_), High(counter_), Low(stream_), High(stream_)},
                            {Low(seed_), High(seed_)});
  ++counter_;
  return (static_cast<uint64_t>(block[1]) << 32) | block[0];
}

uint64_t Rng::Below(uint64_t bound) {
  CHECK_GT(bound, 0u);
  return static_cast<uint64_t>((static_cast<unsigned __int128>(Next()) * bound) >> 64);
}

bool Rng::Chance(uint32_t numerator, uint32_t denominator) {
  return Below(denominator) < numerator;
}

double Rng::Uniform() { return static_cast<double>(Next() >> 11) * 0x1p-53; }

}  // namespace conclave
