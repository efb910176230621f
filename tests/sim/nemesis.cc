#include "tests/sim/nemesis.h"

#include <functional>
#include <utility>

#include "absl/status/status.h"

namespace conclave {
namespace {

constexpr uint64_t kNemesisStream = 12;

}  // namespace

Nemesis::Nemesis(World& world) : world_(world), rng_(world.scenario().seed, kNemesisStream) {}

absl::Duration Nemesis::Millis(int low, int high) {
  return absl::Milliseconds(low + static_cast<int>(rng_.Below(high - low + 1)));
}

void Nemesis::Later(absl::Duration delay, std::function<void()> undo) {
  world_.system().After(delay, [this, undo = std::move(undo)] {
    if (active_) undo();
  });
}

void Nemesis::Start() {
  active_ = true;
  world_.system().network().SetDefaults(world_.scenario().faulty);
  ScheduleNext();
}

void Nemesis::ScheduleNext() {
  const int mean = static_cast<int>(absl::ToInt64Milliseconds(world_.scenario().fault_gap));
  Later(Millis(mean / 4, mean * 2), [this] {
    Act();
    ScheduleNext();
  });
}

void Nemesis::Act() {
  ++deeds_;
  const std::string& worker = world_.workers()[rng_.Below(world_.workers().size())];
  switch (rng_.Below(10)) {
    case 0:
    case 1:
      return CrashWorker(worker);
    case 2:
      return PausePeer(worker, 3000);
    case 3:
    case 4:
      return CutOff(worker);
    case 5:
      return PausePeer(kCoordinatorPeer, 2000);
    case 6:
      if (FakeEngine* engine = world_.engine(worker)) {
        const bool vague = rng_.Chance(1, 2);
        engine->FailNextStep(vague ? absl::DeadlineExceededError("a peer did not answer")
                                   : absl::InternalError("the device failed"));
      }
      return;
    case 7:
      return CrashCoordinator();
    case 8:
      return HangWorker(worker);
    default:
      return PausePeer(worker, 600);  // suspect, perhaps, but not lost
  }
}

void Nemesis::CrashWorker(const std::string& worker) {
  if (!world_.system().Alive(worker)) return;
  world_.system().Crash(worker);
  Later(Millis(1, 3000), [this, worker] {
    if (!world_.system().Alive(worker)) world_.system().Restart(worker);
  });
}

void Nemesis::PausePeer(const std::string& peer, int milliseconds_max) {
  if (!world_.system().Alive(peer) || world_.system().Paused(peer)) return;
  world_.system().Pause(peer);
  Later(Millis(1, milliseconds_max), [this, peer] { world_.system().Resume(peer); });
}

// From the coordinator, in one direction or both.
void Nemesis::CutOff(const std::string& worker) {
  SimNetwork& network = world_.system().network();
  const uint64_t ways = rng_.Below(3);
  if (ways != 0) network.Block(worker, kCoordinatorPeer);
  if (ways != 1) network.Block(kCoordinatorPeer, worker);
  Later(Millis(1, 3000), [this, worker] {
    world_.system().network().Unblock(worker, kCoordinatorPeer);
    world_.system().network().Unblock(kCoordinatorPeer, worker);
  });
}

// A new one starts after what the old one sent or was sent has arrived, as with sockets: see the
// tenth of a second.
void Nemesis::CrashCoordinator() {
  if (!world_.system().Alive(kCoordinatorPeer)) return;
  world_.CrashCoordinator();
  Later(Millis(100, 3000), [this] {
    if (!world_.system().Alive(kCoordinatorPeer)) world_.system().Restart(kCoordinatorPeer);
  });
}

// A hung device lasts until its process is replaced.
void Nemesis::HangWorker(const std::string& worker) {
  FakeEngine* engine = world_.engine(worker);
  if (engine == nullptr) return;
  engine->Hang();
  Later(Millis(500, 14000), [this, worker] { world_.system().Restart(worker); });
}

}  // namespace conclave
