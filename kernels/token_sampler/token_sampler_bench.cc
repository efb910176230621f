// Microseconds of choosing the next tokens, in a chain of dependent launches in one graph: greedy
// rows, and rows that sample, by restriction.
#include <cstdio>
#include <vector>

#include "comm/device/cuda_device.h"
#include "glog/logging.h"
#include "kernels/add_norm/device_test_kit.h"
#include "kernels/token_sampler/token_sampler.h"

#if CONCLAVE_CUDA
namespace conclave {
namespace {

constexpr int kVocab = 151936, kRowsMax = 64, kChain = 10;

struct Options {
  const char* name;
  float temperature;
  int top_k;
  float top_p, min_p;
};

void Measure(const OnDevice<float>& logits, int rows, const Options& o) {
  const OnDevice<float> temperature(std::vector<float>(rows, o.temperature)),
      top_p(std::vector<float>(rows, o.top_p)), min_p(std::vector<float>(rows, o.min_p)),
      logprobs(rows);
  const OnDevice<int32_t> top_k(std::vector<int32_t>(rows, o.top_k)),
      slot(std::vector<int32_t>(rows, 0)), tokens(rows), last(rows);
  const OnDevice<uint64_t> seed(std::vector<uint64_t>(rows, 7));
  const OnDevice<int64_t> position(std::vector<int64_t>(rows, 9));
  OnDevice<uint8_t> scratch(TokenSamplerScratchBytes(rows));
  scratch.Fill(0);
  const double us = GraphMicroseconds(
      [&](CudaStream stream) {
        absl::Status status;
        for (int i = 0; i < kChain && status.ok(); ++i) {
          status = TokenSampler({.rows = rows,
                                 .vocab = kVocab,
                                 .logits = logits.get(),
                                 .logits_stride = kVocab,
                                 .temperature = temperature.get(),
                                 .top_k = top_k.get(),
                                 .top_p = top_p.get(),
                                 .min_p = min_p.get(),
                                 .seed = seed.get(),
                                 .position = position.get(),
                                 .all_greedy = o.temperature == 0,
                                 .tokens = tokens.get(),
                                 .logprobs = logprobs.get(),
                                 .slot = slot.get(),
                                 .last_tokens = last.get(),
                                 .scratch = scratch.get(),
                                 .scratch_rows = rows},
                                stream, true);
        }
        return status;
      },
      7);
  std::printf("%-24s %2d x %d %8.2f us\n", o.name, rows, kVocab, us / kChain);
}

int Main() {
  if (const auto status = CheckCudaDevice(0); !status.ok()) {
    std::printf("skipped: %s\n", std::string(status.message()).c_str());
    return 0;
  }
  Rng rng(1);
  std::vector<float> values = RandomValues(rng, int64_t{kRowsMax} * kVocab, 12);
  const OnDevice<float> logits(values);
  for (const Options& o :
       {Options{"greedy", 0, 0, 1, 0}, Options{"temperature", 1, 0, 1, 0},
        Options{"top-k 50", 0.8f, 50, 1, 0}, Options{"top-p 0.9", 0.8f, 0, 0.9f, 0},
        Options{"top-k 50, top-p, min-p", 0.8f, 50, 0.9f, 0.01f}}) {
    for (const int rows : {1, 8, 32, 64}) Measure(logits, rows, o);
  }
  return 0;
}

}  // namespace
}  // namespace conclave
int main() { return conclave::Main(); }
#else
int main() { std::printf("skipped: built without CUDA\n"); }
#endif
