#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/io.h>

#include <algorithm>
#include <bit>
#include <type_traits>

#include "comm/codec/codec.h"
#include "comm/schema/control.capnp.h"
#include "glog/logging.h"

namespace conclave {
namespace {

static_assert(std::endian::native == std::endian::little, "Logits are copied as they lie");

// Most control messages fit: no allocation for them.
constexpr size_t kScratchWords = 128;

capnp::Text::Reader Text(const std::string& text) {
  CHECK_LE(text.size(), kTextBytesMax) << "a name or path is too long for a frame";
  return capnp::Text::Reader(text.c_str(), text.size());
}

capnp::Data::Reader Bytes(const void* data, size_t size) {
  return capnp::Data::Reader(static_cast<const kj::byte*>(data), size);
}

// A reason or an error message: its head is worth more than nothing.
std::string Clip(const std::string& text) { return text.substr(0, kTextBytesMax); }

template <typename Builder, typename Values>
void SetAll(Builder builder, const Values& values) {
  for (size_t i = 0; i < values.size(); ++i) builder.set(i, values[i]);
}

void Write(const SamplingParams& in, schema::SamplingParams::Builder out) {
  out.setTemperature(in.temperature);
  out.setTopK(in.top_k);
  out.setTopP(in.top_p);
  out.setMinP(in.min_p);
  out.setSeed(in.seed);
}

void Write(const SequenceSlice& in, schema::SequenceSlice::Builder out) {
  out.setRequest(in.request.value);
  out.setPosition(in.position);
  SetAll(out.initTokens(in.tokens.size()), in.tokens);
  out.setFromPreviousStep(in.from_previous_step);
  SetAll(out.initPages(in.pages.size()), in.pages);
  out.setSample(in.sample);
  out.setWantLogits(in.want_logits);
  Write(in.sampling, out.initSampling());
}

void Write(const StepPlan& in, schema::StepPlan::Builder out) {
  out.setEpoch(in.epoch.value);
  out.setStep(in.step.value);
  SetAll(out.initTokensByDp(in.tokens_by_dp.size()), in.tokens_by_dp);
  auto batch = out.initBatch(in.batch.size());
  for (size_t i = 0; i < in.batch.size(); ++i) Write(in.batch[i], batch[i]);
}

void Write(const ExchangeStats& in, schema::ExchangeStats::Builder out) {
  out.setExchanges(in.exchanges);
  out.setPeersMax(in.peers_max);
  out.setMessages(in.messages);
  out.setBytes(in.bytes);
  out.setNaivePeersMax(in.naive_peers_max);
  out.setNaiveMessages(in.naive_messages);
  out.setNaiveBytes(in.naive_bytes);
  out.setGatherBytes(in.gather_bytes);
}

void Write(const StepTimings& in, schema::StepTimings::Builder out) {
  out.setTotalUs(in.total_us);
  out.setAttentionUs(in.attention_us);
  out.setExpertsUs(in.experts_us);
  out.setExchangeUs(in.exchange_us);
  out.setCollectiveUs(in.collective_us);
  out.setHeadUs(in.head_us);
}

void Write(const StepResult& in, schema::StepResult::Builder out) {
  out.setEpoch(in.epoch.value);
  out.setStep(in.step.value);
  auto tokens = out.initTokens(in.tokens.size());
  for (size_t i = 0; i < in.tokens.size(); ++i) {
    tokens[i].setRequest(in.tokens[i].request.value);
    tokens[i].setPosition(in.tokens[i].position);
    tokens[i].setToken(in.tokens[i].token);
    tokens[i].setLogprob(in.tokens[i].logprob);
  }
  auto experts = out.initExperts(in.experts.size());
  for (size_t i = 0; i < in.experts.size(); ++i) {
    experts[i].setLayer(in.experts[i].layer);
    experts[i].setExpert(in.experts[i].expert);
    experts[i].setSlice(in.experts[i].slice);
    experts[i].setTokens(in.experts[i].tokens);
  }
  Write(in.exchange, out.initExchange());
  Write(in.timings, out.initTimings());
  out.setWeightBytesRead(in.weight_bytes_read);
}

void Write(const RopeShape& in, schema::RopeShape::Builder out) {
  out.setKind(static_cast<schema::RopeKind>(in.kind));
  out.setTheta(in.theta);
  out.setFactor(in.factor);
  out.setLowFreqFactor(in.low_freq_factor);
  out.setHighFreqFactor(in.high_freq_factor);
  out.setOriginalContextTokens(in.original_context_tokens);
}

void Write(const ModelShape& in, schema::ModelShape::Builder out) {
  out.setArchitecture(static_cast<schema::Architecture>(in.architecture));
  out.setName(Text(in.name));
  out.setLayers(in.layers);
  out.setHidden(in.hidden);
  out.setHeads(in.heads);
  out.setKvHeads(in.kv_heads);
  out.setHeadDim(in.head_dim);
  out.setFfn(in.ffn);
  out.setVocab(in.vocab);
  out.setContextTokens(in.context_tokens);
  out.setNormEpsilon(in.norm_epsilon);
  out.setTiedEmbeddings(in.tied_embeddings);
  out.setQkNorm(static_cast<schema::QkNorm>(in.qk_norm));
  Write(in.rope, out.initRope());
  auto moe = out.initMoe();
  moe.setExperts(in.moe.experts);
  moe.setTopK(in.moe.top_k);
  moe.setFfn(in.moe.ffn);
  moe.setNormalizeTopK(in.moe.normalize_top_k);
  SetAll(out.initDenseLayers(in.dense_layers.size()), in.dense_layers);
  out.setWeightDtype(static_cast<schema::Dtype>(in.weight_dtype));
  SetAll(out.initEosTokenIds(in.eos_token_ids.size()), in.eos_token_ids);
}

void Write(const LayerExperts& in, schema::LayerExperts::Builder out) {
  out.setSlices(in.slices());
  auto counts = out.initOwnerCounts(in.first().size() - 1);
  for (size_t i = 0; i + 1 < in.first().size(); ++i) {
    const int32_t count = in.first()[i + 1] - in.first()[i];
    CHECK(count >= 0 && count < kRanksMax) << "unit " << i << " has " << count << " owners";
    counts.set(i, static_cast<uint16_t>(count));
  }
  auto ranks = out.initRanks(in.ranks().size());
  for (size_t i = 0; i < in.ranks().size(); ++i) {
    const int32_t rank = in.ranks()[i];
    CHECK(rank >= 0 && rank < kRanksMax) << "an expert is owned by stage rank " << rank;
    ranks.set(i, static_cast<uint16_t>(rank));
  }
}

void Write(const ParallelPlan& in, schema::ParallelPlan::Builder out) {
  out.setEpoch(in.epoch.value);
  auto spec = out.initSpec();
  spec.setTp(in.spec.tp);
  spec.setDp(in.spec.dp);
  spec.setPp(in.spec.pp);
  spec.setSlices(in.spec.slices);
  spec.setEp(in.spec.ep);
  auto workers = out.initWorkers(in.workers.size());
  for (size_t i = 0; i < in.workers.size(); ++i) workers.set(i, in.workers[i].value);
  auto stages = out.initStages(in.stages.size());
  for (size_t i = 0; i < in.stages.size(); ++i) {
    stages[i].setBegin(in.stages[i].begin);
    stages[i].setEnd(in.stages[i].end);
  }
  auto layers = out.initExperts(in.experts.layers.size());
  for (size_t i = 0; i < in.experts.layers.size(); ++i) Write(in.experts.layers[i], layers[i]);
  out.setExchange(static_cast<schema::ExchangeKind>(in.exchange));
  out.setPayload(static_cast<schema::PayloadFormat>(in.payload));
}

// One overload for each alternative of Message.
class MessageWriter {
 public:
  explicit MessageWriter(schema::Envelope::Message::Builder out) : out_(out) {}

  void operator()(const Hello& in) {
    auto hello = out_.initHello();
    hello.setName(Text(in.name));
    hello.setNode(Text(in.node));
    hello.setDevice(Text(in.device));
    hello.setMemoryBytes(in.memory_bytes);
    hello.setThreads(in.threads);
    hello.setProcess(in.process);
    hello.setVersion(Text(in.version));
  }
  void operator()(const Heartbeat& in) {
    auto heartbeat = out_.initHeartbeat();
    heartbeat.setProgress(in.progress);
    heartbeat.setLastStep(in.last_step.value);
    heartbeat.setStepsQueued(in.steps_queued);
  }
  void operator()(const Prepared& in) {
    auto prepared = out_.initPrepared();
    prepared.setFabricAddress(Bytes(in.fabric_address.data(), in.fabric_address.size()));
    prepared.setWeightBytes(in.weight_bytes);
    prepared.setCheckpointBytesRead(in.checkpoint_bytes_read);
    prepared.setCheckpointBytesShare(in.checkpoint_bytes_share);
    prepared.setLoadUs(in.load_us);
    prepared.setKvPages(in.kv_pages);
  }
  void operator()(const Ready&) { out_.setReady(); }
  void operator()(const StepDone& in) { Write(in.result, out_.initStepDone()); }
  void operator()(const Logits& in) {
    auto logits = out_.initLogits();
    logits.setStep(in.step.value);
    logits.setRequest(in.request.value);
    logits.setPosition(in.position);
    logits.setVocab(in.vocab);
    logits.setValues(Bytes(in.values.data(), in.values.size() * sizeof(float)));
  }
  void operator()(const Fault& in) {
    auto fault = out_.initFault();
    fault.setStep(in.step.value);
    fault.setCode(in.code);
    fault.setMessage(Text(Clip(in.message)));
  }
  void operator()(const Goodbye& in) { out_.setGoodbye(Text(Clip(in.reason))); }
  void operator()(const Assign& in) {
    auto assign = out_.initAssign();
    Write(in.shape, assign.initShape());
    auto source = assign.initSource();
    source.setPath(Text(in.source.path));
    source.setDummy(in.source.dummy);
    source.setDummySeed(in.source.dummy_seed);
    Write(in.plan, assign.initPlan());
    assign.setRank(in.rank);
    auto cache = assign.initCache();
    cache.setPageTokens(in.cache.page_tokens);
    cache.setDtype(static_cast<schema::Dtype>(in.cache.dtype));
    cache.setMemoryBytes(in.cache.memory_bytes);
    cache.setPagesMax(in.cache.pages_max);
    auto compute = assign.initCompute();
    compute.setDeterministic(in.compute.deterministic);
    compute.setQuantization(static_cast<schema::Quantization>(in.compute.quantization));
    compute.setQuantGroup(in.compute.quant_group);
  }
  void operator()(const Commit& in) {
    auto commit = out_.initCommit();
    auto addresses = commit.initFabricAddresses(in.fabric_addresses.size());
    for (size_t i = 0; i < in.fabric_addresses.size(); ++i) {
      addresses.set(i, Bytes(in.fabric_addresses[i].data(), in.fabric_addresses[i].size()));
    }
    auto nodes = commit.initNodes(in.nodes.size());
    for (size_t i = 0; i < in.nodes.size(); ++i) nodes.set(i, Text(in.nodes[i]));
  }
  void operator()(const Step& in) { Write(in.plan, out_.initStep()); }
  void operator()(const Abort& in) { out_.setAbort(Text(Clip(in.reason))); }
  void operator()(const Shutdown& in) { out_.setShutdown(Text(Clip(in.reason))); }

 private:
  schema::Envelope::Message::Builder out_;
};

}  // namespace

std::string Encode(const Envelope& envelope) {
  capnp::word scratch[kScratchWords] = {};
  capnp::MallocMessageBuilder builder(kj::arrayPtr(scratch, kScratchWords));
  auto root = builder.initRoot<schema::Envelope>();
  root.setProtocol(kProtocolVersion);
  root.setEpoch(envelope.epoch.value);
  root.setWorker(envelope.worker.value);
  root.setSequence(envelope.sequence);
  std::visit(MessageWriter(root.getMessage()), envelope.message);

  const size_t bytes = capnp::computeSerializedSizeInWords(builder) * sizeof(capnp::word);
  CHECK_LE(bytes, kFrameBytesMax) << "a " << MessageName(envelope.message)
                                  << " is too large for a frame; its sender must split it";
  std::string frame(bytes, '\0');
  kj::ArrayOutputStream out(kj::arrayPtr(reinterpret_cast<kj::byte*>(frame.data()), bytes));
  capnp::writeMessage(out, builder);
  return frame;
}

}  // namespace conclave
