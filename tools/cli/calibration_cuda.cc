#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/device/cuda_memory.h"
#include "kernels/cuda/stream_read.h"
#include "kernels/sbi_gemm/sbi_gemm.h"
#include "kernels/tile_gemm/matrix_rate.h"
#include "tools/cli/calibration.h"

namespace conclave {
namespace {

constexpr int64_t kReadBytes = int64_t{4} << 30;
constexpr int64_t kChainBytes = int64_t{2} << 30;  // of weights in one graph, each read once
constexpr int64_t kCopyBytes = int64_t{256} << 20;
constexpr int kLarge = 4096;  // a 34 MB matrix of bf16: the experts of a layer
constexpr int kSmall = 256;   // one whose bytes take no time
constexpr int kSmallKernels = 256;
constexpr int kRuns = 7;
// Bits of a small bf16 value, and of a small fp32 one: neither zero, denormal nor special.
constexpr uint8_t kFill = 0x3c;

// Seconds of `enqueue`, by events: the median run.
absl::StatusOr<double> TimeGraph(const CudaStreamOwner& stream,
                                 absl::FunctionRef<absl::Status()> enqueue) {
  ASSIGN_OR_RETURN(const CudaGraph graph, CudaGraph::Capture(stream.get(), enqueue));
  ASSIGN_OR_RETURN(const CudaEvent begin, CudaEvent::Create());
  ASSIGN_OR_RETURN(const CudaEvent end, CudaEvent::Create());
  std::vector<double> micros;
  for (int run = 0; run < kRuns; ++run) {
    RETURN_IF_ERROR(begin.Record(stream.get()));
    RETURN_IF_ERROR(graph.Launch(stream.get()));
    RETURN_IF_ERROR(end.Record(stream.get()));
    RETURN_IF_ERROR(stream.Synchronize());
    ASSIGN_OR_RETURN(const double one, end.MicrosecondsSince(begin));
    micros.push_back(one);
  }
  std::nth_element(micros.begin(), micros.begin() + kRuns / 2, micros.end());
  return micros[kRuns / 2] * 1e-6;
}

// Products of one token with matrices of `size` x `size`, each `count`-th with its own weights, as
// one graph.
struct Chain {
  int size = 0;
  int count = 0;
};

absl::StatusOr<double> TimeChain(const Chain& chain, const CudaStreamOwner& stream) {
  const int64_t matrix_bytes = int64_t{2} * chain.size * chain.size;
  ASSIGN_OR_RETURN(const DeviceBuffer weights, DeviceBuffer::Create(matrix_bytes * chain.count));
  ASSIGN_OR_RETURN(const DeviceBuffer x, DeviceBuffer::Create(2 * chain.size));
  constexpr int kSplitsMax = 1;
  ASSIGN_OR_RETURN(const DeviceBuffer out, DeviceBuffer::Create(int64_t{4} * chain.size));
  for (const DeviceBuffer* buffer : {&weights, &x}) {
    RETURN_IF_ERROR(FillDevice(buffer->data(), kFill, buffer->bytes(), stream.get()));
  }
  RETURN_IF_ERROR(stream.Synchronize());
  SbiShape shape;
  shape.outputs = shape.inputs = chain.size;
  shape.tokens = 1;
  shape.splits_max = kSplitsMax;
  ASSIGN_OR_RETURN(shape.sm_count, CurrentDeviceProcessors());
  ASSIGN_OR_RETURN(const SbiConfig config, ChooseSbiConfig(shape));
  return TimeGraph(stream, [&]() -> absl::Status {
    for (int i = 0; i < chain.count; ++i) {
      SbiArgs args;
      args.weights.data = weights.as<uint8_t>() + i * matrix_bytes;
      args.weights.matrix_bytes = matrix_bytes;
      args.weights.outputs = args.weights.inputs = chain.size;
      args.tokens = 1;
      args.rows = {x.data(), chain.size};
      args.out = out.as<float>();
      args.out_stride = args.slab_stride = chain.size;
      RETURN_IF_ERROR(SbiGemm(args, config, {.stream = stream.get(), .dependent = true}));
    }
    return absl::OkStatus();
  });
}

absl::StatusOr<double> HostRate(const CudaStreamOwner& stream) {
  ASSIGN_OR_RETURN(const PinnedBuffer host, PinnedBuffer::Create(kCopyBytes));
  ASSIGN_OR_RETURN(const DeviceBuffer device, DeviceBuffer::Create(kCopyBytes));
  ASSIGN_OR_RETURN(const double seconds, TimeGraph(stream, [&] {
                     return CopyToDevice(device.data(), host.data(), kCopyBytes, stream.get());
                   }));
  return kCopyBytes / seconds;
}

}  // namespace

absl::StatusOr<DeviceCalibration> CalibrateCuda(int index) {
  RETURN_IF_ERROR(UseCudaDevice(index));
  DeviceCalibration found;
  ASSIGN_OR_RETURN(found.read_bandwidth, MeasureDeviceReadBandwidth(kReadBytes));
  ASSIGN_OR_RETURN(found.bf16_flops, MeasureMatrixRate());
  ASSIGN_OR_RETURN(const CudaStreamOwner stream, CudaStreamOwner::Create());
  constexpr int64_t kMatrixBytes = int64_t{2} * kLarge * kLarge;
  const Chain large = {kLarge, static_cast<int>(kChainBytes / kMatrixBytes)};
  ASSIGN_OR_RETURN(const double stream_seconds, TimeChain(large, stream));
  found.stream_bandwidth = static_cast<double>(large.count * kMatrixBytes) / stream_seconds;
  ASSIGN_OR_RETURN(const double chain_seconds, TimeChain({kSmall, kSmallKernels}, stream));
  found.kernel_seconds = chain_seconds / kSmallKernels;
  ASSIGN_OR_RETURN(found.host_bandwidth, HostRate(stream));
  return found;
}

}  // namespace conclave
