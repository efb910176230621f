// The preflight's choice of what carries bytes between each pair of ranks, and why: CUDA IPC, NCCL,
// shared memory, RDMA or TCP. A pure function of what the ranks report of themselves, so that
// `conclave doctor` and the dashboard show the same choice that workers make; README.md has the
// table. Values; any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace conclave {

enum class LinkKind { kCudaIpc, kNccl, kSharedMemory, kRdma, kTcp };

// "cuda_ipc", "nccl", "shared_memory", "rdma", "tcp".
const char* LinkKindName(LinkKind kind);

struct GpuFacts {
  std::string uuid;
  std::string bus_id;  // parts of one GPU (MIG) have uuids of their own and this in common
  std::vector<std::string> nvlink_peers;  // uuids that it reaches over NVLink with peer access
};

// What a rank reports.
struct LinkFacts {
  std::string node;            // the host's name, for people
  uint64_t memory_domain = 0;  // equal where memory can be shared: one boot, one ipc and pid space
  std::optional<GpuFacts> gpu;
  int nccl_version = 0;                     // NcclVersionCode; 0: absent
  std::string nccl_absent;                  // why it is absent
  bool has_rdma = false;                    // an RDMA device that is up
  std::vector<std::string> ucx_transports;  // "posix", "tcp", "rc", "ud", "dc"
};

struct LinkOptions {
  bool cuda_ipc = true;
  bool nccl = true;
};

struct Link {
  int a = 0;  // ranks, a < b
  int b = 0;
  LinkKind kind = LinkKind::kTcp;
  std::string reason;
  bool operator==(const Link&) const = default;
};

// NCCL joins all ranks in one communicator, so what rules it out for one pair may lie in others:
// found once for all pairs.
class LinkChooser {
 public:
  LinkChooser(std::vector<LinkFacts> ranks, LinkOptions options);

  int size() const { return static_cast<int>(ranks_.size()); }
  // Why NCCL carries nothing; empty when it can. Names the ranks at fault.
  const std::string& nccl_blocker() const { return nccl_blocker_; }
  // The choice for ranks a != b, the same for (b, a). FailedPrecondition, with the remedy, when
  // nothing connects them.
  absl::StatusOr<Link> Choose(int a, int b) const;

 private:
  std::optional<Link> OfGpus(int a, int b) const;

  const std::vector<LinkFacts> ranks_;
  const LinkOptions options_;
  std::string nccl_blocker_;
};

// The choice for all pairs, ascending; for shows: it has n (n - 1) / 2 entries.
absl::StatusOr<std::vector<Link>> ChooseLinks(const LinkChooser& chooser);

// One line for each kind and reason, in the order of LinkKind:
// "nccl: 12 pairs (0-2, 0-3, 1-2, ...): GPUs of different hosts".
std::string DescribeLinks(absl::Span<const Link> links);

}  // namespace conclave
