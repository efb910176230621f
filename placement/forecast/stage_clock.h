// StageClock: one pipeline stage in virtual time. What a layer computes before the exchange, its
// shared experts, the tensor-parallel collectives and the head take the cost model's seconds; the
// exchange runs through LinkQueues with the rows as drawn, and a rank's experts take the roofline
// of its rows and of the experts they hit. One thread at a time.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "comm/exchange/transfers.h"
#include "placement/cost/cost_model.h"
#include "placement/forecast/link_queues.h"

namespace conclave {

// What all stages share; borrowed.
struct StageInput {
  const ModelDims& model;
  const ClusterTopology& cluster;
  const Candidate& candidate;
  const StepCost& cost;  // of the candidate and the load
};

// Tokens' experts of one MoE layer; `scale`: real tokens for each drawn one.
struct DrawnRouting {
  const ExchangeRouting& routing;
  double scale = 1;
};

class StageClock {
 public:
  // maps: the stage's MoE layers in order, borrowed; equal pointers share their tables.
  StageClock(const StageInput& input, int stage, const std::vector<const LayerExperts*>& maps);

  // clock: [stage size] seconds; each call moves it over one part of the step.
  void RunDenseLayer(std::vector<double>& clock) const;
  // `moe_layer`: of this stage. Returns the busiest rank's rows over the mean, 1 without rows.
  double RunMoeLayer(int moe_layer, const DrawnRouting& drawn, std::vector<double>& clock);
  void RunHead(std::vector<double>& clock) const;

  const LinkQueues& queues() const { return queues_; }
  int first_rank() const { return first_rank_; }
  LayerRange layers() const { return layers_; }

 private:
  struct RankSeconds {
    double before_moe = 0;  // attention, its collective, router, launches
    double shared = 0;      // experts
    double reduce = 0;      // over the tp group, after the combine
    double dense = 0;       // a whole dense layer
    double head = 0;
    double byte_seconds = 0;  // of expert weights
    double flop_seconds = 0;  // of expert rows
  };

  RankSeconds SecondsOf(const StageInput& input, int stage_rank) const;
  void RunRounds(absl::Span<const Transfer> transfers, const std::vector<RoundPeers>& peers,
                 bool back, std::vector<double>& clock);
  void MeetGroups(std::vector<double>& clock) const;

  int first_rank_;
  LayerRange layers_;
  ParallelSpec spec_;
  std::vector<const LayerExperts*> maps_;
  std::vector<std::shared_ptr<const std::vector<RoundPeers>>> peers_;  // [MoE layers]
  std::vector<RankSeconds> ranks_;
  double unit_bytes_ = 0;   // of one slice of one expert
  double entry_flops_ = 0;  // of one row through it
  double scale_ = 1;        // of the layer being run
  LinkQueues queues_;
  TransferBuilder builder_;
  LayerTransfers transfers_;
};

// All-reduces of a tp group in the layers of a stage, as the cost model has them.
struct AllReduceCounts {
  int dense_layer = 2;  // attention, FFN
  int moe_layer = 1;    // attention; one more unless every rank has all outputs already
};
AllReduceCounts AllReducesOf(const ModelDims& model, ScheduleKind schedule);

}  // namespace conclave
