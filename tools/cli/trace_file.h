// Writes the operators of GPU steps as a Chrome trace (chrome://tracing, Perfetto): one process for
// each worker, one slice for each operator, with its layer, bytes and flops. Source: the Trace
// Event Format. Pure but for the file; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "worker/model/cuda/op_span.h"

namespace conclave {

// The JSON text; times start at 0.
std::string ChromeTrace(const std::vector<OpSpan>& spans);

// InvalidArgument names `flag` when the file cannot be written.
absl::Status WriteChromeTrace(const std::string& flag, const std::string& path,
                              const std::vector<OpSpan>& spans);

}  // namespace conclave
