// SimNetwork: decides the fate of every simulated message: when its copies arrive, if at all. Links
// lose, delay, overtake, repeat and part, all drawn from one seeded generator in the order of
// sending. Testonly; owned by SimActorSystem; one thread.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "comm/actor/actor.h"
#include "comm/base/rng.h"

namespace conclave {

// How one direction of a link behaves. Messages that are not reordered arrive in the order of
// sending.
struct NetworkOptions {
  absl::Duration delay_min = absl::Microseconds(50);
  absl::Duration delay_max = absl::Microseconds(500);
  uint32_t drop_per_mille = 0;
  uint32_t duplicate_per_mille = 0;
  uint32_t reorder_per_mille = 0;  // share of messages held back so that later ones overtake them
  absl::Duration reorder_delay_max = absl::Milliseconds(20);
  size_t in_flight_max = 16384;  // of one direction; beyond, messages are lost as at a full queue
};

// Arrival times of the copies of one message.
struct Deliveries {
  int count = 0;
  std::array<absl::Time, 2> at;
};

class SimNetwork {
 public:
  struct Stats {
    uint64_t sent = 0;
    uint64_t dropped = 0;     // by chance
    uint64_t blocked = 0;     // by a partition
    uint64_t overflowed = 0;  // by in_flight_max
    uint64_t duplicated = 0;
    uint64_t reordered = 0;
    size_t in_flight_peak = 0;  // of one direction
  };

  SimNetwork(NetworkOptions defaults, uint64_t seed);

  // The behaviour of all links that have none of their own.
  void SetDefaults(NetworkOptions defaults) { defaults_ = defaults; }
  void SetLink(const PeerId& from, const PeerId& to, NetworkOptions options);
  void ClearLinks() { own_options_.clear(); }

  // Blocks one direction, or both between every peer of `a` and every peer of `b`. What is in
  // flight is lost too.
  void Block(const PeerId& from, const PeerId& to) { blocked_.insert({from, to}); }
  void Unblock(const PeerId& from, const PeerId& to) { blocked_.erase({from, to}); }
  void Partition(const std::vector<PeerId>& a, const std::vector<PeerId>& b);
  void UnblockAll() { blocked_.clear(); }
  bool Blocked(const PeerId& from, const PeerId& to) const {
    return !blocked_.empty() && blocked_.contains({from, to});
  }

  // The fate of a message sent now. Each copy counts as in flight until Arrived.
  Deliveries Route(absl::Time now, const PeerId& from, const PeerId& to);

  // A copy arrives: false when a partition swallows it.
  bool Arrived(const PeerId& from, const PeerId& to);

  const Stats& stats() const { return stats_; }

 private:
  using LinkKey = std::pair<PeerId, PeerId>;
  struct Link {
    absl::Time last_arrival = absl::InfinitePast();
    size_t in_flight = 0;
  };

  absl::Duration Delay(const NetworkOptions& options);

  NetworkOptions defaults_;
  Rng rng_;
  absl::flat_hash_map<LinkKey, NetworkOptions> own_options_;
  absl::flat_hash_map<LinkKey, Link> links_;
  absl::flat_hash_set<LinkKey> blocked_;
  Stats stats_;
};

}  // namespace conclave
