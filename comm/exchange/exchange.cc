#include "comm/exchange/exchange.h"

#include <algorithm>

#include "comm/exchange/exchange_layout.h"
#include "glog/logging.h"

namespace conclave {

ExchangeSchedule::ExchangeSchedule(ExchangeKind kind, const ParallelSpec& spec,
                                   const LayerExperts& experts, int stage_rank)
    : kind_(kind), spec_(spec), stage_rank_(stage_rank), slices_(experts.slices()) {
  const int stage_size = spec.StageSize();
  CHECK_GE(stage_rank, 0);
  CHECK_LT(stage_rank, stage_size);
  const int units = experts.experts() * slices_;
  std::vector<int32_t> slots(stage_size, 0);  // units seen so far of each rank: the next slot
  first_.reserve(units + 1);
  first_.push_back(0);
  for (int unit = 0; unit < units; ++unit) {
    for (const int32_t owner : experts.Owners({unit / slices_, unit % slices_})) {
      CHECK_LT(owner, stage_size) << "an expert map of a larger stage";
      copies_.push_back({owner, slots[owner]++});
    }
    first_.push_back(static_cast<int32_t>(copies_.size()));
  }
  index_of_.assign(stage_size, -1);
  for (int other = 0; other < stage_size; ++other) {
    const bool reachable = kind == ExchangeKind::kNaive || other % spec.tp == stage_rank % spec.tp;
    if (other != stage_rank && reachable && slots[other] > 0) peers_.send_to.push_back(other);
    if (other != stage_rank && reachable && slots[stage_rank] > 0) {
      peers_.recv_from.push_back(other);
    }
    if (other == stage_rank || (reachable && slots[other] > 0)) {
      index_of_[other] = static_cast<int32_t>(destinations_.size());
      destinations_.push_back(other);
    }
  }
}

const ExchangeSchedule::Copy& ExchangeSchedule::CopyFor(int32_t expert, int slice,
                                                        int32_t token) const {
  const size_t unit = static_cast<size_t>(expert) * slices_ + slice;
  DCHECK_LT(unit + 1, first_.size());
  const int32_t begin = first_[unit];
  return copies_[begin + token % (first_[unit + 1] - begin)];
}

bool ExchangeSchedule::Handles(int32_t expert, int slice, int32_t token) const {
  return kind_ == ExchangeKind::kNaive ||
         CopyFor(expert, slice, token).stage_rank % spec_.tp == stage_rank_ % spec_.tp;
}

int ExchangeSchedule::HolderTp(int32_t expert, int slice, int32_t token) const {
  if (kind_ == ExchangeKind::kNaive) return stage_rank_ % spec_.tp;
  return CopyFor(expert, slice, token).stage_rank % spec_.tp;
}

void ExchangeSchedule::DispatchInto(absl::Span<const int32_t> experts, int top_k,
                                    std::vector<DispatchToPeer>& out) const {
  CHECK_GT(top_k, 0);
  CHECK_EQ(experts.size() % top_k, 0u);
  out.resize(destinations_.size());
  for (size_t i = 0; i < out.size(); ++i) {
    out[i].stage_rank = destinations_[i];
    out[i].tokens.clear();
    out[i].entries.clear();
  }
  const int32_t expert_count = static_cast<int32_t>(first_.size() - 1) / slices_;
  const int32_t tokens = static_cast<int32_t>(experts.size() / top_k);
  for (int32_t token = 0; token < tokens; ++token) {
    for (int32_t choice = 0; choice < top_k; ++choice) {
      const int32_t expert = experts[static_cast<size_t>(token) * top_k + choice];
      CHECK(expert >= 0 && expert < expert_count) << "no such expert: " << expert;
      for (int32_t slice = 0; slice < slices_; ++slice) {
        const Copy& copy = CopyFor(expert, slice, token);
        const int32_t index = index_of_[copy.stage_rank];
        if (index < 0) continue;  // of another tp index: its rank of the dp group handles it
        DispatchToPeer& to = out[index];
        if (to.tokens.empty() || to.tokens.back() != token) to.tokens.push_back(token);
        const int32_t row = static_cast<int32_t>(to.tokens.size()) - 1;
        to.entries.push_back({row, copy.slot, token, choice, slice});
      }
    }
  }
  for (DispatchToPeer& to : out) {
    // A token may choose one expert twice: choice and slice make the order total.
    std::sort(to.entries.begin(), to.entries.end(),
              [](const ExchangeEntry& a, const ExchangeEntry& b) {
                if (a.slot != b.slot) return a.slot < b.slot;
                if (a.row != b.row) return a.row < b.row;
                return a.choice < b.choice;
              });
  }
}

std::vector<DispatchToPeer> ExchangeSchedule::Dispatch(absl::Span<const int32_t> experts,
                                                       int top_k) const {
  std::vector<DispatchToPeer> out;
  DispatchInto(experts, top_k, out);
  return out;
}

int64_t DispatchBytes(int64_t rows, int64_t entries, int hidden) {
  return static_cast<int64_t>(sizeof(DispatchHeader)) +
         entries * static_cast<int64_t>(sizeof(WireEntry)) +
         rows * hidden * static_cast<int64_t>(sizeof(float));
}

int64_t CombineBytes(int64_t entries, int hidden) {
  return entries * hidden * static_cast<int64_t>(sizeof(float));
}

}  // namespace conclave
