// Strongly typed integers: a RequestId is never passed where an Epoch is wanted. Values; any thread
// may use them.
#pragma once

#include <compare>
#include <cstdint>
#include <ostream>
#include <string>

namespace conclave {

// Tag gives the type and, by Tag::kPrefix, how it prints: "request-7".
template <typename Tag>
struct StrongId {
  uint64_t value = 0;

  auto operator<=>(const StrongId&) const = default;
  StrongId Next() const { return StrongId{value + 1}; }
  std::string ToString() const { return std::string(Tag::kPrefix) + std::to_string(value); }

  template <typename H>
  friend H AbslHashValue(H h, const StrongId& id) {
    return H::combine(std::move(h), id.value);
  }
  friend std::ostream& operator<<(std::ostream& out, const StrongId& id) {
    return out << id.ToString();
  }
};

struct EpochTag {
  static constexpr const char* kPrefix = "epoch-";
};
struct StepTag {
  static constexpr const char* kPrefix = "step-";
};
struct RequestTag {
  static constexpr const char* kPrefix = "request-";
};
struct WorkerTag {
  static constexpr const char* kPrefix = "worker-";
};

using Epoch = StrongId<EpochTag>;        // version of the placement; 0 is "none yet"
using StepId = StrongId<StepTag>;        // counts forward passes within an epoch, from 1
using RequestId = StrongId<RequestTag>;  // one sequence: prompt and its continuation
using WorkerId = StrongId<WorkerTag>;    // one worker process (its incarnation), random

}  // namespace conclave
