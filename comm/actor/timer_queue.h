// TimerQueue: the pending timers of one actor, by tag. Timers due at the same instant fire in the
// order they were set. A value owned by the system that runs the actor; its thread only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <tuple>

#include "absl/container/flat_hash_map.h"
#include "absl/time/time.h"

namespace conclave {

class TimerQueue {
 public:
  // A pending timer with the same tag is replaced.
  void Set(uint64_t tag, absl::Time when) {
    Cancel(tag);
    const Entry entry = {when, ++order_, tag};
    entries_.insert(entry);
    by_tag_.emplace(tag, entry);
  }

  void Cancel(uint64_t tag) {
    const auto it = by_tag_.find(tag);
    if (it == by_tag_.end()) return;
    entries_.erase(it->second);
    by_tag_.erase(it);
  }

  bool Pending(uint64_t tag) const { return by_tag_.contains(tag); }
  size_t size() const { return entries_.size(); }

  // When the next timer is due; InfiniteFuture without one.
  absl::Time Next() const {
    return entries_.empty() ? absl::InfiniteFuture() : std::get<absl::Time>(*entries_.begin());
  }

  // Removes the first timer due at `now` or before and returns its tag.
  std::optional<uint64_t> PopDue(absl::Time now) {
    if (Next() > now) return std::nullopt;
    const uint64_t tag = std::get<2>(*entries_.begin());
    Cancel(tag);
    return tag;
  }

 private:
  using Entry = std::tuple<absl::Time, uint64_t, uint64_t>;  // when, order of setting, tag

  uint64_t order_ = 0;
  std::set<Entry> entries_;
  absl::flat_hash_map<uint64_t, Entry> by_tag_;
};

}  // namespace conclave
