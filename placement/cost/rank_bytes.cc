// The memory side of the cost model: bytes of each rank, and which grids cut the model evenly.
#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "placement/cost/cost_model.h"

namespace conclave {
namespace {

// Of a device's memory; the rest goes to the driver's context, the fabrics and the allocator.
constexpr double kUsableShare = 0.94;

double LayerBytes(const ModelDims& model, const Candidate& candidate, int layer, int stage_rank) {
  const int tp = candidate.spec.tp;
  double attention = model.AttentionWeights() / tp;
  if (model.kv_rank == 0 && tp > model.kv_heads) {
    attention +=
        2.0 * model.hidden * model.head_dim * (1.0 - static_cast<double>(model.kv_heads) / tp);
  }
  const double bytes = attention * NumberFormatBytes(model.format);
  if (!model.IsMoe() || !model.moe_layers[layer]) {
    return bytes + model.DenseFfnWeights() / tp * NumberFormatBytes(model.format);
  }
  const double experts = candidate.expert_shares[stage_rank] * model.experts;
  // Uneven counts leave some rank with one unit more than the mean.
  const double units = std::ceil(experts * candidate.spec.slices - 1e-6);
  return bytes + model.RouterWeights() * NumberFormatBytes(model.activation) +
         (units / candidate.spec.slices * model.ExpertWeights() + model.SharedWeights() / tp) *
             NumberFormatBytes(model.expert_format);
}

double VocabularyBytes(const ModelDims& model, const ParallelSpec& spec, int stage) {
  const double table = model.VocabularyWeights() / spec.tp * NumberFormatBytes(model.activation);
  const bool first = stage == 0;
  const bool last = stage == spec.pp - 1;
  if (first && last) return model.tied_embeddings ? table : 2 * table;
  return first || last ? table : 0;
}

// Rows of a step: in, out, queries, keys, values, and the routed rows before and after the FFN.
double ActivationBytesOf(const ModelDims& model, const ParallelSpec& spec, double tokens) {
  const double width = model.head_dim + model.rope_dim;
  const double heads = static_cast<double>(model.heads) / spec.tp * width;
  const double routed = model.IsMoe() ? model.top_k * (2.0 * model.hidden + 2.0 * model.expert_ffn)
                                      : 2.0 * model.ffn / spec.tp;
  const double row = 4.0 * model.hidden + 3 * heads + routed;
  return tokens * row * NumberFormatBytes(model.activation);
}

}  // namespace

std::vector<RankBytes> BytesOfCandidate(const ModelDims& model, const Candidate& candidate,
                                        double step_tokens) {
  const ParallelSpec& spec = candidate.spec;
  std::vector<RankBytes> ranks(spec.WorkerCount());
  for (int rank = 0; rank < spec.WorkerCount(); ++rank) {
    const GridPosition at = spec.PositionOf(rank);
    const LayerRange& range = candidate.stages[at.pp];
    RankBytes& bytes = ranks[rank];
    bytes.weights = VocabularyBytes(model, spec, at.pp);
    for (int layer = range.begin; layer < range.end; ++layer) {
      bytes.weights += LayerBytes(model, candidate, layer, spec.StageRankOf(at));
    }
    bytes.kv_per_token = model.KvBytesPerTokenLayer(spec.tp) * (range.end - range.begin);
    bytes.activations = ActivationBytesOf(model, spec, step_tokens * candidate.token_shares[at.dp]);
  }
  return ranks;
}

absl::Status CheckFits(const ModelDims& model, const ClusterTopology& cluster,
                       const Candidate& candidate, double kv_tokens, double step_tokens) {
  const std::vector<RankBytes> ranks = BytesOfCandidate(model, candidate, step_tokens);
  constexpr double kGib = 1 << 30;
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    const int device = candidate.devices[rank];
    const int dp = candidate.spec.PositionOf(static_cast<int>(rank)).dp;
    const double kv = ranks[rank].kv_per_token * kv_tokens * candidate.token_shares[dp];
    const double need = ranks[rank].weights + kv + ranks[rank].activations;
    const double have = cluster.ProfileOf(device).memory_bytes * kUsableShare;
    if (need <= have) continue;
    return absl::ResourceExhaustedError(absl::StrFormat(
        "%s: rank %d needs %.1f GiB (weights %.1f, KV of %.0f tokens %.1f, activations %.1f) but "
        "device %d of node %s has %.1f GiB to use; take more devices, fewer tokens or a smaller "
        "weight format",
        candidate.spec.ToString(), rank, need / kGib, ranks[rank].weights / kGib, kv_tokens,
        kv / kGib, ranks[rank].activations / kGib, device,
        cluster.nodes[cluster.NodeOf(device)].name, have / kGib));
  }
  return absl::OkStatus();
}

absl::Status CheckGrid(const ModelDims& model, const ParallelSpec& spec) {
  const auto refuse = [&](absl::string_view why) {
    return absl::InvalidArgumentError(
        absl::StrCat(spec.ToString(), " does not fit ", model.name, ": ", why));
  };
  if (spec.tp < 1 || spec.dp < 1 || spec.pp < 1 || spec.slices < 1) {
    return refuse("every degree is at least 1");
  }
  if (model.heads % spec.tp != 0) {
    return refuse(absl::StrCat("tp must divide the ", model.heads, " heads"));
  }
  if (model.kv_rank == 0 && model.kv_heads % spec.tp != 0 && spec.tp % model.kv_heads != 0) {
    return refuse(
        absl::StrCat("tp must divide the ", model.kv_heads, " KV heads or be a multiple of them"));
  }
  if (spec.pp > model.layers) {
    return refuse(absl::StrCat("pp is more than the ", model.layers, " layers"));
  }
  if (!model.IsMoe()) {
    return spec.slices == 1 ? absl::OkStatus() : refuse("a dense model has no expert slices");
  }
  if (spec.StageSize() % spec.slices != 0) {
    return refuse(absl::StrCat("slices must divide the ", spec.StageSize(), " ranks of a stage"));
  }
  if (model.expert_ffn % spec.slices != 0) {
    return refuse(absl::StrCat("slices must divide the expert width ", model.expert_ffn));
  }
  if (spec.StageSize() / spec.slices > model.experts) {
    return refuse(absl::StrCat("a stage has ", spec.StageSize() / spec.slices, " groups for ",
                               model.experts, " experts; use more slices or more stages"));
  }
  return absl::OkStatus();
}

}  // namespace conclave
