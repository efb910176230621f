// Whether a generation request makes sense, before anything is queued: what came over HTTP is
// checked here a last time. A pure function; any thread.
#pragma once

#include "absl/status/status.h"
#include "comm/types/model_shape.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

// InvalidArgument names the field, the value and the remedy. Lengths are the batcher's to judge.
absl::Status CheckRequest(const GenerationRequest& request, const ModelShape& shape);

}  // namespace conclave
