#include "tools/cli/model_options.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

TEST(ModelOptionsTest, ParsesSizes) {
  EXPECT_EQ(*ParseBytes("--memory", "512MiB"), 512ll << 20);
  EXPECT_EQ(*ParseBytes("--memory", "8GB"), 8000000000ll);
  EXPECT_EQ(*ParseBytes("--memory", "1.5g"), 3ll << 29);
  EXPECT_EQ(*ParseBytes("--memory", "4096"), 4096);
  for (const char* bad : {"", "GB", "8 parsecs", "-1", "0", "1e9"}) {
    EXPECT_THAT(std::string(ParseBytes("--memory", bad).status().message()), HasSubstr("--memory"))
        << bad;
  }
}

TEST(ModelOptionsTest, ResolvesAPreset) {
  ModelOptions options;
  options.model = "olmoe-1b-7b";
  options.parallel = "tp=2,dp=2";
  const auto model = ResolveModel(options);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_TRUE(model->dummy);
  EXPECT_EQ(model->workers, 4);
  EXPECT_EQ(model->spec.ep, 4);
}

// Each refusal names its flag.
TEST(ModelOptionsTest, RefusesBadFlags) {
  const auto refusal = [](void (*change)(ModelOptions&)) {
    ModelOptions options;
    options.model = "olmoe-1b-7b";
    change(options);
    const auto model = ResolveModel(options);
    EXPECT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(model.status().message());
  };
  EXPECT_THAT(refusal([](ModelOptions& o) { o.model = "/nonexistent"; }), HasSubstr("--model"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.load_format = "gguf"; }), HasSubstr("--load-format"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.load_format = "safetensors"; }),
              HasSubstr("--load-format"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.exchange = "ring"; }),
              HasSubstr("--exchange 'ring'"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.exchange_dtype = "fp4"; }),
              HasSubstr("--exchange-dtype 'fp4'"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.exchange_dtype = "fp8", o.deterministic = true; }),
              HasSubstr("--exchange-dtype 'fp8': it rounds activations"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.device = "tpu"; }), HasSubstr("--device"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.page_tokens = 24; }), HasSubstr("--block-size"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.kv_cache_dtype = "int32"; }),
              HasSubstr("--kv-cache-dtype"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.context_tokens_max = 1 << 20; }),
              HasSubstr("--max-model-len"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.parallel = "tp=3"; }), HasSubstr("tp=3"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.parallel = "zp=3"; }), HasSubstr("zp"));
  EXPECT_THAT(refusal([](ModelOptions& o) { o.parallel = "tp=2", o.workers = 3; }),
              HasSubstr("--workers"));
}

TEST(ModelOptionsTest, RoundedExchangesAreSaid) {
  ModelOptions options;
  options.model = "olmoe-1b-7b";
  for (const char* exchange : {"naive", "pcc", "two-level"}) {
    options.exchange = exchange;
    const auto exact = ResolveModel(options);
    ASSERT_TRUE(exact.ok()) << exact.status();
    EXPECT_EQ(exact->note, "");
  }
  options.exchange_dtype = "int8";
  const auto rounded = ResolveModel(options);
  ASSERT_TRUE(rounded.ok()) << rounded.status();
  EXPECT_THAT(rounded->note, HasSubstr("--exchange-dtype int8 rounds the rows"));
}

}  // namespace
}  // namespace conclave
