// MakeClusterStatus: the picture of the cluster as operators see it, put together from the
// coordinator's state machines. A pure function; on the coordinator's thread, which owns what it
// reads.
#pragma once

#include "absl/time/time.h"
#include "coordinator/membership/member_table.h"
#include "coordinator/membership/placement_epoch.h"
#include "coordinator/request/serving_loop.h"
#include "coordinator/service/cluster_status.h"

namespace conclave {

struct ClusterView {
  const MemberTable& members;
  const PlacementEpoch* epoch = nullptr;  // null: none
  const ServingLoop& loop;
};

// The fields that come from those; the caller fills in state, texts, model and events.
ClusterStatus MakeClusterStatus(const ClusterView& view, absl::Time now);

}  // namespace conclave
