// Routing tables in memory, on the host or the device, for tests and the bench of moe_route. Values
// and owners of memory; one thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

#include "kernels/add_norm/device_test_kit.h"
#include "kernels/moe_route/moe_route.h"

namespace conclave {

struct RoutingShape {
  int tokens, experts, top_k;
  int slots = 0;  // 0: a slot for each expert; else experts are mapped at random
  bool normalize = true;
};

// slot_of_expert: each slot has one expert, the other experts are absent.
inline std::vector<int32_t> RandomSlotMap(Rng& rng, int experts, int slots) {
  std::vector<int32_t> map(experts, -1), order(experts);
  std::iota(order.begin(), order.end(), 0);
  for (int i = experts; i > 1; --i) std::swap(order[i - 1], order[rng.Below(i)]);
  for (int s = 0; s < std::min(slots, experts); ++s) map[order[s]] = s;
  return map;
}

// `Array<T>` is std::vector<T> or OnDevice<T>.
template <template <typename> class Array>
struct RoutingArrays {
  RoutingArrays(const RoutingShape& s)
      : experts(int64_t{s.tokens} * s.top_k),
        order(int64_t{s.tokens} * s.top_k),
        row_of_entry(int64_t{s.tokens} * s.top_k),
        slot_first((s.slots > 0 ? s.slots : s.experts) + 1),
        active_count(1),
        active_slot(s.slots > 0 ? s.slots : s.experts),
        gate_weights(int64_t{s.tokens} * s.top_k),
        shape(s) {}
  static int32_t* Data(std::vector<int32_t>& v) { return v.data(); }
  static float* Data(std::vector<float>& v) { return v.data(); }
  template <typename T>
  static T* Data(OnDevice<T>& v) {
    return v.get();
  }
  RouteChoice choice() {
    return {.top_k = shape.top_k,
            .normalize = shape.normalize,
            .experts = Data(experts),
            .gate_weights = Data(gate_weights)};
  }
  RouteTable table(const int32_t* slot_of_expert) {
    return {.slots = shape.slots > 0 ? shape.slots : shape.experts,
            .slot_of_expert = shape.slots > 0 ? slot_of_expert : nullptr,
            .slot_first = Data(slot_first),
            .order = Data(order),
            .row_of_entry = Data(row_of_entry),
            .active_count = Data(active_count),
            .active_slot = Data(active_slot)};
  }
  Array<int32_t> experts, order, row_of_entry, slot_first, active_count, active_slot;
  Array<float> gate_weights;
  RoutingShape shape;
};

template <typename T>
using HostArray = std::vector<T>;
using HostRouting = RoutingArrays<HostArray>;
using DeviceRouting = RoutingArrays<OnDevice>;

}  // namespace conclave
