#include "comm/base/status.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

absl::StatusOr<int> Half(int x) {
  if (x % 2 != 0) return absl::InvalidArgumentError("odd");
  return x / 2;
}

absl::StatusOr<int> Quarter(int x) {
  ASSIGN_OR_RETURN(const int half, Half(x));
  ASSIGN_OR_RETURN(const int quarter, Half(half));
  return quarter;
}

TEST(StatusTest, AssignOrReturnPassesValuesAndErrors) {
  EXPECT_EQ(*Quarter(8), 2);
  EXPECT_EQ(Quarter(6).status().message(), "odd");
}

TEST(StatusTest, WithContextKeepsTheCode) {
  const absl::Status status = WithContext(absl::NotFoundError("no page"), "step 3");
  EXPECT_EQ(status, absl::NotFoundError("step 3: no page"));
  EXPECT_TRUE(WithContext(absl::OkStatus(), "step 3").ok());
  absl::Status with_payload = absl::UnavailableError("gone");
  with_payload.SetPayload("who", absl::Cord("2"));
  EXPECT_EQ(WithContext(with_payload, "step 3").GetPayload("who"), absl::Cord("2"));
}

}  // namespace
}  // namespace conclave
