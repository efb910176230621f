#include "comm/codec/read_step.h"

#include <cstring>
#include <vector>

#include "comm/codec/codec.h"

namespace conclave {
namespace {

constexpr size_t kItemsMax = kFrameBytesMax / sizeof(int32_t);
constexpr size_t kExpertLoadsMax = kFrameBytesMax / 16;  // 16 bytes each on the wire

std::vector<int32_t> ReadInts(absl::string_view field, capnp::List<int32_t>::Reader in,
                              FieldCheck& check, Bounds bounds = {0, kInt32Max}) {
  std::vector<int32_t> out(check.Count(field, in.size(), kItemsMax));
  for (size_t i = 0; i < out.size(); ++i) out[i] = check.Int32(field, in[i], bounds);
  return out;
}

SamplingParams ReadSampling(schema::SamplingParams::Reader in, FieldCheck& check) {
  SamplingParams out;
  out.temperature = in.getTemperature();
  out.top_k = check.Int32("sampling.topK", in.getTopK());
  out.top_p = in.getTopP();
  out.min_p = in.getMinP();
  out.seed = in.getSeed();
  check.Require(out.temperature >= 0 && out.temperature <= 1e6f, "sampling.temperature",
                "is not a number from 0 to 1e6");
  check.Require(out.top_p >= 0 && out.top_p <= 1, "sampling.topP", "is not a number from 0 to 1");
  check.Require(out.min_p >= 0 && out.min_p <= 1, "sampling.minP", "is not a number from 0 to 1");
  return out;
}

SequenceSlice ReadSequence(schema::SequenceSlice::Reader in, FieldCheck& check) {
  SequenceSlice out;
  out.request = RequestId{in.getRequest()};
  out.position = check.Int32("batch.position", in.getPosition());
  out.from_previous_step = in.getFromPreviousStep();
  // A placeholder, ignored, when the token comes from the previous step.
  const Bounds ids = {out.from_previous_step ? -1 : 0, kInt32Max};
  out.tokens = ReadInts("batch.tokens", in.getTokens(), check, ids);
  out.pages = ReadInts("batch.pages", in.getPages(), check);
  out.sample = in.getSample();
  out.want_logits = in.getWantLogits();
  out.sampling = ReadSampling(in.getSampling(), check);
  check.Require(out.position <= kInt32Max - static_cast<int64_t>(out.tokens.size()),
                "batch.position", "with its tokens exceeds 2^31");
  return out;
}

ExchangeStats ReadExchange(schema::ExchangeStats::Reader in, FieldCheck& check) {
  ExchangeStats out;
  out.exchanges = check.Int64("exchange.exchanges", in.getExchanges());
  out.peers_max = check.Int64("exchange.peersMax", in.getPeersMax());
  out.messages = check.Int64("exchange.messages", in.getMessages());
  out.bytes = check.Int64("exchange.bytes", in.getBytes());
  out.naive_peers_max = check.Int64("exchange.naivePeersMax", in.getNaivePeersMax());
  out.naive_messages = check.Int64("exchange.naiveMessages", in.getNaiveMessages());
  out.naive_bytes = check.Int64("exchange.naiveBytes", in.getNaiveBytes());
  out.gather_bytes = check.Int64("exchange.gatherBytes", in.getGatherBytes());
  return out;
}

StepTimings ReadTimings(schema::StepTimings::Reader in, FieldCheck& check) {
  StepTimings out;
  out.total_us = check.Int64("timings.totalUs", in.getTotalUs());
  out.attention_us = check.Int64("timings.attentionUs", in.getAttentionUs());
  out.experts_us = check.Int64("timings.expertsUs", in.getExpertsUs());
  out.exchange_us = check.Int64("timings.exchangeUs", in.getExchangeUs());
  out.collective_us = check.Int64("timings.collectiveUs", in.getCollectiveUs());
  out.head_us = check.Int64("timings.headUs", in.getHeadUs());
  return out;
}

}  // namespace

StepPlan ReadStepPlan(schema::StepPlan::Reader in, FieldCheck& check) {
  StepPlan out;
  out.epoch = Epoch{in.getEpoch()};
  out.step = StepId{in.getStep()};
  const auto tokens_by_dp = in.getTokensByDp();
  check.Count("step.tokensByDp", tokens_by_dp.size(), kRanksMax);
  out.tokens_by_dp = ReadInts("step.tokensByDp", tokens_by_dp, check);
  const auto batch = in.getBatch();
  const size_t count = check.Count("step.batch", batch.size(), kStepSequencesMax);
  for (size_t i = 0; i < count && check.ok(); ++i) {
    out.batch.push_back(ReadSequence(batch[i], check));
  }
  return out;
}

StepResult ReadStepResult(schema::StepResult::Reader in, FieldCheck& check) {
  StepResult out;
  out.epoch = Epoch{in.getEpoch()};
  out.step = StepId{in.getStep()};
  const auto tokens = in.getTokens();
  out.tokens.resize(check.Count("stepDone.tokens", tokens.size(), kStepSequencesMax));
  for (size_t i = 0; i < out.tokens.size(); ++i) {
    const auto token = tokens[i];
    out.tokens[i].request = RequestId{token.getRequest()};
    out.tokens[i].position = check.Int32("stepDone.tokens.position", token.getPosition());
    out.tokens[i].token = check.Int32("stepDone.tokens.token", token.getToken());
    out.tokens[i].logprob = token.getLogprob();
  }
  const auto experts = in.getExperts();
  out.experts.resize(check.Count("stepDone.experts", experts.size(), kExpertLoadsMax));
  for (size_t i = 0; i < out.experts.size(); ++i) {
    const auto load = experts[i];
    const Bounds layers = {0, kLayersMax - 1};
    const Bounds units = {0, kLayerUnitsMax - 1};
    out.experts[i].layer = check.Int32("stepDone.experts.layer", load.getLayer(), layers);
    out.experts[i].expert = check.Int32("stepDone.experts.expert", load.getExpert(), units);
    out.experts[i].slice = check.Int32("stepDone.experts.slice", load.getSlice(), units);
    out.experts[i].tokens = check.Int32("stepDone.experts.tokens", load.getTokens());
  }
  out.exchange = ReadExchange(in.getExchange(), check);
  out.timings = ReadTimings(in.getTimings(), check);
  out.weight_bytes_read = check.Int64("stepDone.weightBytesRead", in.getWeightBytesRead());
  return out;
}

Logits ReadLogits(schema::Logits::Reader in, FieldCheck& check) {
  Logits out;
  out.step = StepId{in.getStep()};
  out.request = RequestId{in.getRequest()};
  out.position = check.Int32("logits.position", in.getPosition());
  out.vocab = check.Int32("logits.vocab", in.getVocab(), {0, kWidthMax});
  const auto bytes = in.getValues();
  const size_t row_bytes = static_cast<size_t>(out.vocab) * sizeof(float);
  if (bytes.size() > 0 && (row_bytes == 0 || bytes.size() % row_bytes != 0)) {
    check.Refuse("logits.values",
                 absl::StrCat(bytes.size(), " bytes are not rows of vocab=", out.vocab, " floats"));
    return out;
  }
  out.values.resize(bytes.size() / sizeof(float));
  if (!out.values.empty()) std::memcpy(out.values.data(), bytes.begin(), bytes.size());
  return out;
}

}  // namespace conclave
