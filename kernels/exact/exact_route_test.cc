#include "kernels/exact/exact_route.h"

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/embedding/embedding.h"
#include "kernels/exact/exact_test_kit.h"
#include "kernels/gemm/matrix_test_kit.h"
#include "kernels/moe_gate/moe_gate.h"
#include "kernels/moe_permute/moe_permute.h"

namespace conclave {
namespace {

using ExactRouteTest = ExactTest;

void CheckGate(const std::vector<float>& logits, int64_t tokens, int top_k, bool normalize) {
  const int64_t experts = static_cast<int64_t>(logits.size()) / tokens;
  std::vector<int32_t> chosen(tokens * top_k);
  std::vector<float> weights(tokens * top_k);
  MoeGate({{logits.data(), tokens, experts, experts},
           top_k,
           normalize,
           absl::MakeSpan(chosen),
           absl::MakeSpan(weights)});
  const OnDevice<float> device(logits);
  const auto dc = OnDevice<int32_t>::Poisoned(tokens * top_k);
  const auto dw = OnDevice<float>::Poisoned(tokens * top_k);
  ExactGateArgs args;
  args.logits = device.get();
  args.logits_stride = experts;
  args.tokens = tokens;
  args.experts = static_cast<int>(experts);
  args.top_k = top_k;
  args.normalize = normalize;
  args.chosen = dc.get();
  args.weights = dw.get();
  ExpectOk(ExactGate(args, nullptr));
  const std::string what = absl::StrCat(experts, " experts top ", top_k, " normalize ", normalize);
  EXPECT_EQ(dc.Read(), chosen) << what;
  ExpectSameBits(dw.Read(), weights, what);
}

TEST_F(ExactRouteTest, GateHasTheBitsOfTheCpu) {
  for (const int64_t experts : {1, 8, 16, 60, 64, 128, 3001}) {
    for (const int top_k : {1, 2, 8, 32}) {
      if (top_k > experts) continue;
      for (const bool normalize : {false, true}) {
        std::vector<float> logits = UniformFloats(7 * experts, experts);
        for (float& v : logits) v *= 6;
        CheckGate(logits, 7, top_k, normalize);
      }
    }
  }
}

TEST_F(ExactRouteTest, GateBreaksTiesAndOrdersNanLikeTheCpu) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  CheckGate({1, 3, 2, 3, 2, 2}, 1, 4, true);
  CheckGate(std::vector<float>(40, 0.5f), 1, 8, true);
  CheckGate({nan, 1, nan, 2, -inf}, 1, 3, true);
  CheckGate({nan, 1, -inf, 2, nan}, 1, 5, false);
  CheckGate({0.0f, -0.0f, 0.0f, -0.0f}, 1, 4, true);
}

TEST_F(ExactRouteTest, CombineHasTheBitsOfTheCpu) {
  for (const int slices : {1, 2, 4, 8}) {
    for (const int top_k : {1, 2, 8}) {
      for (const int64_t hidden : {5, 64, 100, 2048}) {
        const int64_t tokens = 3, parts = tokens * top_k * slices, stride = hidden + 3;
        const auto part = UniformFloats(parts * stride, 1),
                   weights = UniformFloats(tokens * top_k, 2);
        auto out = UniformFloats(tokens * stride, 3);
        std::vector<int32_t> rows(parts);
        for (int64_t i = 0; i < parts; ++i) rows[i] = static_cast<int32_t>(parts - 1 - i);
        const OnDevice<float> dparts(part), dw(weights), dout(out);
        const OnDevice<int32_t> drows(rows);
        Combine({{part.data(), parts, hidden, stride},
                 rows,
                 weights,
                 top_k,
                 slices,
                 {out.data(), tokens, hidden, stride}});
        ExactCombineArgs args;
        args.parts = dparts.get();
        args.parts_stride = stride;
        args.part_row = drows.get();
        args.weights = dw.get();
        args.top_k = top_k;
        args.slices = slices;
        args.out = {dout.get(), tokens, hidden, stride};
        ExpectOk(ExactCombine(args, nullptr));
        ExpectSameBits(dout.Read(), out,
                       absl::StrCat("hidden ", hidden, " top ", top_k, " slices ", slices));
      }
    }
  }
}

TEST_F(ExactRouteTest, GatherCopiesRows) {
  const int64_t cols = 80, stride = 83;
  const auto x = UniformFloats(9 * stride, 1);
  const std::vector<int32_t> index = {3, 0, 8, 3, 7};
  std::vector<float> want = OnDevice<float>::Poison(5 * stride);
  GatherRows({x.data(), 9, cols, stride}, index, {want.data(), 5, cols, stride});
  const OnDevice<float> dx(x), out = OnDevice<float>::Poisoned(5 * stride);
  const OnDevice<int32_t> di(index);
  ExpectOk(ExactGatherRows({dx.get(), stride, di.get(), {out.get(), 5, cols, stride}}, nullptr));
  ExpectSameBits(out.Read(), want, "gather");
}

TEST_F(ExactRouteTest, EmbedHasTheBitsOfTheCpu) {
  for (const Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF32}) {
    for (const int64_t hidden : {64, 80, 300}) {
      PackedMatrix table = RandomMatrix(129, hidden, dtype, 5);
      const std::vector<uint8_t> zeros(hidden * DtypeBytes(dtype));
      std::vector<uint8_t> minus_zeros = zeros;
      for (size_t i = DtypeBytes(dtype) - 1; i < minus_zeros.size(); i += DtypeBytes(dtype)) {
        minus_zeros[i] = 0x80;
      }
      table.SetRows(7, 1, minus_zeros.data(), hidden);
      const DeviceTiles tiles(TilesOf(table));
      const std::vector<int32_t> ids = {0, 300, 307, 299, 428, 429, 1000, 300, 411};
      const int64_t tokens = static_cast<int64_t>(ids.size()), stride = hidden + 1;
      std::vector<float> want = OnDevice<float>::Poison(tokens * stride);
      Embed(table, 300, ids, {want.data(), tokens, hidden, stride});
      const OnDevice<int32_t> di(ids);
      const OnDevice<float> out = OnDevice<float>::Poisoned(tokens * stride);
      ExpectOk(ExactEmbed({tiles.view, 300, di.get(), tokens, out.get(), stride}, nullptr));
      ExpectSameBits(out.Read(), want, absl::StrCat(DtypeName(dtype), " hidden ", hidden));
    }
  }
}

TEST_F(ExactRouteTest, AddAdds) {
  auto x = UniformFloats(100003, 1);
  const auto delta = UniformFloats(100003, 2);
  const OnDevice<float> dx(x), dd(delta);
  for (size_t i = 0; i < x.size(); ++i) x[i] += delta[i];
  ExpectOk(ExactAdd(dx.get(), dd.get(), 100003, nullptr));
  ExpectSameBits(dx.Read(), x, "add");
}

}  // namespace
}  // namespace conclave
