// Strike: carries a fault out on a process or a host of a HostNet, and takes it back where that is
// possible. One thread, that of the net's owner.
#pragma once

#include "absl/status/status.h"
#include "tests/hosts/fault_plan.h"
#include "tests/hosts/host_net.h"
#include "tests/hosts/rank_process.h"

namespace conclave {

// `host` is the victim's.
absl::Status Strike(FaultKind kind, HostNet& net, int host, RankProcess& victim);

// After the survivors have reported: the host's link as it was, a stopped process killed.
absl::Status Heal(FaultKind kind, HostNet& net, int host, RankProcess& victim);

}  // namespace conclave
