// SimEventQueue: pending events in the order of their virtual time, and of pushing when that is
// equal. Events lie still in slots while small entries move in the heap. Testonly; a value of
// SimActorSystem.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <queue>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "comm/actor/actor.h"
#include "comm/actor/sim_event.h"
#include "glog/logging.h"

namespace conclave {

// An event to come. Only the fields of its kind are set.
struct SimPendingEvent {
  SimEvent::Kind kind = SimEvent::Kind::kWorld;
  int to = -1;                               // actor; -1 for the world
  int from = -1;                             // actor of the sender or of the lost peer
  uint64_t life = 0;                         // of the receiver that it is for; 0: any
  uint64_t tag = 0;                          // timers
  uint64_t generation = 0;                   // timers: stale unless the actor's
  std::string frame;                         // messages, through the codec
  std::shared_ptr<const Envelope> envelope;  // messages, without the codec
  bool arrived = false;                      // messages: the network is done with it
  std::function<void(ActorContext&)> work;   // posts
  std::function<void()> world;
};

class SimEventQueue {
 public:
  explicit SimEventQueue(size_t events_max) : events_max_(events_max) {}

  bool empty() const { return heap_.empty(); }
  size_t peak() const { return peak_; }
  // When the first event is due; the queue is not empty.
  absl::Time next() const { return heap_.top().at; }

  void Push(absl::Time at, SimPendingEvent event) {
    size_t slot = slots_.size();
    if (free_.empty()) {
      CHECK_LT(slot, events_max_) << "simulated events pile up without end";
      slots_.push_back(std::move(event));
    } else {
      slot = free_.back();
      free_.pop_back();
      slots_[slot] = std::move(event);
    }
    heap_.push({at, ++pushed_, slot});
    peak_ = std::max(peak_, heap_.size());
  }

  SimPendingEvent Pop() {
    const size_t slot = heap_.top().slot;
    heap_.pop();
    free_.push_back(slot);
    return std::exchange(slots_[slot], SimPendingEvent());
  }

 private:
  struct Entry {
    absl::Time at;
    uint64_t order = 0;
    size_t slot = 0;
    bool operator>(const Entry& other) const {
      return at != other.at ? at > other.at : order > other.order;
    }
  };

  const size_t events_max_;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> heap_;
  std::deque<SimPendingEvent> slots_;
  std::vector<size_t> free_;
  uint64_t pushed_ = 0;
  size_t peak_ = 0;
};

}  // namespace conclave
