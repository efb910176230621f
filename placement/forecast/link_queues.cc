#include "placement/forecast/link_queues.h"

#include <algorithm>

#include "glog/logging.h"

namespace conclave {

LinkQueues::LinkQueues(const ClusterTopology& cluster, const std::vector<int>& devices)
    : size_(static_cast<int>(devices.size())) {
  class_.resize(static_cast<size_t>(size_) * size_);
  pair_bytes_.resize(class_.size());
  for (int from = 0; from < size_; ++from) {
    const ClusterNode& node = cluster.nodes[cluster.NodeOf(devices[from])];
    Site site;
    const LinkCost* const links[3] = {&node.fast, &node.host, &node.network};
    for (int c = 0; c < 3; ++c) {
      const double bandwidth = links[c]->bandwidth;
      site.ports[c] = {links[c]->alpha, bandwidth > 0 ? 1 / bandwidth : 0};
    }
    site.peer_seconds = cluster.ProfileOf(devices[from]).peer_seconds;
    for (int to = 0; to < size_; ++to) {
      if (to == from) continue;
      const int link = static_cast<int>(cluster.LinkBetween(devices[from], devices[to]));
      class_[static_cast<size_t>(from) * size_ + to] = static_cast<uint8_t>(link);
      site.alpha_max = std::max(site.alpha_max, site.ports[link].alpha);
    }
    sites_.push_back(site);
  }
}

double LinkQueues::Send(absl::Span<const Transfer> transfers, const Round& round, double start) {
  const int from = transfers[0].from;
  const Site& site = sites_[from];
  // The messages without rows, which are not listed, lie evenly between the others.
  const double work = site.peer_seconds *
                      std::max<double>(round.sends[from], static_cast<double>(transfers.size())) /
                      static_cast<double>(transfers.size());
  double free[3] = {start, start, start};
  double issued = start;
  const size_t n = transfers.size();
  size_t i = 0;  // the first message to a higher rank
  while (i < n && transfers[i].to < from) ++i;
  for (size_t sent = 0; sent < n; ++sent, ++i) {
    const Transfer& transfer = transfers[i < n ? i : i - n];
    const size_t pair = static_cast<size_t>(from) * size_ + transfer.to;
    const int link = class_[pair];
    const Site& to = sites_[transfer.to];
    const double bytes = static_cast<double>(transfer.bytes) * round.scale;
    pair_bytes_[pair] += bytes;
    issued += work;
    const double begin = std::max(issued, free[link]);
    free[link] = begin + bytes * site.ports[link].seconds_per_byte;
    const double alpha = std::max(site.ports[link].alpha, to.ports[link].alpha);
    arrivals_[next_of_[transfer.to]++] = {begin + alpha, free[link] + alpha,
                                          bytes * to.ports[link].seconds_per_byte, link, from};
  }
  return std::max({issued, free[0], free[1], free[2]});
}

double LinkQueues::Receive(absl::Span<Message> messages) const {
  const auto earlier = [](const Message& a, const Message& b) {
    return a.first != b.first ? a.first < b.first : a.from < b.from;
  };
  if (!std::is_sorted(messages.begin(), messages.end(), earlier)) {
    std::sort(messages.begin(), messages.end(), earlier);
  }
  double free[3] = {0, 0, 0};
  for (const Message& message : messages) {
    double& port = free[message.link];
    port = std::max(std::max(port, message.first) + message.pass, message.last);
  }
  return std::max({free[0], free[1], free[2]});
}

void LinkQueues::Run(const Round& round, std::vector<double>& clock) {
  const absl::Span<const Transfer> transfers = round.transfers;
  next_of_.assign(size_ + 1, 0);
  for (const Transfer& transfer : transfers) ++next_of_[transfer.to + 1];
  for (int rank = 0; rank < size_; ++rank) next_of_[rank + 1] += next_of_[rank];
  arrivals_.resize(transfers.size());
  double last_empty = 0;
  std::vector<double> done = clock;
  for (int rank = 0; rank < size_; ++rank) {
    if (round.sends[rank] == 0) continue;
    const Site& site = sites_[rank];
    done[rank] = clock[rank] + round.sends[rank] * site.peer_seconds;
    last_empty = std::max(last_empty, done[rank] + site.alpha_max);
  }
  for (size_t i = 0; i < transfers.size();) {
    size_t end = i;
    while (end < transfers.size() && transfers[end].from == transfers[i].from) ++end;
    const int from = transfers[i].from;
    done[from] = std::max(done[from], Send(transfers.subspan(i, end - i), round, clock[from]));
    i = end;
  }
  int32_t begin = 0;
  for (int rank = 0; rank < size_; ++rank) {
    const int32_t end = next_of_[rank];
    done[rank] =
        std::max(done[rank], Receive(absl::MakeSpan(arrivals_).subspan(begin, end - begin)));
    if (round.receives[rank] > 0) done[rank] = std::max(done[rank], last_empty);
    begin = end;
  }
  clock = std::move(done);
}

}  // namespace conclave
