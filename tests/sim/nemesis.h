// Nemesis: does bad things to a world at random times drawn from its seed: crashes, restarts and
// pauses processes, parts the network, makes steps fail and devices hang. It acts until told to
// stop; World::Heal undoes what it did. Owned by the run; one thread.
#pragma once

#include <string>

#include "comm/base/rng.h"
#include "tests/sim/world.h"

namespace conclave {

class Nemesis {
 public:
  explicit Nemesis(World& world);

  // Schedules deeds from now on.
  void Start();
  void Stop() { active_ = false; }

  // Done so far.
  int deeds() const { return deeds_; }

 private:
  void ScheduleNext();
  void Act();
  void CrashWorker(const std::string& worker);
  void PausePeer(const std::string& peer, int milliseconds_max);
  void CutOff(const std::string& worker);
  void CrashCoordinator();
  void HangWorker(const std::string& worker);
  absl::Duration Millis(int low, int high);
  // Undoes a deed later, unless the world was healed meanwhile.
  void Later(absl::Duration delay, std::function<void()> undo);

  World& world_;
  Rng rng_;
  bool active_ = false;
  int deeds_ = 0;
};

}  // namespace conclave
