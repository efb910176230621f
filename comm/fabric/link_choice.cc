#include "comm/fabric/link_choice.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr int kExamplesMax = 3;  // pairs that a line names

bool Has(const std::vector<std::string>& values, const char* value) {
  return std::find(values.begin(), values.end(), value) != values.end();
}

bool HasSharedMemory(const LinkFacts& rank) {
  return Has(rank.ucx_transports, "posix") || Has(rank.ucx_transports, "sysv");
}

// A UCX transport over RDMA that both have, or null.
const char* CommonRdma(const LinkFacts& a, const LinkFacts& b) {
  if (!a.has_rdma || !b.has_rdma) return nullptr;
  for (const char* name : {"dc", "rc", "ud"}) {
    if (Has(a.ucx_transports, name) && Has(b.ucx_transports, name)) return name;
  }
  return nullptr;
}

bool OverNvlink(const GpuFacts& a, const GpuFacts& b) {
  return Has(a.nvlink_peers, b.uuid.c_str()) && Has(b.nvlink_peers, a.uuid.c_str());
}

// "rank 3 (node-b)".
std::string Named(int rank, const LinkFacts& facts) {
  return absl::StrCat("rank ", rank, " (", facts.node, ")");
}

std::string VersionText(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

// Two GPUs are one for NCCL when they are parts of one, which only the bus tells.
std::string FindNcclBlocker(const std::vector<LinkFacts>& ranks) {
  std::map<std::string, int> by_gpu;
  std::map<std::pair<uint64_t, std::string>, int> by_bus;
  for (int rank = 0; rank < static_cast<int>(ranks.size()); ++rank) {
    const LinkFacts& facts = ranks[rank];
    if (!facts.gpu.has_value()) return absl::StrCat(Named(rank, facts), " has no GPU");
    if (facts.nccl_version == 0) {
      return absl::StrCat(Named(rank, facts), " has no NCCL", facts.nccl_absent.empty() ? "" : ": ",
                          facts.nccl_absent);
    }
    if (facts.nccl_version / 100 != ranks[0].nccl_version / 100) {
      return absl::StrCat(Named(0, ranks[0]), " has NCCL ", VersionText(ranks[0].nccl_version),
                          " and ", Named(rank, facts), " ", VersionText(facts.nccl_version));
    }
    int other = -1;
    if (const auto [gpu, fresh] = by_gpu.emplace(facts.gpu->uuid, rank); !fresh) {
      other = gpu->second;
    } else if (!facts.gpu->bus_id.empty()) {
      const auto [bus, first] =
          by_bus.emplace(std::pair(facts.memory_domain, facts.gpu->bus_id), rank);
      if (!first) other = bus->second;
    }
    if (other >= 0) {
      return absl::StrCat(Named(other, ranks[other]), " and ", Named(rank, facts),
                          " share a GPU, and NCCL takes one rank a GPU");
    }
  }
  return "";
}

}  // namespace

const char* LinkKindName(LinkKind kind) {
  switch (kind) {
    case LinkKind::kCudaIpc:
      return "cuda_ipc";
    case LinkKind::kNccl:
      return "nccl";
    case LinkKind::kSharedMemory:
      return "shared_memory";
    case LinkKind::kRdma:
      return "rdma";
    case LinkKind::kTcp:
      return "tcp";
  }
  LOG(FATAL) << "no such kind: " << static_cast<int>(kind);
}

LinkChooser::LinkChooser(std::vector<LinkFacts> ranks, LinkOptions options)
    : ranks_(std::move(ranks)), options_(options) {
  nccl_blocker_ = options_.nccl ? FindNcclBlocker(ranks_) : "NCCL is switched off";
}

std::optional<Link> LinkChooser::OfGpus(int a, int b) const {
  const LinkFacts& first = ranks_[a];
  const LinkFacts& second = ranks_[b];
  if (!first.gpu.has_value() || !second.gpu.has_value()) return std::nullopt;
  const bool one_host = first.memory_domain == second.memory_domain;
  if (options_.cuda_ipc && one_host) {
    if (first.gpu->uuid == second.gpu->uuid) {
      return Link{a, b, LinkKind::kCudaIpc, "one GPU: direct stores into each other's memory"};
    }
    if (OverNvlink(*first.gpu, *second.gpu)) {
      return Link{a, b, LinkKind::kCudaIpc, "GPUs of one host joined by NVLink: direct stores"};
    }
  }
  if (!nccl_blocker_.empty()) return std::nullopt;
  const char* reason = one_host ? "GPUs of one host"
                       : CommonRdma(first, second) != nullptr
                           ? "GPUs of different hosts, both with RDMA"
                           : "GPUs of different hosts, over sockets";
  return Link{a, b, LinkKind::kNccl, reason};
}

absl::StatusOr<Link> LinkChooser::Choose(int a, int b) const {
  CHECK(a != b && a >= 0 && b >= 0 && a < size() && b < size()) << a << " and " << b;
  if (a > b) std::swap(a, b);
  if (std::optional<Link> link = OfGpus(a, b); link.has_value()) return *std::move(link);
  const LinkFacts& first = ranks_[a];
  const LinkFacts& second = ranks_[b];
  const bool gpus = first.gpu.has_value() && second.gpu.has_value();
  std::string staged = gpus ? "through pinned host memory" : "";
  if (gpus && !nccl_blocker_.empty()) absl::StrAppend(&staged, ", as ", nccl_blocker_);
  const auto link = [&](LinkKind kind, absl::string_view reason) {
    return Link{a, b, kind, absl::StrCat(reason, staged.empty() ? "" : ", ", staged)};
  };
  if (first.memory_domain == second.memory_domain && HasSharedMemory(first) &&
      HasSharedMemory(second)) {
    return link(LinkKind::kSharedMemory, "one host");
  }
  if (const char* transport = CommonRdma(first, second); transport != nullptr) {
    return link(LinkKind::kRdma, absl::StrCat("both have RDMA (", transport, ")"));
  }
  if (Has(first.ucx_transports, "tcp") && Has(second.ucx_transports, "tcp")) {
    return link(LinkKind::kTcp, first.memory_domain == second.memory_domain
                                    ? "one host, without shared memory in UCX"
                                : first.has_rdma != second.has_rdma
                                    ? "different hosts, only one with RDMA"
                                    : "different hosts");
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "nothing connects ", Named(a, first), " with UCX's [",
      absl::StrJoin(first.ucx_transports, ","), "] and ", Named(b, second), " with [",
      absl::StrJoin(second.ucx_transports, ","), "]; allow tcp in UCX_TLS on both, or unset it"));
}

absl::StatusOr<std::vector<Link>> ChooseLinks(const LinkChooser& chooser) {
  std::vector<Link> links;
  for (int a = 0; a < chooser.size(); ++a) {
    for (int b = a + 1; b < chooser.size(); ++b) {
      ASSIGN_OR_RETURN(Link link, chooser.Choose(a, b));
      links.push_back(std::move(link));
    }
  }
  return links;
}

std::string DescribeLinks(absl::Span<const Link> links) {
  std::map<std::pair<LinkKind, std::string>, std::vector<const Link*>> kinds;
  for (const Link& link : links) kinds[{link.kind, link.reason}].push_back(&link);
  std::string text;
  for (const auto& [key, pairs] : kinds) {
    absl::StrAppend(&text, LinkKindName(key.first), ": ", pairs.size(),
                    pairs.size() == 1 ? " pair (" : " pairs (");
    for (size_t i = 0; i < pairs.size() && i < kExamplesMax; ++i) {
      absl::StrAppend(&text, i == 0 ? "" : ", ", pairs[i]->a, "-", pairs[i]->b);
    }
    absl::StrAppend(&text, pairs.size() > kExamplesMax ? ", ...): " : "): ", key.second, "\n");
  }
  return text;
}

}  // namespace conclave
