#include "comm/codec/codec.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "comm/base/rng.h"
#include "comm/codec/random_envelope.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr size_t kKinds = std::variant_size_v<Message>;

Envelope Holding(Message message) { return {Epoch{3}, WorkerId{77}, 12, std::move(message)}; }

// What Decode says of a frame that Encode made of `message`.
absl::Status Judge(Message message) { return Decode(Encode(Holding(std::move(message)))).status(); }

void ExpectRefused(const absl::Status& status, const std::string& field) {
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field << ": " << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(field));
}

Assign SmallAssign() {
  Assign assign;
  assign.shape.layers = 2;
  assign.shape.vocab = 100;
  assign.shape.moe = {.experts = 2, .top_k = 1, .ffn = 64};
  assign.plan.epoch = Epoch{3};
  assign.plan.spec = {.tp = 2, .dp = 1, .pp = 1, .slices = 1, .ep = 2};
  assign.plan.workers = {WorkerId{1}, WorkerId{2}};
  assign.plan.stages = {{0, 2}};
  const LayerExperts layer(1, {{0}, {0, 1}});
  assign.plan.experts.layers = {layer, layer};
  return assign;
}

TEST(CodecTest, EveryKindSurvivesTheRoundTrip) {
  Rng rng(1);
  for (size_t kind = 0; kind < kKinds; ++kind) {
    for (int i = 0; i < 500; ++i) {
      const Envelope sent = RandomEnvelope(rng, kind);
      const std::string frame = Encode(sent);
      const absl::StatusOr<Envelope> received = Decode(frame);
      ASSERT_TRUE(received.ok()) << MessageName(sent.message) << ": " << received.status();
      ASSERT_EQ(*received, sent) << MessageName(sent.message) << " " << i;
    }
  }
}

TEST(CodecTest, DefaultsSurviveTheRoundTrip) {
  const std::vector<Message> messages = {Hello{},    Heartbeat{}, Prepared{}, Ready{},
                                         StepDone{}, Logits{},    Fault{},    Goodbye{},
                                         Commit{},   Step{},      Abort{},    Shutdown{}};
  for (const Message& message : messages) {
    const auto received = Decode(Encode(Holding(message)));
    ASSERT_TRUE(received.ok()) << MessageName(message) << received.status();
    EXPECT_EQ(*received, Holding(message)) << MessageName(message);
  }
}

TEST(CodecTest, LogitsKeepTheirBits) {
  Logits logits;
  logits.vocab = 4;
  logits.values = {std::numeric_limits<float>::quiet_NaN(), -0.0f,
                   std::numeric_limits<float>::infinity(), 1e-42f};
  const auto received = Decode(Encode(Holding(logits)));
  ASSERT_TRUE(received.ok()) << received.status();
  const auto& values = std::get<Logits>(received->message).values;
  ASSERT_EQ(values.size(), 4u);
  EXPECT_EQ(std::memcmp(values.data(), logits.values.data(), 4 * sizeof(float)), 0);
}

TEST(CodecTest, TheLargestPlanOfTheDesignFits) {
  Assign assign;
  assign.shape.layers = 100;
  assign.shape.moe = {.experts = 3000, .top_k = 8, .ffn = 2048};
  assign.plan.spec = {.tp = 8, .dp = 128, .pp = 1, .slices = 2, .ep = 512};
  for (int i = 0; i < 1024; ++i) assign.plan.workers.push_back(WorkerId{1000u + i});
  assign.plan.stages = {{0, 100}};
  std::vector<std::vector<int32_t>> owners;
  for (int unit = 0; unit < 6000; ++unit) owners.push_back({unit % 1023, 1023});
  assign.plan.experts.layers.assign(100, LayerExperts(2, owners));
  const std::string frame = Encode(Holding(assign));
  EXPECT_LT(frame.size(), kFrameBytesMax / 2);
  const auto received = Decode(frame);
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(std::get<Assign>(received->message), assign);
}

TEST(CodecTest, AFrameThatLiesAskewIsRead) {
  const Envelope sent = Holding(SmallAssign());
  const std::string frame = Encode(sent);
  for (size_t offset = 0; offset < 8; ++offset) {
    const std::string shifted = std::string(offset, 'x') + frame;
    const auto received = Decode(absl::string_view(shifted).substr(offset));
    ASSERT_TRUE(received.ok()) << received.status();
    EXPECT_EQ(*received, sent);
  }
}

TEST(CodecTest, LongReasonsAreCut) {
  const std::string reason(kTextBytesMax + 5, 'r');
  const auto received = Decode(Encode(Holding(Abort{reason})));
  ASSERT_TRUE(received.ok()) << received.status();
  EXPECT_EQ(std::get<Abort>(received->message).reason, reason.substr(0, kTextBytesMax));
  const auto fault = Decode(Encode(Holding(Fault{StepId{1}, 14, reason})));
  ASSERT_TRUE(fault.ok()) << fault.status();
  EXPECT_EQ(std::get<Fault>(fault->message).message.size(), kTextBytesMax);
}

TEST(CodecTest, FramesOfTheWrongSizeAreRefused) {
  ExpectRefused(Decode("").status(), "size");
  ExpectRefused(Decode("1234567").status(), "size");
  ExpectRefused(Decode(std::string(kFrameBytesMax + 8, '\0')).status(), "size");
  ExpectRefused(Decode(std::string(64, '\xff')).status(), "structure");
  ExpectRefused(Decode(std::string(64, '\0')).status(), "structure");
}

TEST(CodecTest, EveryTruncationIsRefused) {
  Rng rng(2);
  for (size_t kind = 0; kind < kKinds; ++kind) {
    const std::string frame = Encode(RandomEnvelope(rng, kind));
    for (size_t size = 0; size < frame.size(); ++size) {
      EXPECT_FALSE(Decode(absl::string_view(frame).substr(0, size)).ok()) << size;
    }
  }
}

TEST(CodecTest, AnotherProtocolVersionIsNamed) {
  std::string frame = Encode(Holding(Ready{}));
  const size_t at = frame.find(std::string("\x01\0\0\0", 4), 16);
  ASSERT_EQ(at, 16u) << "segment table and root pointer come first";
  frame[at] = 2;
  const absl::Status status = Decode(frame).status();
  ExpectRefused(status, "protocol");
  EXPECT_THAT(std::string(status.message()), HasSubstr("version 2"));
}

TEST(CodecTest, NumbersOutOfRangeAreNamed) {
  ExpectRefused(Judge(Hello{.memory_bytes = -1}), "hello.memoryBytes");
  ExpectRefused(Judge(Hello{.name = std::string(256, 'n')}), "hello.name");
  ExpectRefused(Judge(Heartbeat{.steps_queued = -1}), "heartbeat.stepsQueued");
  ExpectRefused(Judge(Prepared{.kv_pages = -2}), "prepared.kvPages");
  ExpectRefused(Judge(Fault{.code = 17}), "fault.code");
  ExpectRefused(Judge(Logits{.vocab = 3, .values = {1, 2}}), "logits.values");
  ExpectRefused(Judge(Logits{.vocab = 0, .values = {1, 2}}), "logits.values");
  ExpectRefused(Judge(Commit{.fabric_addresses = {"a", "b"}, .nodes = {"n"}}), "commit.nodes");

  StepResult result;
  result.timings.head_us = -1;
  ExpectRefused(Judge(StepDone{result}), "timings.headUs");
  result = {};
  result.experts = {{.layer = kLayersMax}};
  ExpectRefused(Judge(StepDone{result}), "stepDone.experts.layer");

  SequenceSlice sequence;
  sequence.pages = {0, -1};
  ExpectRefused(Judge(Step{StepPlan{.batch = {sequence}}}), "batch.pages");
  sequence = {};
  sequence.sampling.temperature = std::nanf("");
  ExpectRefused(Judge(Step{StepPlan{.batch = {sequence}}}), "sampling.temperature");
  sequence = {};
  sequence.position = std::numeric_limits<int32_t>::max();
  sequence.tokens = {1, 2};
  ExpectRefused(Judge(Step{StepPlan{.batch = {sequence}}}), "batch.position");
}

// Applies `spoil` to a good assignment.
template <typename Spoil>
absl::Status JudgeSpoiled(Spoil spoil) {
  Assign assign = SmallAssign();
  spoil(assign);
  return Judge(assign);
}

TEST(CodecTest, AGoodAssignmentPasses) { EXPECT_TRUE(Judge(SmallAssign()).ok()); }

TEST(CodecTest, ShapesOutOfRangeAreNamed) {
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.shape.layers = -1; }), "shape.layers");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.shape.vocab = kWidthMax + 1; }), "shape.vocab");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.shape.moe.top_k = 3; }), "shape.moe.topK");
  ExpectRefused(JudgeSpoiled([](Assign& a) {
                  a.shape.dense_layers = {1, 0};
                }),
                "shape.denseLayers");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.shape.architecture = Architecture(200); }),
                "shape.architecture");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.shape.weight_dtype = Dtype(6); }),
                "shape.weightDtype");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.cache.dtype = Dtype(9); }), "cache.dtype");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.cache.page_tokens = 0; }), "cache.pageTokens");
}

TEST(CodecTest, InconsistentPlansAreNamed) {
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.rank = 2; }), "assign.rank");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.spec.tp = 0; }), "plan.spec.tp");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.spec = {60000, 60000, 60000}; }), "plan.spec");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.spec.slices = 0; }), "plan.spec.slices");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.spec.ep = 3; }), "plan.spec.ep");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.workers.pop_back(); }), "plan.workers");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.stages.clear(); }), "plan.stages");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.stages = {{0, 1}}; }), "plan.stages");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.stages = {{1, 2}}; }), "plan.stages.begin");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.exchange = ExchangeKind(7); }),
                "plan.exchange");
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.payload = PayloadFormat(4); }), "plan.payload");
}

TEST(CodecTest, InconsistentExpertTablesAreNamed) {
  const auto with_layer = [](LayerExperts layer) {
    return JudgeSpoiled([&](Assign& a) { a.plan.experts.layers[1] = layer; });
  };
  ExpectRefused(JudgeSpoiled([](Assign& a) { a.plan.experts.layers.pop_back(); }), "plan.experts");
  ExpectRefused(with_layer(LayerExperts::FromTables(1, {0, 1, 1}, {0})),
                "plan.experts.ownerCounts");
  ExpectRefused(with_layer(LayerExperts::FromTables(1, {0, 1}, {0})), "plan.experts.ownerCounts");
  ExpectRefused(with_layer(LayerExperts::FromTables(1, {0, 1, 2}, {0, 2})), "plan.experts.ranks");
  ExpectRefused(with_layer(LayerExperts::FromTables(1, {0, 1, 3}, {0, 1, 0})),
                "plan.experts.ranks");
  ExpectRefused(with_layer(LayerExperts::FromTables(1, {0, 1, 2}, {0})), "plan.experts.ranks");
  ExpectRefused(with_layer(LayerExperts::FromTables(1, {0, 1, 2}, {0, 1, 1})),
                "plan.experts.ranks");
  ExpectRefused(with_layer(LayerExperts::FromTables(2, {0, 1, 2}, {0, 1})), "plan.experts.slices");
  ExpectRefused(with_layer(LayerExperts::FromTables(0, {0}, {})), "plan.experts.slices");
  EXPECT_TRUE(with_layer(LayerExperts()).ok()) << "a dense layer";
}

}  // namespace
}  // namespace conclave
