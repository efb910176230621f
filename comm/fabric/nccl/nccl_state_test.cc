// The whole table of states and events, and what holds on every path through it.
#include "comm/fabric/nccl/nccl_state.h"

#include <map>
#include <set>
#include <string>
#include <tuple>
#include <vector>

#include "comm/base/rng.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using S = NcclState;
using E = NcclEvent;

// Every transition there is; all others are refused.
const std::map<std::pair<S, E>, S> kTransitions = {
    {{S::kUninitialized, E::kInit}, S::kInitializing},
    {{S::kUninitialized, E::kFault}, S::kClosed},
    {{S::kInitializing, E::kComplete}, S::kReady},
    {{S::kInitializing, E::kFault}, S::kFaulted},
    {{S::kReady, E::kOperate}, S::kOperating},
    {{S::kReady, E::kFinalize}, S::kFinalizing},
    {{S::kReady, E::kShrink}, S::kShrinking},
    {{S::kReady, E::kFault}, S::kFaulted},
    {{S::kReady, E::kAbort}, S::kAborting},
    {{S::kOperating, E::kComplete}, S::kReady},
    {{S::kOperating, E::kFault}, S::kFaulted},
    {{S::kFinalizing, E::kComplete}, S::kClosed},
    {{S::kFinalizing, E::kFault}, S::kFaulted},
    {{S::kFaulted, E::kShrink}, S::kShrinking},
    {{S::kFaulted, E::kAbort}, S::kAborting},
    {{S::kFaulted, E::kFault}, S::kFaulted},
    {{S::kShrinking, E::kComplete}, S::kFaulted},
    {{S::kShrinking, E::kFault}, S::kFaulted},
    {{S::kAborting, E::kComplete}, S::kClosed},
    {{S::kAborting, E::kAbortHung}, S::kStuck},
    {{S::kClosed, E::kFault}, S::kClosed},
    {{S::kStuck, E::kFault}, S::kStuck},
};

TEST(NcclStateTest, TheTableIsComplete) {
  for (int s = 0; s < kNcclStateCount; ++s) {
    for (int e = 0; e < kNcclEventCount; ++e) {
      const auto state = static_cast<S>(s);
      const auto event = static_cast<E>(e);
      const auto next = NextNcclState(state, event);
      const auto expected = kTransitions.find({state, event});
      if (expected != kTransitions.end()) {
        ASSERT_TRUE(next.ok()) << next.status();
        EXPECT_EQ(*next, expected->second) << NcclStateName(state) << " " << NcclEventName(event);
        continue;
      }
      EXPECT_EQ(next.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(std::string(next.status().message()),
                  testing::AllOf(testing::HasSubstr(NcclEventName(event)),
                                 testing::HasSubstr(NcclStateName(state))));
    }
  }
}

TEST(NcclStateTest, NamesAreDistinct) {
  std::set<std::string> names;
  for (int s = 0; s < kNcclStateCount; ++s) names.insert(NcclStateName(static_cast<S>(s)));
  for (int e = 0; e < kNcclEventCount; ++e) names.insert(NcclEventName(static_cast<E>(e)));
  EXPECT_EQ(names.size(), static_cast<size_t>(kNcclStateCount + kNcclEventCount));
}

// From every state a fault, and then an abort where there is a handle, leads to an end: nothing can
// be left waiting for ever.
TEST(NcclStateTest, EveryStateReachesAnEnd) {
  for (int s = 0; s < kNcclStateCount; ++s) {
    auto state = static_cast<S>(s);
    if (state == S::kAborting) {
      EXPECT_EQ(NextNcclState(state, E::kComplete).value(), S::kClosed);
      continue;
    }
    state = NextNcclState(state, E::kFault).value();
    if (NcclStateHasHandle(state)) {
      state = NextNcclState(state, E::kAbort).value();
      EXPECT_EQ(NextNcclState(state, E::kAbortHung).value(), S::kStuck);
      state = NextNcclState(state, E::kComplete).value();
    }
    EXPECT_FALSE(NcclStateHasHandle(state)) << NcclStateName(state);
  }
}

// Random walks: a handle is made once, and after an end no event brings it back.
TEST(NcclStateTest, NoWalkLeavesAnEndOrInitialisesTwice) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Rng rng(seed);
    S state = S::kUninitialized;
    int inits = 0;
    for (int step = 0; step < 60; ++step) {
      const auto event = static_cast<E>(rng.Below(kNcclEventCount));
      const auto next = NextNcclState(state, event);
      if (!next.ok()) continue;
      if (event == E::kInit) ++inits;
      if (state == S::kClosed || state == S::kStuck) {
        EXPECT_EQ(*next, state);
      }
      if (state == S::kFaulted) {
        EXPECT_NE(*next, S::kReady);
      }
      state = *next;
    }
    EXPECT_LE(inits, 1);
  }
}

}  // namespace
}  // namespace conclave
