#include "placement/forecast/stage_clock.h"

#include <algorithm>
#include <map>
#include <numeric>

namespace conclave {
namespace {

std::vector<int> StageDevices(const Candidate& candidate, int stage) {
  const int size = candidate.spec.StageSize();
  const auto first = candidate.devices.begin() + static_cast<ptrdiff_t>(stage) * size;
  return std::vector<int>(first, first + size);
}

TransferBuilder BuilderOf(const StageInput& input, int stage) {
  TransferOptions options;
  options.schedule = static_cast<TransferSchedule>(input.candidate.schedule);
  options.hidden = input.model.hidden;
  options.element_bytes = NumberFormatBytes(input.model.activation);
  RankNodes nodes = StageDevices(input.candidate, stage);
  for (int& place : nodes) place = input.cluster.NodeOf(place);
  return TransferBuilder(options, input.candidate.spec, nodes);
}

// The rate that the cost model multiplies at: the activations' format, else bf16, else any.
double FlopRate(const HardwareProfile& profile, NumberFormat activation) {
  for (const NumberFormat format : {activation, NumberFormat::kBf16}) {
    const auto rate = profile.flops.find(format);
    if (rate != profile.flops.end()) return rate->second;
  }
  return profile.flops.empty() ? 1.0 : profile.flops.begin()->second;
}

}  // namespace

AllReduceCounts AllReducesOf(const ModelDims& model, ScheduleKind schedule) {
  AllReduceCounts counts;
  if (schedule != ScheduleKind::kNaive || model.shared_ffn > 0) ++counts.moe_layer;
  return counts;
}

StageClock::StageClock(const StageInput& input, int stage,
                       const std::vector<const LayerExperts*>& maps)
    : first_rank_(stage * input.candidate.spec.StageSize()),
      layers_(input.candidate.stages[stage]),
      spec_(input.candidate.spec),
      maps_(maps),
      queues_(input.cluster, StageDevices(input.candidate, stage)),
      builder_(BuilderOf(input, stage)) {
  if (input.model.IsMoe()) {
    const double weights = input.model.ExpertWeights() / spec_.slices;
    unit_bytes_ = weights * NumberFormatBytes(input.model.expert_format);
    entry_flops_ = 2 * weights;
  }
  for (int r = 0; r < spec_.StageSize(); ++r) ranks_.push_back(SecondsOf(input, r));
  std::map<const LayerExperts*, std::shared_ptr<const std::vector<RoundPeers>>> known;
  for (const LayerExperts* map : maps_) {
    auto& peers = known[map];
    if (peers == nullptr) {
      peers = std::make_shared<const std::vector<RoundPeers>>(builder_.PeerCounts(*map));
    }
    peers_.push_back(peers);
  }
}

// Shares a rank's seconds of the step out to its layers again.
StageClock::RankSeconds StageClock::SecondsOf(const StageInput& input, int stage_rank) const {
  const RankCost& cost = input.cost.ranks[first_rank_ + stage_rank];
  const auto of = [&](CostKind kind) { return cost.seconds[static_cast<int>(kind)]; };
  const double all = std::max(1, layers_.end - layers_.begin);
  const double moe = static_cast<double>(maps_.size());
  const double dense = std::max(0.0, layers_.end - layers_.begin - moe);
  const AllReduceCounts reduces = AllReducesOf(input.model, input.candidate.schedule);
  const double collectives = reduces.dense_layer * dense + reduces.moe_layer * moe;
  const double reduce = collectives > 0 ? of(CostKind::kTensorParallel) / collectives : 0;
  const double base =
      (of(CostKind::kAttentionWeights) + of(CostKind::kAttentionKv) + of(CostKind::kOverhead)) /
      all;
  RankSeconds seconds;
  if (moe > 0) {
    seconds.before_moe = base + reduce + of(CostKind::kRouter) / moe;
    seconds.shared = of(CostKind::kSharedExperts) / moe;
    seconds.reduce = reduce * (reduces.moe_layer - 1);
  }
  if (dense > 0) {
    seconds.dense = base + reduces.dense_layer * reduce + of(CostKind::kDenseFfn) / dense;
  }
  seconds.head = of(CostKind::kHead);
  const HardwareProfile& profile =
      input.cluster.ProfileOf(input.candidate.devices[first_rank_ + stage_rank]);
  seconds.byte_seconds = 1 / (profile.memory_bandwidth * profile.stream_efficiency);
  seconds.flop_seconds = 1 / (FlopRate(profile, input.model.activation) * profile.gemm_efficiency);
  return seconds;
}

void StageClock::RunDenseLayer(std::vector<double>& clock) const {
  for (size_t r = 0; r < ranks_.size(); ++r) clock[r] += ranks_[r].dense;
  MeetGroups(clock);
}

void StageClock::RunHead(std::vector<double>& clock) const {
  for (size_t r = 0; r < ranks_.size(); ++r) clock[r] += ranks_[r].head;
  MeetGroups(clock);
}

void StageClock::MeetGroups(std::vector<double>& clock) const {
  for (size_t group = 0; group < clock.size(); group += spec_.tp) {
    const auto first = clock.begin() + static_cast<ptrdiff_t>(group);
    std::fill(first, first + spec_.tp, *std::max_element(first, first + spec_.tp));
  }
}

void StageClock::RunRounds(absl::Span<const Transfer> transfers,
                           const std::vector<RoundPeers>& peers, bool back,
                           std::vector<double>& clock) {
  size_t begin = 0;
  const int rounds = static_cast<int>(peers.size());
  for (int round = 0; round < rounds; ++round) {
    size_t end = begin;
    while (end < transfers.size() && transfers[end].round == round) ++end;
    const RoundPeers& counts = peers[back ? rounds - 1 - round : round];
    queues_.Run({.transfers = transfers.subspan(begin, end - begin),
                 .sends = back ? counts.receives : counts.sends,
                 .receives = back ? counts.sends : counts.receives,
                 .scale = scale_},
                clock);
    begin = end;
  }
}

double StageClock::RunMoeLayer(int moe_layer, const DrawnRouting& drawn,
                               std::vector<double>& clock) {
  builder_.BuildInto(*maps_[moe_layer], drawn.routing, transfers_);
  scale_ = drawn.scale;
  for (size_t r = 0; r < ranks_.size(); ++r) clock[r] += ranks_[r].before_moe;
  MeetGroups(clock);
  const std::vector<RoundPeers>& peers = *peers_[moe_layer];
  RunRounds(transfers_.dispatch, peers, /*back=*/false, clock);
  int64_t most = 0;
  int64_t all = 0;
  for (size_t r = 0; r < ranks_.size(); ++r) {
    const RankWork& work = transfers_.work[r];
    most = std::max(most, work.entries);
    all += work.entries;
    const RankSeconds& rank = ranks_[r];
    const double move = static_cast<double>(work.units) * unit_bytes_ * rank.byte_seconds;
    const double compute =
        static_cast<double>(work.entries) * scale_ * entry_flops_ * rank.flop_seconds;
    clock[r] += std::max(move, compute) + rank.shared;
  }
  RunRounds(transfers_.combine, peers, /*back=*/true, clock);
  for (size_t r = 0; r < ranks_.size(); ++r) clock[r] += ranks_[r].reduce;
  MeetGroups(clock);
  if (all == 0) return 1;
  return static_cast<double>(most) * static_cast<double>(ranks_.size()) / static_cast<double>(all);
}

}  // namespace conclave
