// LinkQueues: the links of one stage in virtual time. Each device has a sending and a receiving
// port for every link class, each a queue of its own; a node's NICs are shared evenly, so that a
// device's network ports have ClusterNode::network's bandwidth. A message waits for its sender's
// work (peer_seconds each, one after another), then for the sending port, travels alpha, and
// passes the receiving port in order of arrival; ports forward while they receive. Senders start
// with their next neighbour, so that nobody is everybody's first. One thread at a time.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "comm/exchange/transfers.h"
#include "placement/hardware/cluster_topology.h"

namespace conclave {

class LinkQueues {
 public:
  // devices: [stage size] flat indices of the cluster's devices.
  LinkQueues(const ClusterTopology& cluster, const std::vector<int>& devices);

  struct Round {
    absl::Span<const Transfer> transfers;  // of one round, sorted by (from, to)
    // [stage size] messages that each rank sends and receives, those without rows included: they
    // cost the sender's work, and whoever expects them waits for the last.
    absl::Span<const int32_t> sends;
    absl::Span<const int32_t> receives;
    double scale = 1;  // of the transfers' bytes
  };

  // clock: [stage size] seconds at which each rank starts the round; becomes those at which it has
  // sent and received everything.
  void Run(const Round& round, std::vector<double>& clock);

  LinkClass ClassOf(int from, int to) const {
    return static_cast<LinkClass>(class_[static_cast<size_t>(from) * size_ + to]);
  }
  // Bytes that all rounds so far sent, [from * stage size + to].
  const std::vector<double>& pair_bytes() const { return pair_bytes_; }

 private:
  struct Port {
    double alpha = 0;
    double seconds_per_byte = 0;
  };
  struct Site {
    Port ports[3];  // by LinkClass, both ways
    double peer_seconds = 0;
    double alpha_max = 0;  // of the classes it uses
  };
  struct Message {
    double first = 0;  // its first byte reaches the receiver
    double last = 0;   // its last, if the receiver is not busy
    double pass = 0;   // seconds that it holds the receiving port
    int32_t link = 0;
    int32_t from = 0;
  };

  // Sends `transfers` of one rank from `start`; fills arrivals_ and returns when all are away.
  double Send(absl::Span<const Transfer> transfers, const Round& round, double start);
  double Receive(absl::Span<Message> messages) const;

  int size_;
  std::vector<Site> sites_;
  std::vector<uint8_t> class_;
  std::vector<double> pair_bytes_;
  std::vector<int32_t> next_of_;  // [stage size + 1] free place of each receiver in arrivals_
  std::vector<Message> arrivals_;
};

}  // namespace conclave
