#include "placement/cost/layer_cost.h"

#include <algorithm>
#include <cmath>

#include "placement/cost/expected.h"
#include "placement/cost/kernel_counts.h"

namespace conclave {
namespace {

constexpr double kRouteEntryBytes = 8;  // (row, slot) of comm/exchange/exchange_layout.h

double& SecondsOf(RankCost& cost, CostKind kind) { return cost.seconds[static_cast<int>(kind)]; }

// Products of quantised weights run in the activations' format: weights are dequantised on the way.
double FlopRate(const HardwareProfile& profile, NumberFormat activation) {
  const auto exact = profile.flops.find(activation);
  if (exact != profile.flops.end()) return exact->second;
  const auto bf16 = profile.flops.find(NumberFormat::kBf16);
  if (bf16 != profile.flops.end()) return bf16->second;
  return profile.flops.empty() ? 1.0 : profile.flops.begin()->second;
}

struct Work {
  double bytes = 0;
  double flops = 0;
  int kernels = 0;
  double depth = 0;  // mean inner dimension of the products; 0: large
};

// A kernel streams its bytes while it computes: the longer of the two, what the profile says is not
// hidden of the shorter, and its launch and tail.
void AddWork(const LayerInput& in, const RankSite& site, CostKind kind, const Work& work,
             RankCost* cost) {
  const HardwareProfile& profile = *site.profile;
  const double share =
      kind == CostKind::kAttentionKv ? profile.attention_efficiency : profile.stream_efficiency;
  const double move = work.bytes / (profile.memory_bandwidth * share);
  const double products = FlopRate(profile, in.model->activation) * profile.gemm_efficiency;
  const bool attends = kind == CostKind::kAttentionKv && profile.attention_flops > 0;
  const double fixed = work.depth > 0 ? 1 + profile.product_depth / work.depth : 1;
  const double compute = work.flops * fixed / (attends ? profile.attention_flops : products);
  SecondsOf(*cost, kind) +=
      std::max(move, compute) + (1 - profile.overlap) * std::min(move, compute);
  SecondsOf(*cost, CostKind::kOverhead) += work.kernels * profile.kernel_seconds;
  cost->bytes += work.bytes;
  cost->flops += work.flops;
}

double ActivationBytes(const LayerInput& in) {
  return in.model->hidden * NumberFormatBytes(in.model->activation);
}

// Of gate and up, from the hidden state, and down, from the FFN's width.
double MeanDepth(double hidden, double ffn) { return 3 / (2 / hidden + 1 / std::max(ffn, 1.0)); }

void AddAllReduce(const LayerInput& in, const RankSite& site, RankCost* cost) {
  const int tp = in.spec->tp;
  if (tp <= 1) return;
  const double bytes = site.tokens * ActivationBytes(in);
  SecondsOf(*cost, CostKind::kTensorParallel) += AllReduceSeconds(tp, bytes, site.tp_link.cost);
  SecondsOf(*cost, CostKind::kOverhead) += site.profile->kernel_seconds;
  const int link = static_cast<int>(site.tp_link.link);
  cost->link_bytes[link] += 2.0 * (tp - 1) / tp * bytes;
  cost->link_messages[link] += 2.0 * (tp - 1);
}

void AddAttention(const LayerInput& in, const RankSite& site, RankCost* cost) {
  const ModelDims& model = *in.model;
  const int tp = in.spec->tp;
  // Key and value heads that the group is wider than are held, and read, more than once.
  double weights = model.AttentionWeights() / tp;
  if (model.kv_rank == 0 && tp > model.kv_heads) {
    const double held = 1.0 - static_cast<double>(model.kv_heads) / tp;
    weights += 2.0 * model.hidden * model.head_dim * held;
  }
  AddWork(in, site, CostKind::kAttentionWeights,
          {weights * NumberFormatBytes(model.format), 2 * site.tokens * weights, kAttentionKernels,
           static_cast<double>(model.hidden)},
          cost);
  const double context = in.load->context_tokens;
  const double heads = static_cast<double>(model.heads) / tp;
  // MLA scores tokens against the latent cache when it decodes, and in full when it prefills.
  const bool latent = model.kv_rank > 0 && in.load->tokens <= in.load->sequences;
  const double width = model.kv_rank == 0 ? 2.0 * model.head_dim
                       : latent           ? 2.0 * model.kv_rank + model.rope_dim
                                          : model.head_dim + model.rope_dim + model.value_dim;
  AddWork(in, site, CostKind::kAttentionKv,
          {site.sequences * context * model.KvBytesPerTokenLayer(tp),
           2 * site.tokens * context * heads * width, 0},
          cost);
  AddAllReduce(in, site, cost);
}

// One direction of an exchange: latency once for each round, the sender's work for each message,
// and the longest of the links' transfers.
struct Direction {
  double rounds = 1;
  double messages = 0;
  double bytes_by_class[3] = {};
};

void AddDirection(const RankSite& site, const Direction& way, RankCost* cost) {
  double alpha = 0;
  double transfer = 0;
  for (int c = 0; c < 3; ++c) {
    if (way.bytes_by_class[c] <= 0 && site.peers.by_class[c] == 0) continue;
    alpha = std::max(alpha, site.links[c].alpha);
    if (way.bytes_by_class[c] > 0) {
      transfer = std::max(transfer, way.bytes_by_class[c] / site.links[c].bandwidth);
    }
    cost->link_bytes[c] += way.bytes_by_class[c];
  }
  SecondsOf(*cost, CostKind::kExchange) +=
      way.rounds * alpha + way.messages * site.profile->peer_seconds + transfer;
  SecondsOf(*cost, CostKind::kOverhead) += way.rounds * site.profile->kernel_seconds;
}

// Naive and PCC: every row straight to its owners among the `reach` ranks that one may talk to.
void AddDirectExchange(const LayerInput& in, const RankSite& site, RankCost* cost) {
  const ModelDims& model = *in.model;
  const ParallelSpec& spec = *in.spec;
  const double size = spec.StageSize();
  const double reach = site.peers.Total() + 1;
  if (reach <= 1) return;
  const double chosen = std::min(1.0, spec.slices / size);  // of one choice to touch one rank
  const double away = 1 - 1 / reach;
  const double rows = site.tokens * reach * (1 - std::pow(1 - chosen, model.top_k)) * away;
  const double entries = site.tokens * model.top_k * spec.slices * (reach / size) * away;
  const double dispatch = rows * ActivationBytes(in) + entries * kRouteEntryBytes;
  const double combine = entries * ActivationBytes(in);
  for (const double bytes : {dispatch, combine}) {
    Direction way;
    way.messages = reach - 1;
    for (int c = 0; c < 3; ++c) {
      way.bytes_by_class[c] = in.load->imbalance * bytes * site.peers.by_class[c] / (reach - 1);
      cost->link_messages[c] += site.peers.by_class[c];
    }
    AddDirection(site, way, cost);
  }
}

// Two-level: a row crosses to another node once, whoever of that node wants it, and is handed on
// inside; combined sums come back the same way.
void AddTwoLevelExchange(const LayerInput& in, const RankSite& site, RankCost* cost) {
  const ModelDims& model = *in.model;
  const ParallelSpec& spec = *in.spec;
  const double size = spec.StageSize();
  const int inside = site.links[0].bandwidth > 0 ? 0 : 1;
  const double nodes = site.peers.nodes;
  const double own = site.tokens / spec.tp;  // the tp ranks share the work for their tokens
  const double chosen = std::min(1.0, spec.slices / size);
  const double to_node = 1 - std::pow(1 - std::min(1.0, chosen * size / nodes), model.top_k);
  const double to_rank = 1 - std::pow(1 - chosen, model.top_k);
  const double neighbours = site.peers.ranks_in_node - 1;
  for (int direction = 0; direction < 2; ++direction) {
    Direction across;
    across.messages = nodes - 1;
    across.bytes_by_class[2] =
        in.load->imbalance * own * (nodes - 1) * to_node * ActivationBytes(in);
    Direction within;
    within.messages = neighbours;
    within.bytes_by_class[inside] = in.load->imbalance * own * size * to_rank *
                                    (neighbours / (neighbours + 1)) * ActivationBytes(in);
    if (nodes > 1) AddDirection(site, across, cost);
    if (neighbours > 0) AddDirection(site, within, cost);
    cost->link_messages[2] += nodes - 1;
    cost->link_messages[inside] += neighbours;
  }
}

void AddExperts(const LayerInput& in, const RankSite& site, RankCost* cost) {
  const ModelDims& model = *in.model;
  const ParallelSpec& spec = *in.spec;
  const double units = site.expert_share * model.experts * spec.slices;
  const double tokens = in.load->tokens;
  const double hit = ExpectedExpertsHit(model.experts, model.top_k, tokens) / model.experts;
  // A cut expert is touched on all ranks of its group at once.
  const int groups = std::max(1, spec.StageSize() / spec.slices);
  const double touched = ExpectedMostHit(units, hit, groups);
  const double weights = model.ExpertWeights() / spec.slices;
  // Under naive every rank of a tp group sends its (equal) rows, and each is computed.
  const double senders = in.schedule == ScheduleKind::kNaive ? spec.tp : 1;
  const double rows = senders * tokens * model.top_k * site.expert_share * in.load->imbalance;
  AddWork(
      in, site, CostKind::kExperts,
      {touched * weights * NumberFormatBytes(model.expert_format), 2 * rows * model.ExpertWeights(),
       2, MeanDepth(model.hidden, static_cast<double>(model.expert_ffn) / spec.slices)},
      cost);
  if (model.shared_ffn == 0) return;
  const double shared = model.SharedWeights() / spec.tp;
  AddWork(
      in, site, CostKind::kSharedExperts,
      {shared * NumberFormatBytes(model.expert_format), 2 * site.tokens * shared, kSharedKernels,
       MeanDepth(model.hidden, static_cast<double>(model.shared_ffn) / spec.tp)},
      cost);
}

}  // namespace

void AddCost(const RankCost& cost, double times, RankCost* sum) {
  for (int k = 0; k < kCostKinds; ++k) sum->seconds[k] += times * cost.seconds[k];
  sum->bytes += times * cost.bytes;
  sum->flops += times * cost.flops;
  for (int c = 0; c < 3; ++c) {
    sum->link_bytes[c] += times * cost.link_bytes[c];
    sum->link_messages[c] += times * cost.link_messages[c];
  }
}

LayerCost CostOfMoeLayer(const LayerInput& input, const RankSite& site) {
  const ModelDims& model = *input.model;
  LayerCost cost;
  AddAttention(input, site, &cost.before);
  const double router = model.RouterWeights();  // never cut, never quantised
  AddWork(input, site, CostKind::kRouter,
          {router * NumberFormatBytes(model.activation), 2 * site.tokens * router, kMoeKernels - 2,
           static_cast<double>(model.hidden)},
          &cost.before);
  if (input.schedule == ScheduleKind::kTwoLevel) {
    AddTwoLevelExchange(input, site, &cost.exchange);
  } else {
    AddDirectExchange(input, site, &cost.exchange);
  }
  // PCC splits the rows over the tp group before, and puts the gathered ones in order after (the
  // paper's steps 1 and 4, figure 5).
  if (input.schedule != ScheduleKind::kNaive && input.spec->tp > 1) {
    SecondsOf(cost.exchange, CostKind::kOverhead) += kSplitKernels * site.profile->kernel_seconds;
  }
  // Naive leaves every tp rank with all outputs; the others gather them, shared experts included.
  if (input.schedule != ScheduleKind::kNaive || model.shared_ffn > 0) {
    AddAllReduce(input, site, &cost.exchange);
  }
  AddExperts(input, site, &cost.after);
  return cost;
}

RankCost CostOfDenseLayer(const LayerInput& input, const RankSite& site) {
  RankCost cost;
  AddAttention(input, site, &cost);
  const double weights = input.model->DenseFfnWeights() / input.spec->tp;
  AddWork(input, site, CostKind::kDenseFfn,
          {weights * NumberFormatBytes(input.model->format), 2 * site.tokens * weights,
           kDenseFfnKernels,
           MeanDepth(input.model->hidden, static_cast<double>(input.model->ffn) / input.spec->tp)},
          &cost);
  AddAllReduce(input, site, &cost);
  return cost;
}

RankCost CostOfHead(const LayerInput& input, const RankSite& site) {
  RankCost cost;
  const double weights = input.model->VocabularyWeights() / input.spec->tp;
  AddWork(input, site, CostKind::kHead,
          {weights * NumberFormatBytes(input.model->activation), 2 * site.logit_rows * weights,
           kHeadKernels, static_cast<double>(input.model->hidden)},
          &cost);
  return cost;
}

}  // namespace conclave
