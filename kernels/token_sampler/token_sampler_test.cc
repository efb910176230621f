#include "kernels/token_sampler/token_sampler.h"

#include <cmath>
#include <limits>
#include <vector>

#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/add_norm/device_test_kit.h"
#include "kernels/sampling/sampling.h"

#if CONCLAVE_CUDA
namespace conclave {
namespace {

class TokenSamplerTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto status = CheckCudaDevice(0); !status.ok()) GTEST_SKIP() << status.message();
  }
};

// Rows with their options, and what came out.
struct Batch {
  Batch(int row_count, int vocab_count)
      : rows(row_count), vocab(vocab_count), stride((vocab_count + 7) / 4 * 4) {
    logits.assign(rows * stride, std::nanf(""));
  }
  void SetRow(int row, const std::vector<float>& values, const SamplerOptions& o, int64_t at) {
    std::copy(values.begin(), values.end(), logits.begin() + row * stride);
    options.push_back(o);
    temperature.push_back(o.temperature);
    top_k.push_back(o.top_k);
    top_p.push_back(o.top_p);
    min_p.push_back(o.min_p);
    seed.push_back(o.seed);
    position.push_back(at);
    slot.push_back(row % 3 == 2 ? -1 : rows - 1 - row);
  }
  absl::Span<const float> row(int r) const { return {logits.data() + r * stride, size_t(vocab)}; }

  int rows, vocab;
  int64_t stride;
  std::vector<SamplerOptions> options;
  std::vector<float> logits, temperature, top_p, min_p;
  std::vector<int32_t> top_k, slot;
  std::vector<uint64_t> seed;
  std::vector<int64_t> position;
};

struct Samples {
  std::vector<int32_t> tokens, last;
  std::vector<float> logprobs;
};

// Runs twice over one scratch: the second run is compared.
Samples Sampled(const Batch& b, bool all_greedy = false) {
  const OnDevice<float> logits(b.logits), temperature(b.temperature), top_p(b.top_p),
      min_p(b.min_p), logprobs(b.rows);
  const OnDevice<int32_t> top_k(b.top_k), slot(b.slot), tokens(b.rows), last(b.rows);
  const OnDevice<uint64_t> seed(b.seed);
  const OnDevice<int64_t> position(b.position);
  OnDevice<uint8_t> scratch(TokenSamplerScratchBytes(b.rows + 3));
  scratch.Fill(0);
  for (int run = 0; run < 2; ++run) {
    const absl::Status status = TokenSampler({.rows = b.rows,
                                              .vocab = b.vocab,
                                              .logits = logits.get(),
                                              .logits_stride = b.stride,
                                              .temperature = temperature.get(),
                                              .top_k = top_k.get(),
                                              .top_p = top_p.get(),
                                              .min_p = min_p.get(),
                                              .seed = seed.get(),
                                              .position = position.get(),
                                              .all_greedy = all_greedy,
                                              .tokens = tokens.get(),
                                              .logprobs = logprobs.get(),
                                              .slot = slot.get(),
                                              .last_tokens = last.get(),
                                              .scratch = scratch.get(),
                                              .scratch_rows = b.rows + 3},
                                             nullptr, run > 0);
    CHECK(status.ok()) << status;
  }
  Samples s = {tokens.Read(), last.Read(), logprobs.Read()};
  for (int r = 0; r < b.rows; ++r) {
    if (b.slot[r] >= 0) EXPECT_EQ(s.last[b.slot[r]], s.tokens[r]) << r;
  }
  return s;
}

// Returns how many rows drew another token than the host.
int Compare(const Batch& b, const Samples& s) {
  int different = 0;
  for (int r = 0; r < b.rows; ++r) {
    const Sample want = SampleToken(b.row(r), b.options[r], b.position[r]);
    const SamplerOptions& o = b.options[r];
    if (s.tokens[r] != want.token) {
      ++different;  // a draw at the very border of two tokens
      EXPECT_TRUE(o.temperature >= 1e-5f)
          << "greedy row " << r << ": " << s.tokens[r] << " is not " << want.token;
      EXPECT_TRUE(s.tokens[r] >= 0 && s.tokens[r] < b.vocab) << s.tokens[r];
      continue;
    }
    EXPECT_NEAR(s.logprobs[r], want.logprob, 1e-4 + 1e-6 * std::abs(want.logprob))
        << "row " << r << " vocab " << b.vocab << " t " << o.temperature;
  }
  return different;
}

std::vector<float> Peaked(Rng& rng, int count, double spread) {
  std::vector<float> values(count);
  for (float& v : values) {
    v = static_cast<float>((rng.Uniform() + rng.Uniform() + rng.Uniform() - 1.5) * spread);
  }
  return values;
}

const std::vector<SamplerOptions>& AllOptions() {
  static const std::vector<SamplerOptions> all = {
      {.temperature = 0},
      {.temperature = 1},
      {.temperature = 0.7f, .top_k = 40},
      {.temperature = 1.3f, .top_p = 0.9f},
      {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f},
      {.temperature = 1, .min_p = 0.05f},
      {.temperature = 1.5f, .top_k = 20, .top_p = 0.8f, .min_p = 0.02f},
      {.temperature = 5, .top_p = 0.999f},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_k = 1000000},
      {.temperature = 1, .top_p = 0},
      {.temperature = 1, .min_p = 1},
      {.temperature = 2, .top_k = 2000, .top_p = 0.99f},
  };
  return all;
}

TEST_F(TokenSamplerTest, AgreesWithTheHost) {
  int draws = 0, different = 0;
  for (const int vocab : {1, 7, 257, 1000, 4096, 5003, 50304, 151936, 200001, 262144}) {
    const int repeats = vocab > 10000 ? 1 : 8;
    Rng rng(vocab);
    Batch batch(static_cast<int>(AllOptions().size()) * repeats, vocab);
    for (int r = 0; r < batch.rows; ++r) {
      SamplerOptions options = AllOptions()[r % AllOptions().size()];
      options.seed = (uint64_t{1} << 40) + vocab * 1000 + r;
      batch.SetRow(r, Peaked(rng, vocab, 12), options, 5 + r);
    }
    different += Compare(batch, Sampled(batch));
    draws += batch.rows;
  }
  EXPECT_LE(different, draws / 100) << "of " << draws;
}

TEST_F(TokenSamplerTest, GreedyTiesAndTheSecondKernelLeftOut) {
  for (const int vocab : {9, 4100, 151936}) {
    Rng rng(vocab);
    Batch batch(5, vocab);
    for (int r = 0; r < 5; ++r) {
      std::vector<float> values(vocab);
      for (float& v : values) v = static_cast<float>(rng.Below(6));
      batch.SetRow(r, values, {.temperature = r == 3 ? std::nanf("") : 0.0f}, r);
    }
    EXPECT_EQ(Compare(batch, Sampled(batch, true)), 0);
    EXPECT_EQ(Compare(batch, Sampled(batch, false)), 0);
  }
}

// Many tokens of one weight: the cut goes through them.
TEST_F(TokenSamplerTest, TiesOfWeights) {
  Rng rng(3);
  for (const int vocab : {500, 20000, 151936}) {
    Batch batch(40, vocab);
    for (int r = 0; r < batch.rows; ++r) {
      std::vector<float> values(vocab);
      for (float& v : values) v = static_cast<float>(rng.Below(4)) * 0.5f;
      SamplerOptions options = {.temperature = 1, .seed = uint64_t(r)};
      if (r % 2 == 0) options.top_k = 1 + static_cast<int>(rng.Below(vocab));
      if (r % 3 != 1) options.top_p = static_cast<float>(rng.Uniform());
      batch.SetRow(r, values, options, 99);
    }
    EXPECT_LE(Compare(batch, Sampled(batch)), 3) << vocab;
  }
}

TEST_F(TokenSamplerTest, AnyLogitsGiveATokenAndAFiniteLogprob) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const float max = std::numeric_limits<float>::max();
  const std::vector<std::vector<float>> values = {
      {nan, nan, nan}, {nan, 1, nan}, {-inf, -inf, -inf}, {inf, 1, inf},
      {nan, -inf, 3},  {0, 0, 0},     {max, -max, max}};
  const std::vector<SamplerOptions> options = {
      {.temperature = 0},
      {.temperature = 1},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_p = 0.5f},
      {.temperature = nan},
      {.temperature = 1, .top_k = 2, .top_p = nan, .min_p = nan},
      {.temperature = 1, .top_p = nan},
      {.temperature = 1e30f},
      {.temperature = 1e-4f},
      {.temperature = 1, .top_k = -5}};
  Batch batch(static_cast<int>(values.size() * options.size()), 3);
  for (int r = 0; r < batch.rows; ++r) {
    batch.SetRow(r, values[r % values.size()], options[r / values.size()], 3);
  }
  const Samples s = Sampled(batch);
  for (int r = 0; r < batch.rows; ++r) {
    EXPECT_TRUE(s.tokens[r] >= 0 && s.tokens[r] < 3) << r;
    EXPECT_TRUE(std::isfinite(s.logprobs[r])) << r;
  }
  EXPECT_EQ(Compare(batch, s), 0);
}

TEST_F(TokenSamplerTest, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(3.0f), std::log(4.0f)};
  Batch batch(4000, 4);
  for (int r = 0; r < batch.rows; ++r) batch.SetRow(r, logits, {.temperature = 1, .seed = 42}, r);
  const Samples s = Sampled(batch);
  int counts[4] = {};
  for (int32_t token : s.tokens) ++counts[token];
  for (int t = 0; t < 4; ++t) EXPECT_NEAR(counts[t], 400 * (t + 1), 110) << t;
  EXPECT_LE(Compare(batch, s), 1);
}

}  // namespace
}  // namespace conclave
#endif
