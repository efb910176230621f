// LinkClock: how long each link is busy with the copies of one wave, and so how long the wave
// takes. A rank has five links, none of which slows another: sending and receiving within its node
// (peer_bandwidth), sending and receiving to other nodes (network_bandwidth), and its share of its
// node's store (store_bandwidth). A link without bandwidth is busy forever, so that it is used only
// when nothing else reaches the target. A value over a borrowed input; one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "placement/migration/migration.h"

namespace conclave {

class LinkClock {
 public:
  // `input` outlives the clock.
  explicit LinkClock(const MigrationInput& input)
      : input_(&input), busy_(input.ranks.size() * kLinks) {}

  // Until when (seconds) the slower of the two links of a copy to `to` would be busy with `bytes`
  // more. from -1: the store.
  double Until(int from, int to, int64_t bytes) const;
  void Add(int from, int to, int64_t bytes);
  // 0: within the node, 1: other nodes, 2: the store.
  int Distance(int from, int to) const;
  // Of the busiest link.
  double seconds() const { return seconds_; }
  // All links idle again.
  void Reset();

 private:
  enum Link { kPeerSend, kPeerReceive, kNetworkSend, kNetworkReceive, kStore, kLinks };
  struct Use {
    size_t link;
    double seconds;
  };
  // The link of the sender, and that of the receiver; the same of a store.
  Use Sender(int from, int to, int64_t bytes) const;
  Use Receiver(int from, int to, int64_t bytes) const;

  const MigrationInput* input_;
  std::vector<double> busy_;  // [ranks, kLinks] seconds
  std::vector<size_t> used_;  // links added to since the last Reset
  double seconds_ = 0;
};

}  // namespace conclave
