// weight_pack_bench: how fast rows are packed into each weight format, as GB/s of bf16 input and as
// a share of what the chip can move; and how fast an SM unpacks tiles again, beside what it must to
// keep up with its memory.
#include <algorithm>
#include <cstdio>
#include <vector>

#include "absl/functional/function_ref.h"
#include "comm/base/status.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "kernels/weight_pack/weight_pack.h"
#include "kernels/weight_pack/weight_pack_test_kit.h"
#if CONCLAVE_CUDA
#include "kernels/cuda/stream_read.h"
#include "kernels/weight_pack/dequant_probe.h"
#endif

namespace conclave {
namespace {

#if CONCLAVE_CUDA

constexpr int kPasses = 8;
constexpr int kRounds = 4096;

struct Clock {
  CudaStreamOwner stream;
  CudaEvent start, end;
};

// The best of several passes, in microseconds.
absl::StatusOr<double> Best(const Clock& clock, absl::FunctionRef<absl::Status()> enqueue) {
  double best = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    RETURN_IF_ERROR(clock.start.Record(clock.stream.get()));
    RETURN_IF_ERROR(enqueue());
    RETURN_IF_ERROR(clock.end.Record(clock.stream.get()));
    RETURN_IF_ERROR(clock.end.Synchronize());
    ASSIGN_OR_RETURN(const double us, clock.end.MicrosecondsSince(clock.start));
    best = std::min(best, us);
  }
  return best;
}

absl::Status BenchPack(const Clock& clock, FormatCase c, double bytes_per_s) {
  WeightView view = MakeView(c, {16384, 8192});
  const int64_t source_bytes = int64_t{view.outputs} * view.inputs * 2;
  ASSIGN_OR_RETURN(const DeviceBuffer tiles, DeviceBuffer::Create(view.matrix_bytes));
  ASSIGN_OR_RETURN(const DeviceBuffer source, DeviceBuffer::Create(source_bytes));
  RETURN_IF_ERROR(FillDevice(source.data(), 0x3c, source_bytes, clock.stream.get()));
  view.data = tiles.data();
  PackRowsArgs args;
  args.out = view;
  args.count = view.outputs;
  args.columns = view.inputs;
  args.source = source.data();
  args.stream = clock.stream.get();
  ASSIGN_OR_RETURN(const double us, Best(clock, [&] { return PackRows(args); }));
  std::printf("pack   %-10s %7.0f GB/s of bf16 input, %4.2f of the roofline\n", CaseName(c).c_str(),
              source_bytes / us * 1e-3,
              (source_bytes + view.matrix_bytes) / us * 1e6 / bytes_per_s);
  return absl::OkStatus();
}

absl::Status BenchUnpack(const Clock& clock, DequantSpeed speed, const CudaDeviceInfo& device,
                         double bytes_per_s) {
  ASSIGN_OR_RETURN(const DeviceBuffer sink, DeviceBuffer::Create(16));
  speed.blocks = 2 * device.sm_count;
  speed.rounds = kRounds;
  speed.sink = sink.as<float>();
  speed.stream = clock.stream.get();
  ASSIGN_OR_RETURN(const double us, Best(clock, [&] { return ProbeDequantSpeed(speed); }));
  const double weights_per_s = 2.0 * 8 * kRounds * kTileElements / us * 1e6;
  const double needed =
      bytes_per_s / device.sm_count / TileBytes(speed.format, speed.group) * kTileElements;
  std::printf("unpack %-10s%s %6.1f G weights/s an SM, %5.1f needed: %4.2f times\n",
              CaseName({speed.format, speed.group}).c_str(), speed.table ? " table" : "      ",
              weights_per_s * 1e-9, needed * 1e-9, weights_per_s / needed);
  return absl::OkStatus();
}

absl::Status RunBench() {
  RETURN_IF_ERROR(CheckCudaDevice(0));
  RETURN_IF_ERROR(UseCudaDevice(0));
  ASSIGN_OR_RETURN(const std::vector<CudaDeviceInfo> devices, ListCudaDevices());
  ASSIGN_OR_RETURN(const double bytes_per_s, MeasureDeviceReadBandwidth(int64_t{1} << 31));
  std::printf("%s, %.2f TB/s read\n", devices[0].name.c_str(), bytes_per_s * 1e-12);
  Clock clock;
  ASSIGN_OR_RETURN(clock.stream, CudaStreamOwner::Create());
  ASSIGN_OR_RETURN(clock.start, CudaEvent::Create());
  ASSIGN_OR_RETURN(clock.end, CudaEvent::Create());
  for (const FormatCase c : AllCases()) RETURN_IF_ERROR(BenchPack(clock, c, bytes_per_s));
  std::vector<DequantSpeed> unpacked = {{.format = WeightFormat::kBf16, .group = 0}};
  for (const FormatCase c : QuantCases()) {
    if (c.group > kTileInputs) continue;
    unpacked.push_back({.format = c.format, .group = c.group});
    if (c.format == WeightFormat::kNf4) {
      unpacked.push_back({.format = c.format, .group = c.group, .table = true});
    }
  }
  for (const DequantSpeed& speed : unpacked) {
    RETURN_IF_ERROR(BenchUnpack(clock, speed, devices[0], bytes_per_s));
  }
  return absl::OkStatus();
}

#else

absl::Status RunBench() { return CheckCudaDevice(0); }

#endif

}  // namespace
}  // namespace conclave

int main() {
  const absl::Status status = conclave::RunBench();
  if (!status.ok()) std::printf("weight_pack_bench: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
