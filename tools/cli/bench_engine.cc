#include "tools/cli/bench_engine.h"

#include <algorithm>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "comm/device/cuda_memory.h"
#include "kernels/cuda/stream_read.h"
#include "tools/cli/memory_bandwidth.h"

namespace conclave {
namespace {

constexpr int64_t kBandwidthProbeBytes = int64_t{4} << 30;  // several times any last-level cache
constexpr uint64_t kPromptSeed = 1;

}  // namespace

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * values.size()))];
}

std::vector<EngineRequest> RandomRequests(const BenchSize& size, int vocab) {
  Rng rng(kPromptSeed);
  std::vector<EngineRequest> requests(size.batch);
  for (EngineRequest& request : requests) {
    for (int i = 0; i < size.input_tokens; ++i) {
      request.prompt.push_back(static_cast<int32_t>(rng.Below(vocab)));
    }
    request.tokens_max = size.output_tokens;
  }
  return requests;
}

int GpuOf(const ModelOptions& model) {
  const std::string device = DeviceOfWorker(model, 0);
  int index = -1;
  if (device != "cpu") (void)absl::SimpleAtoi(device.substr(5), &index);
  return index;
}

absl::StatusOr<EngineClusterOptions> BenchClusterOptions(const ModelOptions& options,
                                                         const ResolvedModel& model,
                                                         const BenchSize& size) {
  const int context = size.input_tokens + size.output_tokens;
  if (context > model.shape.context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("--input-len ", size.input_tokens, " and --output-len ", size.output_tokens,
                     " exceed the model's ", model.shape.context_tokens, " positions; use less"));
  }
  EngineClusterOptions cluster;
  cluster.shape = model.shape;
  cluster.source = {options.model, model.dummy, 0};
  cluster.spec = model.spec;
  ASSIGN_OR_RETURN(cluster.exchange, ParseExchangeKind(options.exchange));
  ASSIGN_OR_RETURN(cluster.payload, ParsePayloadFormat(options.exchange_dtype));
  cluster.cache.dtype = CacheDtype(options);
  cluster.gpu = GpuOf(options);
  ASSIGN_OR_RETURN(cluster.compute.quantization, ParseQuantization(options.quantization));
  cluster.compute.deterministic = options.deterministic;
  cluster.compute.quant_group = options.quant_group;
  cluster.cache.page_tokens = options.page_tokens;
  const int pages = context / cluster.cache.page_tokens + 1;
  const int sequences = (size.batch + model.spec.dp - 1) / model.spec.dp;
  cluster.cache.pages_max = pages * sequences;
  cluster.threads =
      options.threads > 0 ? options.threads : std::max(1, MachineProcessors() / model.workers);
  cluster.timeout = absl::Minutes(30);
  return cluster;
}

absl::StatusOr<double> MeasureDeviceRead(int gpu) {
  if (gpu < 0) return MeasureReadBandwidth(MachineProcessors(), kBandwidthProbeBytes);
  RETURN_IF_ERROR(UseCudaDevice(gpu));
  return MeasureDeviceReadBandwidth(kBandwidthProbeBytes);
}

}  // namespace conclave
