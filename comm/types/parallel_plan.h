// ParallelPlan: one placement of one model on a set of workers, at one epoch. Computed by
// placement, journaled and sent by the coordinator, obeyed by workers. A value; any thread may read
// it.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/base/strong_id.h"
#include "comm/types/expert_map.h"
#include "comm/types/parallel_spec.h"

namespace conclave {

// The schedule of MoE dispatch and combine, see comm/exchange/exchange.h.
enum class ExchangeKind : uint8_t { kNaive = 0, kPcc = 1, kTwoLevel = 2 };
// "naive", "pcc", "two-level": the spellings of --exchange.
const char* ExchangeKindName(ExchangeKind kind);
absl::StatusOr<ExchangeKind> ParseExchangeKind(absl::string_view text);

// How the rows of the exchange travel, see comm/exchange/payload.h.
enum class PayloadFormat : uint8_t { kF32 = 0, kBf16 = 1, kInt8 = 2, kFp8 = 3 };
// "float32", "bfloat16", "int8", "fp8": the spellings of --exchange-dtype.
const char* PayloadFormatName(PayloadFormat format);
absl::StatusOr<PayloadFormat> ParsePayloadFormat(absl::string_view text);

// Layers [begin, end) of one pipeline stage.
struct LayerRange {
  int begin = 0;
  int end = 0;
  bool operator==(const LayerRange&) const = default;
};

struct ParallelPlan {
  Epoch epoch;
  ParallelSpec spec;               // resolved
  std::vector<WorkerId> workers;   // [spec.WorkerCount()] by rank
  std::vector<LayerRange> stages;  // [spec.pp]
  ExpertMap experts;
  ExchangeKind exchange = ExchangeKind::kPcc;
  PayloadFormat payload = PayloadFormat::kF32;  // others give up the exactness of DESIGN 4

  bool operator==(const ParallelPlan&) const = default;
};

}  // namespace conclave
