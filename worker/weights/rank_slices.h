// Which parts of a model one rank of a plan holds: the arithmetic of DESIGN 4, apart from any
// reading. Pure functions of a checked Assign; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/types/worker_facts.h"

namespace conclave {

struct IndexRange {
  int64_t begin = 0;
  int64_t end = 0;

  int64_t size() const { return end - begin; }
  bool operator==(const IndexRange&) const = default;
};

// Part `index` of `parts` of a dimension: [floor(index * size / parts), floor((index + 1) * size /
// parts)).
IndexRange PartOf(int64_t size, int index, int parts);

struct RankSlices {
  LayerRange layers;
  bool first_stage = false;
  bool last_stage = false;
  int stage_rank = 0;
  int tp_size = 1;
  IndexRange heads;      // query heads
  IndexRange kv_heads;   // those that the query heads read
  IndexRange dense_ffn;  // of a layer without experts
  IndexRange vocab;
};
RankSlices SlicesOf(const Assign& assign);

// The expert slices of MoE layer `layer` on this rank, in the order of its slots.
std::vector<ExpertUnit> UnitsOf(const Assign& assign, int layer);
// The piece of an expert's intermediate size that `unit` is.
IndexRange UnitFfn(const Assign& assign, const ExpertUnit& unit);

// True when the rank's head is its embedding.
bool HeadIsEmbedding(const Assign& assign);

// Bytes that those slices take in a checkpoint of the shape's dtype.
int64_t CheckpointShareBytes(const Assign& assign);

}  // namespace conclave
