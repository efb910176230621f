// SpreadMap: the expert map that a candidate's shares stand for, when there is no other: neighbours
// together, each group of ranks as many experts as its share says. Pure; any thread.
#pragma once

#include <vector>

#include "comm/types/expert_map.h"
#include "placement/cost/candidate.h"

namespace conclave {

// Experts of each group of spec.slices stage ranks that hold one expert together, by
// candidate.expert_shares: at most `experts` each, in all at least `experts`, more if the shares
// sum to more than 1. Without shares, or with ones that sum to nothing: even.
std::vector<int> ExpertsOfGroups(const Candidate& candidate, int experts);

// The map with those counts: group g holds the next ones of 0, 1, ..., experts - 1, 0, ...
LayerExperts SpreadMap(const Candidate& candidate, int experts);

// Unit (e, s) on rank group * slices + s of each of `groups_of[e]`.
LayerExperts MapOfGroups(const std::vector<std::vector<int>>& groups_of, int slices);

}  // namespace conclave
