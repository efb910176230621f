// HostNet: N hosts on one machine: network namespaces, each joined by a veth link of a given rate
// to a router, a namespace too, so that nothing of the machine's own network is touched and two
// nets never meet, whatever addresses they use. Links go down and up, become black holes and change
// their rate while processes run. Owned by one process, which forks what runs in the hosts; when it
// ends, also by kill -9, namespaces and processes in them go (tests/hosts/namespaces.h). Needs
// CAP_NET_ADMIN and CAP_SYS_ADMIN. One thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace conclave {

// One direction of a link: a token bucket and the queue before it; what exceeds the queue is lost.
struct LinkShape {
  int64_t bits_per_second = 200'000'000;  // of frames; 0: as fast as the machine
  int64_t burst_bytes = 0;                // 0: 500 us at the rate, at least two frames
  // The longest wait of a frame: 2.5 MB at 200 Mbit/s, the buffer of a small switch. An all-to-all
  // is an incast: with a fifth of it half of the time goes to lost frames.
  absl::Duration queue = absl::Milliseconds(100);
};

struct HostNetOptions {
  int hosts = 2;  // 1 to 1024
  LinkShape link;
  int frame_bytes = 9000;  // the MTU: jumbo frames, as between the nodes of a cluster
};

// Of a host's traffic, seen from it.
enum class LinkDirection : uint8_t { kOut, kIn };

class HostNet {
 public:
  // Removes what owners that ended have left, then builds the net. PermissionDenied or NotFound
  // when this machine or process cannot (CheckNamespaceRights).
  static absl::StatusOr<std::unique_ptr<HostNet>> Create(const HostNetOptions& options);
  ~HostNet();
  HostNet(const HostNet&) = delete;
  HostNet& operator=(const HostNet&) = delete;

  int hosts() const { return options_.hosts; }
  // Its namespace: `ip netns exec NAME`.
  std::string Name(int host) const;
  std::string Address(int host) const;  // IPv4
  pid_t janitor() const { return janitor_; }

  // Moves the calling process, a child of one thread, into a host for good.
  absl::Status Enter(int host) const;

  // Pulls the cable out, and puts it back: both ends know, and have noticed when this returns.
  absl::Status SetLinkUp(int host, bool up);
  // The router drops what comes from or goes to the host; no end knows.
  absl::Status SetBlackHole(int host, LinkDirection direction, bool on);
  absl::Status SetShape(int host, LinkDirection direction, const LinkShape& shape);
  // Link up, no black holes, the first shape.
  absl::Status Restore(int host);

 private:
  explicit HostNet(const HostNetOptions& options);
  absl::Status Build();
  absl::Status AwaitLinkUp(int host) const;
  std::string RouterPort(int host) const;

  const HostNetOptions options_;
  const std::string prefix_;  // of the namespaces' names
  const std::string router_;
  pid_t janitor_ = -1;
};

}  // namespace conclave
