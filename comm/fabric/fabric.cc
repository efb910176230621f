#include "comm/fabric/fabric.h"

#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/types/optional.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr char kFaultyRanks[] = "conclave/faulty_ranks";  // "2,5"

}  // namespace

std::vector<int> FaultyRanks(const absl::Status& status) {
  std::vector<int> ranks;
  const absl::optional<absl::Cord> payload = status.GetPayload(kFaultyRanks);
  if (!payload.has_value()) return ranks;
  for (const absl::string_view word :
       absl::StrSplit(std::string(*payload), ',', absl::SkipEmpty())) {
    ranks.push_back(0);
    CHECK(absl::SimpleAtoi(word, &ranks.back())) << "faulty ranks: " << *payload;
  }
  return ranks;
}

absl::Status WithFaultyRanks(absl::Status status, const std::vector<int>& ranks) {
  if (!ranks.empty()) status.SetPayload(kFaultyRanks, absl::Cord(absl::StrJoin(ranks, ",")));
  return status;
}

absl::Status AllToAllV(Fabric& fabric, const FabricGroup& group,
                       absl::Span<const absl::Span<const uint8_t>> sends,
                       absl::Span<RecvBuffer> recvs, const FabricOp& op) {
  CHECK_EQ(static_cast<int>(sends.size()), group.size());
  CHECK_EQ(static_cast<int>(recvs.size()), group.size());
  std::vector<SendBuffer> buffers;
  buffers.reserve(sends.size());
  for (int i = 0; i < group.size(); ++i) {
    buffers.push_back({group.ranks[i], sends[i]});
    recvs[i].peer = group.ranks[i];
  }
  return fabric.Exchange(buffers, recvs, op);
}

}  // namespace conclave
