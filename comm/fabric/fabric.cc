#include "comm/fabric/fabric.h"

#include "glog/logging.h"

namespace conclave {

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
