#include "kernels/lm_head/lm_head.h"

#include <vector>

#include "gtest/gtest.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/matrix_test_kit.h"

namespace conclave {
namespace {

TEST(LmHead, LogitsOfChosenRows) {
  const OwnedRows hidden = OwnedRows::Random(10, 48, 1, 4);
  const PackedMatrix head = RandomMatrix(100, 48, Dtype::kBf16, 2);
  OwnedRows all(10, 100);
  GemmRef(hidden.view(), head, all.view());
  const std::vector<int32_t> rows = {9, 0, 4, 4};
  OwnedRows scratch(4, 48), logits(4, 100);
  ComputePool pool(2);
  LmHead(hidden.view(), rows, head, scratch.view(), logits.view(), pool);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int64_t n = 0; n < 100; ++n) ASSERT_EQ(logits.row(i)[n], all.row(rows[i])[n]);
  }
}

TEST(LmHead, NoRows) {
  const OwnedRows hidden = OwnedRows::Random(3, 16, 1);
  const PackedMatrix head = RandomMatrix(20, 16, Dtype::kBf16, 2);
  ComputePool pool(1);
  LmHead(hidden.view(), {}, head, {nullptr, 0, 16, 16}, {nullptr, 0, 20, 20}, pool);
}

TEST(LmHeadDeathTest, RowsMustExist) {
  const OwnedRows hidden = OwnedRows::Random(3, 16, 1);
  const PackedMatrix head = RandomMatrix(20, 16, Dtype::kBf16, 2);
  OwnedRows scratch(1, 16), logits(1, 20);
  ComputePool pool(1);
  EXPECT_DEATH(LmHead(hidden.view(), {{3}}, head, scratch.view(), logits.view(), pool),
               "row 3 of 3");
}

}  // namespace
}  // namespace conclave
