#include "comm/codec/random_envelope.h"

#include <cstdint>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "glog/logging.h"

namespace conclave {
namespace {

int32_t Int(Rng& rng, uint64_t bound) { return static_cast<int32_t>(rng.Below(bound)); }

// Spread over the magnitudes.
int64_t Big(Rng& rng) { return static_cast<int64_t>(rng.Next() >> (1 + rng.Below(63))); }

float Real(Rng& rng) { return static_cast<float>(rng.Uniform()); }

std::string Bytes(Rng& rng, size_t size_max) {
  std::string out(rng.Below(size_max + 1), '\0');
  for (char& c : out) c = static_cast<char>(rng.Below(256));
  return out;
}

std::vector<int32_t> Ints(Rng& rng, size_t size_max) {
  std::vector<int32_t> out(rng.Below(size_max + 1));
  for (int32_t& value : out) value = Int(rng, 1u << 20);
  return out;
}

SequenceSlice RandomSequence(Rng& rng) {
  SequenceSlice out;
  out.request = RequestId{rng.Next()};
  out.position = Int(rng, 1u << 30);
  out.tokens = Ints(rng, 20);
  out.from_previous_step = rng.Chance(1, 2);
  out.pages = Ints(rng, 10);
  out.sample = rng.Chance(1, 2);
  out.want_logits = rng.Chance(1, 2);
  out.sampling = {Real(rng) * 2, Int(rng, 100), Real(rng), Real(rng), rng.Next()};
  return out;
}

StepPlan RandomStepPlan(Rng& rng) {
  StepPlan out;
  out.epoch = Epoch{rng.Next()};
  out.step = StepId{rng.Next()};
  out.tokens_by_dp = Ints(rng, 8);
  out.batch.resize(rng.Below(8));
  for (SequenceSlice& sequence : out.batch) sequence = RandomSequence(rng);
  return out;
}

StepResult RandomStepResult(Rng& rng) {
  StepResult out;
  out.epoch = Epoch{rng.Next()};
  out.step = StepId{rng.Next()};
  out.tokens.resize(rng.Below(8));
  for (SampledToken& token : out.tokens) {
    token = {RequestId{rng.Next()}, Int(rng, 4096), Int(rng, 151936), -Real(rng)};
  }
  out.experts.resize(rng.Below(32));
  for (ExpertLoad& load : out.experts) {
    load = {Int(rng, 100), Int(rng, 3000), Int(rng, 2), Int(rng, 512)};
  }
  out.exchange = {Big(rng), Big(rng), Big(rng), Big(rng), Big(rng), Big(rng), Big(rng), Big(rng)};
  out.timings = {Big(rng), Big(rng), Big(rng), Big(rng), Big(rng), Big(rng)};
  out.weight_bytes_read = Big(rng);
  return out;
}

ModelShape RandomShape(Rng& rng) {
  ModelShape out;
  out.architecture = static_cast<Architecture>(rng.Below(5));
  out.name = Bytes(rng, 40);
  out.layers = 1 + Int(rng, 12);
  out.hidden = Int(rng, 8192);
  out.heads = Int(rng, 128);
  out.kv_heads = Int(rng, 128);
  out.head_dim = Int(rng, 256);
  out.ffn = Int(rng, 65536);
  out.vocab = Int(rng, 1u << 18);
  out.context_tokens = Int(rng, 1u << 30);
  out.norm_epsilon = Real(rng);
  out.tied_embeddings = rng.Chance(1, 2);
  out.qk_norm = static_cast<QkNorm>(rng.Below(3));
  out.rope.kind = static_cast<RopeShape::Kind>(rng.Below(2));
  out.rope.theta = rng.Uniform() * 1e6;
  out.rope.factor = rng.Uniform() * 8;
  out.rope.low_freq_factor = rng.Uniform();
  out.rope.high_freq_factor = rng.Uniform();
  out.rope.original_context_tokens = Big(rng);
  if (rng.Chance(3, 4)) {
    out.moe.experts = 1 + Int(rng, 24);
    out.moe.top_k = Int(rng, out.moe.experts + 1);
    out.moe.ffn = Int(rng, 4096);
    out.moe.normalize_top_k = rng.Chance(1, 2);
    for (int layer = 0; layer < out.layers; ++layer) {
      if (rng.Chance(1, 4)) out.dense_layers.push_back(layer);
    }
  }
  out.weight_dtype = static_cast<Dtype>(rng.Below(6));
  out.eos_token_ids = Ints(rng, 3);
  return out;
}

LayerExperts RandomOwners(Rng& rng, int experts, const ParallelSpec& spec) {
  std::vector<std::vector<int32_t>> owners(static_cast<size_t>(experts) * spec.slices);
  for (std::vector<int32_t>& ranks : owners) {
    for (int rank = 0; rank < spec.StageSize(); ++rank) {
      if (rng.Chance(1, 4)) ranks.push_back(rank);
    }
    if (ranks.empty()) ranks.push_back(Int(rng, spec.StageSize()));
  }
  return LayerExperts(spec.slices, owners);
}

ParallelPlan RandomPlan(Rng& rng, const ModelShape& shape) {
  ParallelPlan out;
  out.epoch = Epoch{rng.Next()};
  out.spec.tp = 1 + Int(rng, 4);
  out.spec.dp = 1 + Int(rng, 4);
  out.spec.pp = 1 + Int(rng, shape.layers);
  if (shape.IsMoe()) {
    out.spec.slices = 1 + Int(rng, out.spec.StageSize());
    out.spec.ep = 1 + Int(rng, out.spec.StageSize());
  }
  out.workers.resize(out.spec.WorkerCount());
  for (WorkerId& worker : out.workers) worker = WorkerId{rng.Next()};
  for (int pp = 0, begin = 0; pp < out.spec.pp; ++pp) {
    const int end = shape.layers * (pp + 1) / out.spec.pp;
    out.stages.push_back({begin, end});
    begin = end;
  }
  for (int layer = 0; layer < shape.layers; ++layer) {
    out.experts.layers.push_back(
        shape.IsMoeLayer(layer) ? RandomOwners(rng, shape.moe.experts, out.spec) : LayerExperts());
  }
  out.exchange = static_cast<ExchangeKind>(rng.Below(3));
  out.payload = static_cast<PayloadFormat>(rng.Below(4));
  return out;
}

Assign RandomAssign(Rng& rng) {
  Assign out;
  out.shape = RandomShape(rng);
  out.source = {Bytes(rng, 100), rng.Chance(1, 2), rng.Next()};
  out.plan = RandomPlan(rng, out.shape);
  out.rank = Int(rng, out.plan.spec.WorkerCount());
  out.compute = {rng.Chance(1, 2), static_cast<Quantization>(rng.Below(6)), Int(rng, 257)};
  out.cache = {1 + Int(rng, 256), static_cast<Dtype>(rng.Below(6)), Big(rng), Int(rng, 1u << 30)};
  return out;
}

Commit RandomCommit(Rng& rng) {
  Commit out;
  for (int rank = Int(rng, 9); rank > 0; --rank) {
    out.fabric_addresses.push_back(Bytes(rng, 200));
    out.nodes.push_back(Bytes(rng, 30));
  }
  return out;
}

Logits RandomLogits(Rng& rng) {
  Logits out;
  out.step = StepId{rng.Next()};
  out.request = RequestId{rng.Next()};
  out.position = Int(rng, 1u << 30);
  out.vocab = 1 + Int(rng, 64);
  out.values.resize(static_cast<size_t>(out.vocab) * rng.Below(6));
  for (float& value : out.values) value = Real(rng) * 100 - 50;
  return out;
}

Prepared RandomPrepared(Rng& rng) {
  return {Bytes(rng, 300), Big(rng), Big(rng), Big(rng), Big(rng), Int(rng, 1u << 30)};
}

Hello RandomHello(Rng& rng) {
  return {Bytes(rng, 20), Bytes(rng, 60), Bytes(rng, 8), Big(rng),
          Int(rng, 512),  Big(rng),       Bytes(rng, 10)};
}

Message RandomMessage(Rng& rng, size_t kind) {
  switch (kind) {
    case 0:
      return RandomHello(rng);
    case 1:
      return Heartbeat{rng.Next(), StepId{rng.Next()}, Int(rng, 100)};
    case 2:
      return RandomPrepared(rng);
    case 3:
      return Ready{};
    case 4:
      return StepDone{RandomStepResult(rng)};
    case 5:
      return RandomLogits(rng);
    case 6:
      return Fault{StepId{rng.Next()}, Int(rng, 17), Bytes(rng, 200)};
    case 7:
      return Goodbye{Bytes(rng, 100)};
    case 8:
      return RandomAssign(rng);
    case 9:
      return RandomCommit(rng);
    case 10:
      return Step{RandomStepPlan(rng)};
    case 11:
      return Abort{Bytes(rng, 100)};
    case 12:
      return Shutdown{Bytes(rng, 100)};
  }
  LOG(FATAL) << "message kind " << kind;
}

}  // namespace

Envelope RandomEnvelope(Rng& rng, size_t kind) {
  Envelope out;
  out.epoch = Epoch{rng.Next()};
  out.worker = WorkerId{rng.Next()};
  out.sequence = rng.Next();
  out.message = RandomMessage(rng, kind);
  CHECK_EQ(out.message.index(), kind);
  return out;
}

Envelope RandomEnvelope(Rng& rng) {
  return RandomEnvelope(rng, rng.Below(std::variant_size_v<Message>));
}

}  // namespace conclave
