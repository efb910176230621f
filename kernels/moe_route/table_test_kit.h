// Comparing a routing of the device with the host's. For gtest.
#pragma once

#include <vector>

#include "gtest/gtest.h"
#include "kernels/moe_route/route_test_kit.h"

namespace conclave {

inline std::vector<int32_t> Head(const std::vector<int32_t>& values, int64_t count) {
  return {values.begin(), values.begin() + count};
}

// The table, exactly, up to the heads that are defined.
inline void ExpectSameTable(const DeviceRouting& got, const HostRouting& want) {
  ASSERT_EQ(got.slot_first.Read(), want.slot_first);
  ASSERT_EQ(got.active_count.Read(), want.active_count);
  ASSERT_EQ(Head(got.active_slot.Read(), want.active_count[0]),
            Head(want.active_slot, want.active_count[0]));
  const int served = want.slot_first.back();
  ASSERT_EQ(Head(got.order.Read(), served), Head(want.order, served));
  ASSERT_EQ(got.row_of_entry.Read(), want.row_of_entry);
}

}  // namespace conclave
