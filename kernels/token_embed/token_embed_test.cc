#include "kernels/token_embed/token_embed.h"

#include <vector>

#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/add_norm/device_test_kit.h"

#if CONCLAVE_CUDA
namespace conclave {
namespace {

class TokenEmbedTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto status = CheckCudaDevice(0); !status.ok()) GTEST_SKIP() << status.message();
  }
};

TEST_F(TokenEmbedTest, LiteralAndLastTokensInsideAndOutsideTheSlice) {
  for (const int hidden : {8, 64, 72, 1000, 2048}) {
    for (const int tokens : {1, 5, 700}) {
      for (const bool sources : {false, true}) {
        Rng rng(hidden + tokens);
        const RandomTiles table(rng, 257, hidden, 1);
        std::vector<int32_t> ids(tokens), source(tokens), last(7);
        for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(330));
        for (int32_t& s : source) s = static_cast<int32_t>(rng.Below(8)) - 1;
        for (int32_t& id : last) id = static_cast<int32_t>(rng.Below(330));
        std::vector<float> want(int64_t{tokens} * hidden);
        TokenEmbedArgs args = {.tokens = tokens,
                               .table = table.view,
                               .first_row = 40,
                               .token_id = ids.data(),
                               .token_source = sources ? source.data() : nullptr,
                               .last_tokens = last.data(),
                               .residual = want.data()};
        TokenEmbedRef(args);
        const OnDevice<uint16_t> tiles(table.tiles);
        const OnDevice<int32_t> device_ids(ids), device_source(source), device_last(last);
        const OnDevice<float> out(int64_t{tokens} * hidden);
        args.table = table.On(tiles);
        args.token_id = device_ids.get();
        args.token_source = sources ? device_source.get() : nullptr;
        args.last_tokens = device_last.get();
        args.residual = out.get();
        const absl::Status status = TokenEmbed(args, nullptr, false);
        ASSERT_TRUE(status.ok()) << status;
        ASSERT_EQ(out.Read(), want) << hidden << " " << tokens << " " << sources;
      }
    }
  }
}

}  // namespace
}  // namespace conclave
#endif
