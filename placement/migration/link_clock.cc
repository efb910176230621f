#include "placement/migration/link_clock.h"

#include <algorithm>
#include <limits>

namespace conclave {
namespace {

double Seconds(int64_t bytes, double bandwidth) {
  if (bandwidth > 0) return static_cast<double>(bytes) / bandwidth;
  return std::numeric_limits<double>::infinity();
}

}  // namespace

int LinkClock::Distance(int from, int to) const {
  if (from < 0) return 2;
  return input_->ranks[from].node == input_->ranks[to].node ? 0 : 1;
}

LinkClock::Use LinkClock::Sender(int from, int to, int64_t bytes) const {
  if (from < 0) {
    return {static_cast<size_t>(to) * kLinks + kStore,
            Seconds(bytes, input_->ranks[to].store_bandwidth)};
  }
  const bool peer = Distance(from, to) == 0;
  const MigrationRank& rank = input_->ranks[from];
  return {static_cast<size_t>(from) * kLinks + (peer ? kPeerSend : kNetworkSend),
          Seconds(bytes, peer ? rank.peer_bandwidth : rank.network_bandwidth)};
}

LinkClock::Use LinkClock::Receiver(int from, int to, int64_t bytes) const {
  if (from < 0) return Sender(from, to, bytes);
  const bool peer = Distance(from, to) == 0;
  const MigrationRank& rank = input_->ranks[to];
  return {static_cast<size_t>(to) * kLinks + (peer ? kPeerReceive : kNetworkReceive),
          Seconds(bytes, peer ? rank.peer_bandwidth : rank.network_bandwidth)};
}

double LinkClock::Until(int from, int to, int64_t bytes) const {
  const Use send = Sender(from, to, bytes);
  const Use receive = Receiver(from, to, bytes);
  return std::max(busy_[send.link] + send.seconds, busy_[receive.link] + receive.seconds);
}

void LinkClock::Add(int from, int to, int64_t bytes) {
  const Use send = Sender(from, to, bytes);
  const Use receive = Receiver(from, to, bytes);
  busy_[send.link] += send.seconds;
  used_.push_back(send.link);
  if (receive.link != send.link) {
    busy_[receive.link] += receive.seconds;
    used_.push_back(receive.link);
  }
  seconds_ = std::max({seconds_, busy_[send.link], busy_[receive.link]});
}

void LinkClock::Reset() {
  for (const size_t link : used_) busy_[link] = 0;
  used_.clear();
  seconds_ = 0;
}

}  // namespace conclave
