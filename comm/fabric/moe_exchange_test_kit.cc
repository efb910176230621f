#include "comm/fabric/moe_exchange_test_kit.h"

#include <utility>

#include "comm/exchange/combine_parts.h"
#include "comm/exchange/exchange_test_maps.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr int kExperts = 8;

// Stands for an expert: a function of the unit and the row.
float Expert(ExpertUnit unit, float x) {
  return static_cast<float>(unit.expert + 1) * x + static_cast<float>(unit.slice) * 0.5f;
}

TransferSchedule ScheduleOf(ExchangeKind kind) {
  switch (kind) {
    case ExchangeKind::kNaive:
      return TransferSchedule::kNaive;
    case ExchangeKind::kPcc:
      return TransferSchedule::kPcc;
    case ExchangeKind::kTwoLevel:
      return TransferSchedule::kTwoLevel;
  }
  return TransferSchedule::kNaive;
}

void RoundTrip(const RowFormat& format, float* row) {
  std::vector<uint8_t> bytes(format.bytes());
  EncodeRow(format, row, bytes.data());
  DecodeRow(format, bytes.data(), row);
}

}  // namespace

MoeCase MakeMoeCase(const MoeCaseOptions& options, Rng& rng) {
  MoeCase made;
  made.spec.tp = options.tp;
  made.spec.dp = options.dp;
  made.spec.slices = options.slices;
  made.hidden = options.hidden;
  const int stage = made.spec.StageSize();
  for (int rank = 0; rank < stage; ++rank) {
    made.nodes.push_back(static_cast<int>(rng.Below(options.nodes_max)));
  }
  made.layer = RandomMap(kExperts, options.slices, stage, 3, rng);
  made.routing.top_k = 1 + static_cast<int>(rng.Below(4));
  for (int d = 0; d < options.dp; ++d) {
    // None, one, or any number up to the most.
    const uint64_t draw = rng.Below(4);
    const int tokens =
        draw < 2 ? static_cast<int>(draw) : static_cast<int>(rng.Below(options.tokens_max + 1));
    made.tokens_by_dp.push_back(tokens);
    made.routing.experts_by_dp.push_back(RandomRouting(tokens, made.routing.top_k, kExperts, rng));
    std::vector<float> rows(tokens * options.hidden);
    for (float& v : rows) v = static_cast<float>(rng.Uniform() * 4 - 2);
    std::vector<float> weights(tokens * made.routing.top_k);
    for (float& v : weights) v = static_cast<float>(rng.Uniform());
    made.rows_by_dp.push_back(std::move(rows));
    made.weights_by_dp.push_back(std::move(weights));
  }
  return made;
}

TransferOptions TransfersOf(const MoeCase& c, ExchangeKind kind, PayloadFormat payload) {
  TransferOptions options;
  options.schedule = ScheduleOf(kind);
  options.sums_on_the_way = false;
  options.empty_messages = true;
  options.hidden = c.hidden;
  options.payload = payload;
  return options;
}

MoeExchangeOptions ExchangeOptions(const MoeCase& c, ExchangeKind kind, PayloadFormat payload,
                                   int rank) {
  MoeExchangeOptions options;
  options.kind = kind;
  options.spec = c.spec;
  options.position = c.spec.PositionOf(rank);
  options.hidden = c.hidden;
  options.top_k = c.routing.top_k;
  options.timeout = absl::Seconds(20);
  options.payload = payload;
  options.nodes = c.nodes;
  return options;
}

std::vector<float> RunMoeCase(MoeExchange& exchange, const MoeCase& c, int rank) {
  const int dp = c.spec.PositionOf(rank).dp;
  const int64_t tokens = c.tokens_by_dp[dp];
  DispatchInput input;
  input.tokens = {c.rows_by_dp[dp].data(), tokens, c.hidden};
  input.experts = c.routing.experts_by_dp[dp];
  input.tokens_by_dp = c.tokens_by_dp;
  input.weights = c.weights_by_dp[dp];
  const auto work = exchange.Dispatch(input);
  EXPECT_TRUE(work.ok()) << work.status();
  if (!work.ok()) return {};
  const std::vector<ExpertUnit> units = c.layer.UnitsOf(rank);
  const int stride = rank % 2 == 0 ? c.hidden : c.hidden + 3;  // contiguous or not
  const int64_t entries = static_cast<int64_t>(work->slot_of_entry.size());
  std::vector<float> computed(entries * stride);
  for (int64_t e = 0; e < entries; ++e) {
    const float* x = work->rows.row(work->row_of_entry[e]);
    for (int i = 0; i < c.hidden; ++i) {
      computed[e * stride + i] = Expert(units[work->slot_of_entry[e]], x[i]);
    }
  }
  const auto combined = exchange.Combine({computed.data(), entries, stride});
  EXPECT_TRUE(combined.ok()) << combined.status();
  if (!combined.ok()) return {};
  std::vector<float> out(tokens * c.hidden);
  if (combined->summed) {
    for (int64_t t = 0; t < tokens; ++t) {
      const float* row = combined->parts.row(combined->part_row[t]);
      std::copy(row, row + c.hidden, out.begin() + t * c.hidden);
    }
    return out;
  }
  // Rows of the parts may lie apart.
  std::vector<float> parts(combined->parts.rows * c.hidden);
  for (int64_t i = 0; i < combined->parts.rows; ++i) {
    const float* row = combined->parts.row(i);
    std::copy(row, row + c.hidden, parts.begin() + i * c.hidden);
  }
  CombineParts({parts.data(), c.hidden, combined->part_row, c.weights_by_dp[dp], c.routing.top_k,
                c.spec.slices, out.data()});
  return out;
}

std::vector<float> DirectOutputs(const MoeCase& c, ExchangeKind kind, PayloadFormat payload,
                                 int dp) {
  const RowFormat format(c.hidden, c.spec.StageSize() > 1 ? payload : PayloadFormat::kF32);
  const int64_t tokens = c.tokens_by_dp[dp];
  std::vector<float> parts;
  std::vector<int32_t> part_row;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<float> x(c.rows_by_dp[dp].begin() + t * c.hidden,
                         c.rows_by_dp[dp].begin() + (t + 1) * c.hidden);
    RoundTrip(format, x.data());
    for (int k = 0; k < c.routing.top_k; ++k) {
      const int expert = c.routing.experts_by_dp[dp][t * c.routing.top_k + k];
      for (int slice = 0; slice < c.spec.slices; ++slice) {
        std::vector<float> y(c.hidden);
        for (int i = 0; i < c.hidden; ++i) y[i] = Expert({expert, slice}, x[i]);
        RoundTrip(format, y.data());
        part_row.push_back(static_cast<int32_t>(part_row.size()));
        parts.insert(parts.end(), y.begin(), y.end());
      }
    }
  }
  std::vector<float> out(tokens * c.hidden);
  CombineParts({parts.data(), c.hidden, part_row, c.weights_by_dp[dp], c.routing.top_k,
                c.spec.slices, out.data()});
  const bool gathers_outputs = kind == ExchangeKind::kTwoLevel && c.spec.tp > 1;
  for (int64_t t = 0; t < tokens && gathers_outputs; ++t) {
    RoundTrip(format, out.data() + t * c.hidden);
  }
  return out;
}

absl::Status RecordingFabric::Exchange(absl::Span<const SendBuffer> sends,
                                       absl::Span<RecvBuffer> recvs, const FabricOp& op) {
  for (const SendBuffer& send : sends) {
    messages_.push_back({op.name, send.peer, static_cast<int64_t>(send.bytes.size())});
  }
  return fabric_.Exchange(sends, recvs, op);
}

absl::Status RecordingFabric::AllReduceSum(const FabricGroup& group, absl::Span<float> data,
                                           const FabricOp& op) {
  return fabric_.AllReduceSum(group, data, op);
}

absl::Status RecordingFabric::AllGatherV(const FabricGroup& group, absl::Span<const uint8_t> part,
                                         absl::Span<const absl::Span<uint8_t>> out,
                                         const FabricOp& op) {
  return fabric_.AllGatherV(group, part, out, op);
}

absl::Status RecordingFabric::ReduceScatterSum(const FabricGroup& group,
                                               absl::Span<const float> data, absl::Span<float> out,
                                               const FabricOp& op) {
  return fabric_.ReduceScatterSum(group, data, out, op);
}

absl::Status RecordingFabric::Broadcast(const FabricGroup& group, int root,
                                        absl::Span<uint8_t> data, const FabricOp& op) {
  return fabric_.Broadcast(group, root, data, op);
}

void RecordingFabric::Cancel(absl::Status reason) { fabric_.Cancel(std::move(reason)); }

}  // namespace conclave
