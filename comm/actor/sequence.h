// Sequence numbers of envelopes: SequenceSource gives each message of a sender its number, per
// receiver; SequenceFilter lets each number of a sender's incarnation pass once and in order, so
// that an actor sees messages at most once. Numbers start above a base that grows with each start
// of the sender: a restarted coordinator, which has the same name, is not mistaken for an echo of
// the old one. Values owned by the system that runs the actor.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "comm/actor/actor.h"
#include "comm/base/strong_id.h"

namespace conclave {

class SequenceSource {
 public:
  // The first message to each peer has number base + 1.
  explicit SequenceSource(uint64_t base = 0) : base_(base) {}

  uint64_t Next(const PeerId& to) { return ++last_.try_emplace(to, base_).first->second; }

 private:
  uint64_t base_;
  absl::flat_hash_map<PeerId, uint64_t> last_;
};

class SequenceFilter {
 public:
  // False for a repeated or overtaken message of `from`. `worker` is the envelope's: for messages
  // to the coordinator it tells the incarnations of a name apart, each of which counts for itself.
  bool Accept(const PeerId& from, WorkerId worker, uint64_t sequence) {
    if (peers_.size() >= kPeersMax && !peers_.contains(from)) peers_.clear();
    Peer& peer = peers_[from];
    const size_t known = std::min(peer.count, kIncarnationsMax);
    for (size_t i = 0; i < known; ++i) {
      if (peer.incarnations[i].worker != worker) continue;
      if (sequence <= peer.incarnations[i].last) return false;
      peer.incarnations[i].last = sequence;
      return true;
    }
    peer.incarnations[peer.count++ % kIncarnationsMax] = {worker, sequence};
    return true;
  }

 private:
  // A late echo of an incarnation older than these is fenced by its worker id.
  static constexpr size_t kIncarnationsMax = 4;
  // Names ever heard of; past it the filter starts afresh rather than grow.
  static constexpr size_t kPeersMax = 1 << 16;

  struct Incarnation {
    WorkerId worker;
    uint64_t last = 0;
  };
  struct Peer {
    std::array<Incarnation, kIncarnationsMax> incarnations;
    size_t count = 0;  // ever seen; the oldest is overwritten
  };

  absl::flat_hash_map<PeerId, Peer> peers_;
};

}  // namespace conclave
