// Checks of what a search is asked: the model, the cluster, the mix, a grid or a candidate given
// from outside. After them nothing in this folder fails on its input. Pure functions; any thread.
#pragma once

#include "absl/status/status.h"
#include "placement/search/search.h"

namespace conclave {

// Devices of a cluster that is searched.
inline constexpr int kDevicesMax = 16384;
// Running sequences that are ever considered.
inline constexpr double kConcurrencyMax = 1 << 22;

// InvalidArgument naming the field, its value and the remedy when a number is not finite, negative
// or out of range, or the model or the cluster lacks a figure that prices need.
absl::Status CheckSearchInput(const SearchInput& input);

// InvalidArgument when `spec` cannot cut the model, or its ep contradicts it.
absl::Status CheckSearchSpec(const SearchInput& input, const ParallelSpec& spec);

// InvalidArgument when the parts of `candidate` contradict one another, the model or the cluster.
absl::Status CheckCandidate(const SearchInput& input, const Candidate& candidate);

}  // namespace conclave
