// MemberTable: which workers are here, and which are lost. A pure state machine over what they say
// and the time: hellos and heartbeats go in, losses come out; the actor sends. A worker is silent,
// suspect at 300 ms and lost at 1 s, or it speaks and does not advance, as a hung device does.
// Owned by the coordinator actor, on its thread.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "comm/base/strong_id.h"
#include "comm/types/worker_facts.h"
#include "coordinator/service/cluster_status.h"

namespace conclave {

struct MemberOptions {
  absl::Duration suspect_after = absl::Milliseconds(300);
  absl::Duration lost_after = absl::Seconds(1);
  absl::Duration step_stall = absl::Seconds(10);  // steps queued, no progress
  absl::Duration load_stall = absl::Seconds(60);  // loading or connecting, no progress
  size_t members_max = 65536;
};

struct Member {
  WorkerId id;
  Hello hello;
  // Set by the owner: kLoading while it loads or connects, kPrepared while it waits for others,
  // kReady.
  WorkerState state = WorkerState::kJoined;
  absl::Time heard;
  bool peer_lost = false;  // the transport saw it go and nothing came since
  Epoch epoch;             // of its newest heartbeat
  Heartbeat heartbeat;
  absl::Time advanced;  // when it last made progress or had nothing to do

  // "worker w3 (pid 4711 on node-a)": how errors name it.
  std::string Describe() const;
};

struct MemberLoss {
  Member member;
  std::string reason;  // "silent for 1.0s"
};

class MemberTable {
 public:
  explicit MemberTable(MemberOptions options) : options_(options) {}

  enum class HelloOutcome {
    kKnown,  // here already
    kJoined,
    kRestarted,  // the name came back with a new WorkerId; the former process is gone
    kRefused,    // a late hello of a process that left or was replaced, or the table is full
  };
  // `hello.name` is the peer the message came from.
  HelloOutcome OnHello(const Hello& hello, WorkerId id, absl::Time now);

  // False when `name` is not a member under this id: it was declared lost, or never said hello.
  bool OnHeartbeat(const std::string& name, WorkerId id, Epoch epoch, const Heartbeat& heartbeat,
                   absl::Time now);
  // Any other message of a member counts as a sign of life. False as above.
  bool OnHeard(const std::string& name, WorkerId id, absl::Time now);

  // The transport lost sight: the worker is lost when it stays silent for the suspect time.
  void OnPeerLost(const std::string& name);

  // A new phase of work begins: progress is counted from here.
  void SetState(const std::string& name, WorkerState state, absl::Time now);

  // The caller itself did not run for `duration` (it was stopped, or starved of CPU): what workers
  // said meanwhile has not been read yet, so the time does not count against them.
  void Forgive(absl::Duration duration);

  // Removes and returns the members that are lost at `now`, by name.
  std::vector<MemberLoss> Expire(absl::Time now);

  // Removes a member; its id may not come back when `for_good` (it said goodbye).
  void Remove(const std::string& name, bool for_good);

  const Member* Find(const std::string& name) const;
  bool IsSuspect(const Member& member, absl::Time now) const;
  // By name.
  const std::map<std::string, Member>& members() const { return members_; }

 private:
  std::string LossReason(const Member& member, absl::Time now) const;

  const MemberOptions options_;
  std::map<std::string, Member> members_;
  std::deque<WorkerId> left_;  // ids that may not come back, the last kFormerMax
  // Ids that made room for another of their name, the last kFormerMax. They stay out while that one
  // speaks: which of two is the former process only time can tell, as hellos overtake one another.
  std::deque<WorkerId> replaced_;
};

}  // namespace conclave
