#include "comm/actor/sim_network.h"

#include <algorithm>

#include "glog/logging.h"

namespace conclave {
namespace {

constexpr uint64_t kNetworkStream = 1;  // of the seed; actors have streams of their own
constexpr uint32_t kMille = 1000;

// Uniform in [low, high].
absl::Duration Between(Rng& rng, absl::Duration low, absl::Duration high) {
  const int64_t span = absl::ToInt64Nanoseconds(high - low);
  if (span <= 0) return low;
  return low + absl::Nanoseconds(static_cast<int64_t>(rng.Below(span + 1)));
}

}  // namespace

SimNetwork::SimNetwork(NetworkOptions defaults, uint64_t seed)
    : defaults_(defaults), rng_(seed, kNetworkStream) {}

void SimNetwork::SetLink(const PeerId& from, const PeerId& to, NetworkOptions options) {
  own_options_.insert_or_assign({from, to}, options);
}

void SimNetwork::Partition(const std::vector<PeerId>& a, const std::vector<PeerId>& b) {
  for (const PeerId& left : a) {
    for (const PeerId& right : b) {
      Block(left, right);
      Block(right, left);
    }
  }
}

absl::Duration SimNetwork::Delay(const NetworkOptions& options) {
  return Between(rng_, options.delay_min, options.delay_max);
}

Deliveries SimNetwork::Route(absl::Time now, const PeerId& from, const PeerId& to) {
  ++stats_.sent;
  const LinkKey key = {from, to};
  if (!blocked_.empty() && blocked_.contains(key)) {
    ++stats_.blocked;
    return {};
  }
  const auto own = own_options_.find(key);
  const NetworkOptions& options = own == own_options_.end() ? defaults_ : own->second;
  if (rng_.Chance(options.drop_per_mille, kMille)) {
    ++stats_.dropped;
    return {};
  }
  Link& link = links_[key];
  if (link.in_flight >= options.in_flight_max) {
    ++stats_.overflowed;
    return {};
  }
  Deliveries deliveries;
  const bool reordered = rng_.Chance(options.reorder_per_mille, kMille);
  absl::Time at = now + Delay(options);
  if (reordered) {
    ++stats_.reordered;
    at += Between(rng_, absl::ZeroDuration(), options.reorder_delay_max);
  } else {
    at = std::max(at, link.last_arrival);
    link.last_arrival = at;
  }
  deliveries.at[deliveries.count++] = at;
  if (rng_.Chance(options.duplicate_per_mille, kMille)) {
    ++stats_.duplicated;
    deliveries.at[deliveries.count++] =
        at + Between(rng_, absl::ZeroDuration(), options.reorder_delay_max);
  }
  link.in_flight += deliveries.count;
  stats_.in_flight_peak = std::max(stats_.in_flight_peak, link.in_flight);
  return deliveries;
}

bool SimNetwork::Arrived(const PeerId& from, const PeerId& to) {
  Link& link = links_[{from, to}];
  CHECK_GT(link.in_flight, 0u) << from << " -> " << to;
  --link.in_flight;
  if (!Blocked(from, to)) return true;
  ++stats_.blocked;
  return false;
}

}  // namespace conclave
