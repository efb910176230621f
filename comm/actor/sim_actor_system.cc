#include "comm/actor/sim_actor_system.h"

#include <algorithm>
#include <deque>
#include <set>
#include <string>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "comm/actor/sequence.h"
#include "comm/actor/sim_event_queue.h"
#include "comm/codec/codec.h"
#include "glog/logging.h"
#include "xxhash.h"

namespace conclave {
namespace {

constexpr uint64_t kActorStreams = 1000;      // rng streams of actors begin here
constexpr uint64_t kLivesPerActor = 1 << 20;  // streams kept for the lives of one actor
constexpr int kLifeShift = 32;                // sequence numbers of a life start at life << 32

// Of what a message carries: the bytes on the wire, or without them the envelope's numbers.
uint64_t Digest(const std::string& frame, const Envelope& envelope) {
  if (!frame.empty()) return XXH3_64bits(frame.data(), frame.size());
  const uint64_t words[3] = {envelope.epoch.value, envelope.sequence, envelope.message.index()};
  return XXH3_64bits(words, sizeof(words));
}

}  // namespace

class SimActorSystem::Impl {
 public:
  explicit Impl(Options options)
      : options_(options), network_(options.network, options.seed), pending_(options.events_max) {}

  void AddActor(const PeerId& peer, ActorFactory factory) {
    CHECK(!index_.contains(peer)) << peer << " is added twice";
    index_.emplace(peer, static_cast<int>(nodes_.size()));
    peers_.push_back(peer);
    nodes_.push_back(
        std::make_unique<Node>(*this, static_cast<int>(nodes_.size()), peer, std::move(factory)));
    StartLife(*nodes_.back());
  }

  void Restart(const PeerId& peer) {
    Node& node = Find(peer);
    CHECK(running_ != &node) << peer << " cannot restart itself";
    Kill(node);
    StartLife(node);
  }

  void Resume(const PeerId& peer) {
    Node& node = Find(peer);
    if (!node.paused) return;
    node.paused = false;
    std::deque<Event> backlog;
    backlog.swap(node.backlog);
    node.backlog_messages = 0;
    for (Event& event : backlog) pending_.Push(now_, std::move(event));
  }

  bool PostAfter(const PeerId& peer, absl::Duration delay, Work work) {
    Node& node = Find(peer);
    if (node.actor == nullptr || node.dying || node.posts >= options_.posts_max) return false;
    ++node.posts;
    Event event = EventFor(node, SimEvent::Kind::kPost);
    event.work = std::move(work);
    pending_.Push(now_ + std::max(delay, absl::ZeroDuration()), std::move(event));
    return true;
  }

  void At(absl::Time when, std::function<void()> work) {
    Event event;
    event.world = std::move(work);
    pending_.Push(std::max(when, now_), std::move(event));
  }

  bool Step() {
    while (!pending_.empty()) {
      if (PopAndExecute()) return true;
    }
    return false;
  }

  void RunUntil(absl::Time when) {
    while (!pending_.empty() && pending_.next() <= when) PopAndExecute();
    now_ = std::max(now_, when);
  }

  bool RunUntilTrue(const std::function<bool()>& done, absl::Duration limit) {
    const absl::Time end = now_ + limit;
    while (!done()) {
      if (pending_.empty() || pending_.next() > end) {
        now_ = std::max(now_, end);
        return false;
      }
      PopAndExecute();
    }
    return true;
  }

 private:
  friend class SimActorSystem;

  using Event = SimPendingEvent;

  // What a start of an actor begins with and its end takes along.
  struct LifeState {
    bool paused = false;
    bool dying = false;  // killed within its own callback: goes when that returns
    std::optional<absl::Status> stop_reason;
    Rng random{0};
    SequenceSource sequences;
    SequenceFilter filter;
    absl::flat_hash_map<uint64_t, uint64_t> timers;  // tag -> generation
    uint64_t generation = 0;
    size_t posts = 0;
    std::set<int> contacts;     // nodes it has talked with
    std::deque<Event> backlog;  // while paused
    size_t backlog_messages = 0;
  };

  struct Node final : public ActorContext, public Mailbox, public LifeState {
    Node(Impl& s, int i, PeerId p, ActorFactory f)
        : system(s), index(i), peer(std::move(p)), factory(std::move(f)) {}

    void Send(const PeerId& to, Epoch epoch, WorkerId worker, Message message) override {
      system.Send(*this, to, {epoch, worker, sequences.Next(to), std::move(message)});
    }
    void SetTimer(uint64_t tag, absl::Duration delay) override {
      Event event = system.EventFor(*this, SimEvent::Kind::kTimer);
      event.tag = tag;
      event.generation = timers[tag] = ++generation;
      system.pending_.Push(system.now_ + std::max(delay, absl::ZeroDuration()), std::move(event));
    }
    void CancelTimer(uint64_t tag) override { timers.erase(tag); }
    absl::Time Now() const override { return system.now_; }
    Rng& rng() override { return random; }
    void Stop(absl::Status reason) override {
      if (!stop_reason.has_value()) stop_reason = std::move(reason);
      dying = true;
    }
    bool Post(Work work) override {
      return system.PostAfter(peer, absl::ZeroDuration(), std::move(work));
    }

    Impl& system;
    const int index;
    const PeerId peer;
    const ActorFactory factory;
    std::unique_ptr<Actor> actor;  // null while it is down
    uint64_t life = 0;             // counts starts
  };

  Node& Find(const PeerId& peer) const {
    const auto it = index_.find(peer);
    CHECK(it != index_.end()) << "no actor is called " << peer;
    return *nodes_[it->second];
  }

  Event EventFor(const Node& node, SimEvent::Kind kind) const {
    Event event;
    event.kind = kind;
    event.to = node.index;
    event.life = node.life;
    return event;
  }

  void StartLife(Node& node) {
    ++node.life;
    CHECK_LT(node.life, kLivesPerActor);
    static_cast<LifeState&>(node) = LifeState();
    node.random = Rng(options_.seed, kActorStreams + node.index * kLivesPerActor + node.life);
    node.sequences = SequenceSource(node.life << kLifeShift);
    pending_.Push(now_, EventFor(node, SimEvent::Kind::kStart));
    node.actor = node.factory();
    CHECK(node.actor != nullptr) << node.peer;
  }

  void Kill(Node& node) {
    if (node.actor == nullptr) return;
    node.dying = true;
    if (running_ == &node) return;
    node.actor.reset();
    node.backlog.clear();
    node.backlog_messages = 0;
    node.paused = false;
    if (!options_.peer_lost_hints) return;
    for (const int contact : node.contacts) {
      Node& other = *nodes_[contact];
      if (other.actor == nullptr) continue;
      const Deliveries hint = network_.Route(now_, node.peer, other.peer);
      for (int i = 0; i < hint.count; ++i) {
        Event event = EventFor(other, SimEvent::Kind::kPeerLost);
        event.from = node.index;
        pending_.Push(hint.at[i], std::move(event));
      }
    }
  }

  void Send(Node& from, const PeerId& to, Envelope envelope) {
    const auto it = index_.find(to);
    if (it == index_.end()) {
      ++stats_.to_nobody;
      return;
    }
    Node& receiver = *nodes_[it->second];
    from.contacts.insert(receiver.index);
    const Deliveries deliveries = network_.Route(now_, from.peer, to);
    if (deliveries.count == 0) return;
    Event event;
    event.kind = SimEvent::Kind::kMessage;
    event.to = receiver.index;
    event.from = from.index;
    if (options_.through_codec) {
      event.frame = Encode(envelope);
    } else {
      event.envelope = std::make_shared<const Envelope>(std::move(envelope));
    }
    for (int i = 1; i < deliveries.count; ++i) pending_.Push(deliveries.at[i], event);
    pending_.Push(deliveries.at[0], std::move(event));
  }

  // False when the event was stale and nothing happened.
  bool PopAndExecute() {
    CHECK(!executing_) << "an event may not run the simulation";
    CHECK(pending_.next() >= now_);
    now_ = pending_.next();
    Event event = pending_.Pop();
    if (!Arrive(event)) return false;
    executing_ = true;
    const bool executed = event.to < 0 ? ExecuteWorld(event) : Execute(std::move(event));
    executing_ = false;
    return executed;
  }

  // False when the network swallows what it carries.
  bool Arrive(Event& event) {
    const bool carried =
        event.kind == SimEvent::Kind::kMessage || event.kind == SimEvent::Kind::kPeerLost;
    if (!carried || event.arrived) return true;
    event.arrived = true;
    return network_.Arrived(nodes_[event.from]->peer, nodes_[event.to]->peer);
  }

  bool ExecuteWorld(const Event& event) {
    Observe(event, nullptr, 0);
    event.world();
    return true;
  }

  bool Execute(Event event) {
    Node& node = *nodes_[event.to];
    if (node.actor == nullptr) {
      if (event.kind == SimEvent::Kind::kMessage) ++stats_.to_nobody;
      return false;
    }
    if (event.life != 0 && event.life != node.life) return false;
    if (node.paused) {
      Defer(node, std::move(event));
      return false;
    }
    running_ = &node;
    const bool executed = Dispatch(node, event);
    running_ = nullptr;
    if (node.dying) Kill(node);
    return executed;
  }

  void Defer(Node& node, Event event) {
    if (event.kind == SimEvent::Kind::kMessage) {
      if (node.backlog_messages >= options_.backlog_max) {
        ++stats_.backlog_dropped;
        return;
      }
      ++node.backlog_messages;
      stats_.backlog_peak = std::max(stats_.backlog_peak, node.backlog_messages);
    }
    node.backlog.push_back(std::move(event));
  }

  bool Dispatch(Node& node, Event& event) {
    switch (event.kind) {
      case SimEvent::Kind::kStart:
        if (Observe(event, nullptr, node.life)) node.actor->OnStart(node);
        return true;
      case SimEvent::Kind::kMessage:
        return Deliver(node, event);
      case SimEvent::Kind::kTimer: {
        const auto it = node.timers.find(event.tag);
        if (it == node.timers.end() || it->second != event.generation) return false;
        node.timers.erase(it);
        if (Observe(event, nullptr, event.tag)) node.actor->OnTimer(node, event.tag);
        return true;
      }
      case SimEvent::Kind::kPost:
        --node.posts;
        if (Observe(event, nullptr, 0)) event.work(node);
        return true;
      case SimEvent::Kind::kPeerLost:
        if (Observe(event, nullptr, 0)) node.actor->OnPeerLost(node, nodes_[event.from]->peer);
        return true;
      case SimEvent::Kind::kWorld:
        break;
    }
    LOG(FATAL) << "a world event for " << node.peer;
  }

  bool Deliver(Node& node, const Event& event) {
    const PeerId& from = nodes_[event.from]->peer;
    Envelope decoded;
    const Envelope* envelope = event.envelope.get();
    if (envelope == nullptr) {
      absl::StatusOr<Envelope> result = Decode(event.frame);
      if (!result.ok()) {
        ++stats_.refused;
        LOG(ERROR) << "a message of " << from << " is dropped: " << result.status().message();
        return false;
      }
      decoded = *std::move(result);
      envelope = &decoded;
    }
    if (!node.filter.Accept(from, envelope->worker, envelope->sequence)) {
      ++stats_.repeated;
      return false;
    }
    ++stats_.delivered;
    node.contacts.insert(event.from);
    if (Observe(event, envelope, Digest(event.frame, *envelope))) {
      node.actor->OnMessage(node, from, *envelope);
    }
    return true;
  }

  // Records an event that is about to be executed; `digest` is of what it carries. False when the
  // observer killed the receiver.
  bool Observe(const Event& event, const Envelope* envelope, uint64_t digest) {
    SimEvent seen;
    seen.kind = event.kind;
    seen.at = now_;
    if (event.from >= 0) seen.from = nodes_[event.from]->peer;
    if (event.to >= 0) seen.to = nodes_[event.to]->peer;
    seen.tag = event.tag;
    seen.envelope = envelope;
    log_.Record(seen, digest);
    return running_ == nullptr || !running_->dying;
  }

  const Options options_;
  SimNetwork network_;
  absl::Time now_ = SimEpoch();
  absl::flat_hash_map<PeerId, int> index_;
  std::vector<PeerId> peers_;
  std::vector<std::unique_ptr<Node>> nodes_;
  Node* running_ = nullptr;  // whose callback runs
  bool executing_ = false;
  SimEventQueue pending_;
  SimEventLog log_;
  Stats stats_;
};

SimActorSystem::SimActorSystem(Options options) : impl_(std::make_unique<Impl>(options)) {}
SimActorSystem::~SimActorSystem() = default;

void SimActorSystem::AddActor(const PeerId& peer, ActorFactory factory) {
  impl_->AddActor(peer, std::move(factory));
}
void SimActorSystem::Crash(const PeerId& peer) { impl_->Kill(impl_->Find(peer)); }
void SimActorSystem::Restart(const PeerId& peer) { impl_->Restart(peer); }
void SimActorSystem::Pause(const PeerId& peer) { impl_->Find(peer).paused = true; }
void SimActorSystem::Resume(const PeerId& peer) { impl_->Resume(peer); }
bool SimActorSystem::Alive(const PeerId& peer) const { return impl_->Find(peer).actor != nullptr; }
bool SimActorSystem::Paused(const PeerId& peer) const { return impl_->Find(peer).paused; }
Actor* SimActorSystem::actor(const PeerId& peer) { return impl_->Find(peer).actor.get(); }
std::optional<absl::Status> SimActorSystem::StopReason(const PeerId& peer) const {
  return impl_->Find(peer).stop_reason;
}
const std::vector<PeerId>& SimActorSystem::peers() const { return impl_->peers_; }
SimNetwork& SimActorSystem::network() { return impl_->network_; }

bool SimActorSystem::PostAfter(const PeerId& peer, absl::Duration delay, Work work) {
  return impl_->PostAfter(peer, delay, std::move(work));
}
Mailbox& SimActorSystem::mailbox(const PeerId& peer) { return impl_->Find(peer); }
void SimActorSystem::At(absl::Time when, std::function<void()> work) {
  impl_->At(when, std::move(work));
}

absl::Time SimActorSystem::Now() const { return impl_->now_; }
bool SimActorSystem::Step() { return impl_->Step(); }
void SimActorSystem::RunUntil(absl::Time when) { impl_->RunUntil(when); }
bool SimActorSystem::RunUntilTrue(const std::function<bool()>& done, absl::Duration limit) {
  return impl_->RunUntilTrue(done, limit);
}
void SimActorSystem::SetObserver(std::function<void(const SimEvent&)> observer) {
  impl_->log_.SetObserver(std::move(observer));
}
uint64_t SimActorSystem::log_hash() const { return impl_->log_.hash(); }
SimActorSystem::Stats SimActorSystem::stats() const {
  Stats stats = impl_->stats_;
  stats.events = impl_->log_.count();
  stats.pending_peak = impl_->pending_.peak();
  return stats;
}

}  // namespace conclave
