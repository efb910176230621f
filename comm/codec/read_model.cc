#include "comm/codec/read_model.h"

#include <utility>
#include <vector>

#include "comm/codec/codec.h"

namespace conclave {
namespace {

constexpr Bounds kWidth = {0, kWidthMax};
constexpr Bounds kDegree = {1, kRanksMax};

absl::string_view View(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

Dtype ReadDtype(absl::string_view field, schema::Dtype in, FieldCheck& check) {
  return check.Enumerant(field, in, Dtype::kU8);
}

RopeShape ReadRope(schema::RopeShape::Reader in, FieldCheck& check) {
  RopeShape out;
  out.kind = check.Enumerant("shape.rope.kind", in.getKind(), RopeShape::Kind::kLlama3);
  out.theta = in.getTheta();
  out.factor = in.getFactor();
  out.low_freq_factor = in.getLowFreqFactor();
  out.high_freq_factor = in.getHighFreqFactor();
  out.original_context_tokens =
      check.Int64("shape.rope.originalContextTokens", in.getOriginalContextTokens());
  return out;
}

MoeShape ReadMoe(schema::MoeShape::Reader in, FieldCheck& check) {
  MoeShape out;
  out.experts = check.Int32("shape.moe.experts", in.getExperts(), {0, kLayerUnitsMax});
  out.top_k = check.Int32("shape.moe.topK", in.getTopK(), {0, out.experts});
  out.ffn = check.Int32("shape.moe.ffn", in.getFfn(), kWidth);
  out.normalize_top_k = in.getNormalizeTopK();
  return out;
}

std::vector<int> ReadDenseLayers(capnp::List<int32_t>::Reader in, int layers, FieldCheck& check) {
  std::vector<int> out(check.Count("shape.denseLayers", in.size(), layers));
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = check.Int32("shape.denseLayers", in[i], {i == 0 ? 0 : out[i - 1] + 1, layers - 1});
  }
  return out;
}

ModelShape ReadShape(schema::ModelShape::Reader in, FieldCheck& check) {
  ModelShape out;
  out.architecture =
      check.Enumerant("shape.architecture", in.getArchitecture(), Architecture::kQwen3Moe);
  out.name = check.Text("shape.name", View(in.getName()), kTextBytesMax);
  out.layers = check.Int32("shape.layers", in.getLayers(), {0, kLayersMax});
  out.hidden = check.Int32("shape.hidden", in.getHidden(), kWidth);
  out.heads = check.Int32("shape.heads", in.getHeads(), kWidth);
  out.kv_heads = check.Int32("shape.kvHeads", in.getKvHeads(), kWidth);
  out.head_dim = check.Int32("shape.headDim", in.getHeadDim(), kWidth);
  out.ffn = check.Int32("shape.ffn", in.getFfn(), kWidth);
  out.vocab = check.Int32("shape.vocab", in.getVocab(), kWidth);
  out.context_tokens = check.Int32("shape.contextTokens", in.getContextTokens());
  out.norm_epsilon = in.getNormEpsilon();
  out.tied_embeddings = in.getTiedEmbeddings();
  out.qk_norm = check.Enumerant("shape.qkNorm", in.getQkNorm(), QkNorm::kFullWidth);
  out.rope = ReadRope(in.getRope(), check);
  out.moe = ReadMoe(in.getMoe(), check);
  out.dense_layers = ReadDenseLayers(in.getDenseLayers(), out.layers, check);
  out.weight_dtype = ReadDtype("shape.weightDtype", in.getWeightDtype(), check);
  const auto eos = in.getEosTokenIds();
  out.eos_token_ids.resize(check.Count("shape.eosTokenIds", eos.size(), kTextBytesMax));
  for (size_t i = 0; i < out.eos_token_ids.size(); ++i) {
    out.eos_token_ids[i] = check.Int32("shape.eosTokenIds", eos[i], kWidth);
  }
  return out;
}

ParallelSpec ReadSpec(schema::ParallelSpec::Reader in, FieldCheck& check) {
  ParallelSpec out;
  out.tp = check.Int32("plan.spec.tp", in.getTp(), kDegree);
  out.dp = check.Int32("plan.spec.dp", in.getDp(), kDegree);
  out.pp = check.Int32("plan.spec.pp", in.getPp(), kDegree);
  const int64_t workers = int64_t{out.tp} * out.dp;
  if (workers > kRanksMax || workers * out.pp > kRanksMax) {
    check.Refuse("plan.spec", absl::StrCat("tp * dp * pp is more than ", kRanksMax, " workers"));
    return ParallelSpec();
  }
  out.slices = check.Int32("plan.spec.slices", in.getSlices(), {1, out.StageSize()});
  out.ep = check.Int32("plan.spec.ep", in.getEp(), {0, out.StageSize()});
  return out;
}

// A layer without experts, or `units` of them: each with at least one owner, ascending, within the
// stage.
LayerExperts ReadLayerExperts(schema::LayerExperts::Reader in, const ModelShape& shape,
                              const ParallelSpec& spec, FieldCheck& check) {
  const auto counts = in.getOwnerCounts();
  const auto ranks = in.getRanks();
  const int slices = check.Int32("plan.experts.slices", in.getSlices(), {1, spec.StageSize()});
  const size_t unit_count = check.Count("plan.experts.ownerCounts", counts.size(), kLayerUnitsMax);
  if (unit_count > 0) {
    const int64_t units = int64_t{shape.moe.experts} * spec.slices;
    check.Require(slices == spec.slices, "plan.experts.slices", "differ from plan.spec.slices");
    check.Require(static_cast<int64_t>(unit_count) == units, "plan.experts.ownerCounts",
                  absl::StrCat(unit_count, " units; the shape and the slices make ", units));
  }
  std::vector<int32_t> first = {0};
  first.reserve(unit_count + 1);
  std::vector<int32_t> owners;
  owners.reserve(ranks.size());
  for (size_t unit = 0; unit < unit_count && check.ok(); ++unit) {
    const int32_t count =
        check.Int32("plan.experts.ownerCounts", counts[unit], {1, spec.StageSize()});
    if (owners.size() + count > ranks.size()) {
      check.Refuse("plan.experts.ranks", "fewer ranks than ownerCounts add up to");
      break;
    }
    for (int32_t i = 0; i < count; ++i) {
      const int32_t lowest = i == 0 ? 0 : owners.back() + 1;
      const Bounds bounds = {lowest, spec.StageSize() - 1};
      owners.push_back(check.Int32("plan.experts.ranks", ranks[owners.size()], bounds));
    }
    first.push_back(static_cast<int32_t>(owners.size()));
  }
  check.Require(owners.size() == ranks.size(), "plan.experts.ranks",
                "more ranks than ownerCounts add up to");
  return LayerExperts::FromTables(slices, std::move(first), std::move(owners));
}

std::vector<LayerRange> ReadStages(capnp::List<schema::LayerRange>::Reader in, int pp, int layers,
                                   FieldCheck& check) {
  std::vector<LayerRange> out(check.Count("plan.stages", in.size(), pp));
  check.Require(in.size() == static_cast<size_t>(pp), "plan.stages",
                absl::StrCat(in.size(), " stages for pp=", pp));
  int next = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    const auto stage = in[i];
    out[i].begin = check.Int32("plan.stages.begin", stage.getBegin(), {next, next});
    out[i].end = check.Int32("plan.stages.end", stage.getEnd(), {next, layers});
    next = out[i].end;
  }
  check.Require(next == layers, "plan.stages", "do not cover all layers of the shape");
  return out;
}

ParallelPlan ReadPlan(schema::ParallelPlan::Reader in, const ModelShape& shape, FieldCheck& check) {
  ParallelPlan out;
  out.epoch = Epoch{in.getEpoch()};
  out.spec = ReadSpec(in.getSpec(), check);
  const auto workers = in.getWorkers();
  const int worker_count = out.spec.WorkerCount();
  out.workers.resize(check.Count("plan.workers", workers.size(), worker_count));
  check.Require(workers.size() == static_cast<size_t>(worker_count), "plan.workers",
                absl::StrCat(workers.size(), " workers for a grid of ", worker_count));
  for (size_t i = 0; i < out.workers.size(); ++i) out.workers[i] = WorkerId{workers[i]};
  out.stages = ReadStages(in.getStages(), out.spec.pp, shape.layers, check);
  const auto layers = in.getExperts();
  const size_t layer_count = check.Count("plan.experts", layers.size(), shape.layers);
  check.Require(
      layer_count == static_cast<size_t>(shape.layers) || (layer_count == 0 && !shape.IsMoe()),
      "plan.experts", absl::StrCat(layer_count, " layers; the shape has ", shape.layers));
  out.experts.layers.reserve(layer_count);
  for (size_t i = 0; i < layer_count && check.ok(); ++i) {
    out.experts.layers.push_back(ReadLayerExperts(layers[i], shape, out.spec, check));
  }
  out.exchange = check.Enumerant("plan.exchange", in.getExchange(), ExchangeKind::kTwoLevel);
  out.payload = check.Enumerant("plan.payload", in.getPayload(), PayloadFormat::kFp8);
  return out;
}

}  // namespace

Assign ReadAssign(schema::Assign::Reader in, FieldCheck& check) {
  Assign out;
  out.shape = ReadShape(in.getShape(), check);
  const auto source = in.getSource();
  out.source.path = check.Text("source.path", View(source.getPath()), kTextBytesMax);
  out.source.dummy = source.getDummy();
  out.source.dummy_seed = source.getDummySeed();
  out.plan = ReadPlan(in.getPlan(), out.shape, check);
  out.rank = check.Int32("assign.rank", in.getRank(), {0, out.plan.spec.WorkerCount() - 1});
  const auto cache = in.getCache();
  out.cache.page_tokens = check.Int32("cache.pageTokens", cache.getPageTokens(), {1, kWidthMax});
  out.cache.dtype = ReadDtype("cache.dtype", cache.getDtype(), check);
  out.cache.memory_bytes = check.Int64("cache.memoryBytes", cache.getMemoryBytes());
  out.cache.pages_max = check.Int32("cache.pagesMax", cache.getPagesMax());
  const auto compute = in.getCompute();
  out.compute.deterministic = compute.getDeterministic();
  out.compute.quantization =
      check.Enumerant("compute.quantization", compute.getQuantization(), Quantization::kMxfp4);
  out.compute.quant_group =
      check.Int32("compute.quantGroup", compute.getQuantGroup(), {0, kQuantGroupMax});
  return out;
}

}  // namespace conclave
