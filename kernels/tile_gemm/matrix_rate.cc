#include "kernels/tile_gemm/matrix_rate.h"

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "comm/base/dtype.h"
#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "comm/device/cuda_memory.h"
#include "kernels/tile_gemm/cublas_lt.h"
#include "kernels/tile_gemm/tile_gemm.h"

namespace conclave {
namespace {

constexpr int64_t kSide = 8192;
constexpr int kRuns = 8;

// Random values, uploaded once and copied over the buffer: zeros would run faster than real data.
absl::Status FillRandom(const DeviceBuffer& buffer, CudaStream stream) {
  std::vector<uint16_t> values(1 << 20);
  Rng rng(7);
  for (uint16_t& value : values) {
    value = FloatToBf16(static_cast<float>(rng.Uniform() * 2 - 1));
  }
  const int64_t bytes = static_cast<int64_t>(values.size()) * 2;
  for (int64_t at = 0; at < buffer.bytes(); at += bytes) {
    RETURN_IF_ERROR(CopyToDevice(buffer.as<uint8_t>() + at, values.data(),
                                 std::min(bytes, buffer.bytes() - at), stream));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<double> MeasureMatrixRate() {
  ASSIGN_OR_RETURN(const CudaStreamOwner stream, CudaStreamOwner::Create());
  ASSIGN_OR_RETURN(const DeviceBuffer x, DeviceBuffer::Create(kSide * kSide * 2));
  ASSIGN_OR_RETURN(const DeviceBuffer w, DeviceBuffer::Create(kSide * kSide * 2));
  ASSIGN_OR_RETURN(const DeviceBuffer out, DeviceBuffer::Create(kSide * kSide * 2));
  RETURN_IF_ERROR(FillRandom(x, stream.get()));
  RETURN_IF_ERROR(FillRandom(w, stream.get()));
  TileGemmArgs args;
  args.weights = {w.data(), kSide * kSide * 2, kSide, kSide};
  args.x = x.data();
  args.x_stride = kSide;
  args.rows = kSide;
  args.out = out.data();
  args.out_stride = kSide;
  args.stream = stream.get();
  ASSIGN_OR_RETURN(const int processors, CurrentDeviceProcessors());
  ASSIGN_OR_RETURN(const TileConfig config, ChooseTileConfig({kSide, kSide, kSide, 0, processors}));
  const absl::StatusOr<std::unique_ptr<CublasLt>> library = CublasLt::Create();
  ASSIGN_OR_RETURN(const CudaEvent start, CudaEvent::Create());
  ASSIGN_OR_RETURN(const CudaEvent end, CudaEvent::Create());
  double best_us = 0;
  for (int run = 0; run < kRuns; ++run) {
    RETURN_IF_ERROR(start.Record(stream.get()));
    if (library.ok()) {
      RETURN_IF_ERROR((*library)->Multiply({kSide, kSide, kSide, x.data(), w.data(), out.data()},
                                           stream.get()));
    } else {
      RETURN_IF_ERROR(TileGemm(args, config));
    }
    RETURN_IF_ERROR(end.Record(stream.get()));
    RETURN_IF_ERROR(end.Synchronize());
    ASSIGN_OR_RETURN(const double us, end.MicrosecondsSince(start));
    if (run > 1) best_us = best_us == 0 ? us : std::min(best_us, us);
  }
  return 2.0 * kSide * kSide * kSide / best_us * 1e6;
}

}  // namespace conclave
