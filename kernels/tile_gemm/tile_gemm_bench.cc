// Times tile_gemm on the products of Qwen3-30B-A3B and OLMoE-1B-7B, prefill and large decode
// batches, as TFLOP/s and as a share of cuBLASLt's 8192^3 rate of the same run; weights that are
// streamed also as a share of the read bandwidth. `--all` adds every kind of tile.
#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/strings/str_cat.h"
#include "comm/base/dtype.h"
#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "kernels/cuda/stream_read.h"
#include "kernels/tile_gemm/cublas_lt.h"
#include "kernels/tile_gemm/tile_gemm.h"

namespace conclave {
namespace {

constexpr int64_t kWeightBytes = int64_t{2200} << 20;
constexpr int64_t kRowsBytes = int64_t{1100} << 20;
constexpr int64_t kSeedBytes = int64_t{64} << 20;
constexpr double kRoundMicroseconds = 12e3;
constexpr int kRounds = 4;

struct Product {
  const char* name;
  int outputs, inputs, rows;
  int matrices = 0;  // 0: dense
  TileEpilogue epilogue = TileEpilogue::kBf16;
};

const Product kProducts[] = {
    {"qwen3 qkv 32x512", 5120, 2048, 16384},
    {"qwen3 o 32x512", 2048, 4096, 16384, 0, TileEpilogue::kFp32Add},
    {"qwen3 gate_up 32x512", 1536, 2048, 131072, 128, TileEpilogue::kSwiGlu},
    {"qwen3 down 32x512", 2048, 768, 131072, 128},
    {"olmoe qkv 32x512", 6144, 2048, 16384},
    {"olmoe o 32x512", 2048, 2048, 16384, 0, TileEpilogue::kFp32Add},
    {"olmoe gate_up 32x512", 2048, 2048, 131072, 64, TileEpilogue::kSwiGlu},
    {"olmoe down 32x512", 2048, 1024, 131072, 64},
    {"qwen3 qkv 8192", 5120, 2048, 8192},
    {"qwen3 gate_up 8192", 1536, 2048, 65536, 128, TileEpilogue::kSwiGlu},
    {"qwen3 down 8192", 2048, 768, 65536, 128},
    {"qwen3 gate_up 2048", 1536, 2048, 16384, 128, TileEpilogue::kSwiGlu},
    {"qwen3 down 2048", 2048, 768, 16384, 128},
    {"qwen3 qkv 512", 5120, 2048, 512},
    {"qwen3 gate_up 512", 1536, 2048, 4096, 128, TileEpilogue::kSwiGlu},
    {"qwen3 down 512", 2048, 768, 4096, 128},
    {"qwen3 gate_up B=256", 1536, 2048, 2048, 128, TileEpilogue::kSwiGlu},
    {"qwen3 down B=256", 2048, 768, 2048, 128},
    {"qwen3 gate_up B=128", 1536, 2048, 1024, 128, TileEpilogue::kSwiGlu},
    {"qwen3 down B=128", 2048, 768, 1024, 128},
    {"olmoe gate_up B=128", 2048, 2048, 1024, 64, TileEpilogue::kSwiGlu},
    {"olmoe down B=128", 2048, 1024, 1024, 64},
    {"qwen3 qkv B=128", 5120, 2048, 128},
    {"qwen3 o B=128", 2048, 4096, 128, 0, TileEpilogue::kFp32Add},
};

struct Bench {
  CudaStreamOwner stream;
  CudaEvent start, end;
  DeviceBuffer weights, x, out, groups;
  int sm_count = 132;
  double cublas_flops = 0;  // a second
  double read_bytes = 0;    // a second

  // Microseconds of one call: the best of some rounds of a graph of calls.
  absl::StatusOr<double> Time(absl::FunctionRef<absl::Status(int)> enqueue) const {
    RETURN_IF_ERROR(enqueue(0));  // the first run of a kernel also loads it
    ASSIGN_OR_RETURN(const double one, Microseconds([&] { return enqueue(0); }));
    const int calls = std::clamp(static_cast<int>(kRoundMicroseconds / one) + 1, 3, 400);
    ASSIGN_OR_RETURN(const CudaGraph graph, CudaGraph::Capture(stream.get(), [&] {
                       for (int i = 0; i < calls; ++i) RETURN_IF_ERROR(enqueue(i));
                       return absl::OkStatus();
                     }));
    double best = 1e30;
    for (int round = 0; round < kRounds; ++round) {
      ASSIGN_OR_RETURN(const double us, Microseconds([&] { return graph.Launch(stream.get()); }));
      best = std::min(best, us / calls);
    }
    return best;
  }

  absl::StatusOr<double> Microseconds(absl::FunctionRef<absl::Status()> enqueue) const {
    RETURN_IF_ERROR(start.Record(stream.get()));
    RETURN_IF_ERROR(enqueue());
    RETURN_IF_ERROR(end.Record(stream.get()));
    RETURN_IF_ERROR(end.Synchronize());
    return end.MicrosecondsSince(start);
  }
};

// Random values of a pool, repeated.
absl::StatusOr<DeviceBuffer> RandomBuffer(int64_t bytes, float scale, CudaStream stream) {
  Rng rng(17);
  std::vector<uint16_t> seed(kSeedBytes / 2);
  for (size_t i = 0; i < seed.size(); i += 2) {
    const uint64_t bits = rng.Next();
    for (int half = 0; half < 2; ++half) {
      const auto drawn = static_cast<int32_t>(bits >> (32 * half));
      seed[i + half] = FloatToBf16(static_cast<float>(drawn) * scale / 2147483648.0f);
    }
  }
  ASSIGN_OR_RETURN(DeviceBuffer buffer, DeviceBuffer::Create(bytes));
  for (int64_t at = 0; at < bytes; at += kSeedBytes) {
    RETURN_IF_ERROR(CopyToDevice(buffer.as<char>() + at, seed.data(),
                                 std::min(kSeedBytes, bytes - at), stream));
  }
  return buffer;
}

absl::StatusOr<Bench> MakeBench() {
  Bench bench;
  ASSIGN_OR_RETURN(const std::vector<CudaDeviceInfo> devices, ListCudaDevices());
  bench.sm_count = devices[0].sm_count;
  RETURN_IF_ERROR(UseCudaDevice(devices[0].index));
  ASSIGN_OR_RETURN(bench.stream, CudaStreamOwner::Create());
  ASSIGN_OR_RETURN(bench.start, CudaEvent::Create());
  ASSIGN_OR_RETURN(bench.end, CudaEvent::Create());
  ASSIGN_OR_RETURN(bench.weights, RandomBuffer(kWeightBytes, 0.05f, bench.stream.get()));
  ASSIGN_OR_RETURN(bench.x, RandomBuffer(kRowsBytes, 1, bench.stream.get()));
  ASSIGN_OR_RETURN(bench.out, DeviceBuffer::Create(kRowsBytes));
  ASSIGN_OR_RETURN(bench.groups, DeviceBuffer::Create((kTileMatricesMax + 1) * 4));
  RETURN_IF_ERROR(FillDevice(bench.out.data(), 0, kRowsBytes, bench.stream.get()));
  RETURN_IF_ERROR(bench.stream.Synchronize());
  ASSIGN_OR_RETURN(bench.read_bytes, MeasureDeviceReadBandwidth(kRowsBytes));
  std::printf("%s, %d processors; reads %.2f TB/s\n", devices[0].name.c_str(), bench.sm_count,
              bench.read_bytes / 1e12);
  return bench;
}

// Uneven sizes: of each matrix between a quarter and 1.75 of the average.
std::vector<int32_t> GroupFirsts(const Product& product) {
  Rng rng(5);
  std::vector<double> shares(product.matrices);
  double sum = 0;
  for (double& share : shares) sum += share = 0.25 + 1.5 * rng.Uniform();
  std::vector<int32_t> firsts = {0};
  double before = 0;
  for (const double share : shares) {
    before += share;
    firsts.push_back(static_cast<int32_t>(before / sum * product.rows + 0.5));
  }
  return firsts;
}

int TouchedMatrices(const Product& product, const std::vector<int32_t>& firsts) {
  int touched = 0;
  for (int m = 0; m < product.matrices; ++m) touched += firsts[m + 1] > firsts[m];
  return product.matrices == 0 ? 1 : touched;
}

struct Run {
  TileConfig config;
  int64_t touched_bytes = 0;  // weights, rows and results
};

absl::Status PrintRun(const Bench& bench, const Product& product, const TileGemmArgs& args,
                      const Run& run) {
  const int64_t matrices = std::max(product.matrices, 1);
  const int64_t bytes = matrices * args.weights.matrix_bytes;
  const int64_t copies = std::max<int64_t>(1, kWeightBytes / bytes);
  const auto us = bench.Time([&](int i) {
    TileGemmArgs call = args;
    call.weights.data = bench.weights.as<char>() + i % copies * bytes;
    return TileGemm(call, run.config);
  });
  if (!us.ok()) return us.status();
  const double flops = 2.0 * product.rows * product.outputs * product.inputs;
  static constexpr const char* kNames[] = {"wide", "square", "narrow"};
  std::printf(
      "%-22s %-6s %9.3f GFLOP %8.1f MB %9.1f us %6.1f TFLOP/s %5.1f%% of cuBLASLt "
      "%5.2f TB/s %5.1f%% of read\n",
      product.name, kNames[static_cast<int>(run.config.kind)], flops / 1e9, run.touched_bytes / 1e6,
      *us, flops / *us / 1e6, 100 * flops / *us * 1e6 / bench.cublas_flops,
      run.touched_bytes / *us / 1e6, 100 * run.touched_bytes / *us * 1e6 / bench.read_bytes);
  std::fflush(stdout);
  return absl::OkStatus();
}

absl::StatusOr<double> CublasRate(const Bench& bench, CublasLt& cublas, CublasProduct product) {
  product.x = bench.x.data();
  product.w = bench.weights.data();
  product.out = bench.out.data();
  ASSIGN_OR_RETURN(const double us,
                   bench.Time([&](int) { return cublas.Multiply(product, bench.stream.get()); }));
  return 2.0 * product.rows * product.outputs * product.inputs / us * 1e6;
}

absl::Status RunProduct(const Bench& bench, const Product& product, bool all, CublasLt* cublas) {
  TileGemmArgs args;
  args.weights.outputs = product.outputs;
  args.weights.inputs = product.inputs;
  args.weights.matrices = std::max(product.matrices, 1);
  args.weights.matrix_bytes =
      int64_t{2} * args.weights.output_tiles() * args.weights.input_tiles() * kTileElements;
  args.x = bench.x.data();
  args.x_stride = product.inputs;
  args.rows = product.rows;
  args.epilogue = product.epilogue;
  args.out = bench.out.data();
  args.out_stride = TileOutColumns(args);
  args.stream = bench.stream.get();
  std::vector<int32_t> firsts;
  if (product.matrices > 0) {
    firsts = GroupFirsts(product);
    RETURN_IF_ERROR(CopyToDevice(bench.groups.data(), firsts.data(),
                                 static_cast<int64_t>(firsts.size()) * 4, args.stream));
    args.group_first = bench.groups.as<int32_t>();
  }
  const int out_bytes = product.epilogue == TileEpilogue::kFp32Add ? 8 : 2;
  Run run;
  run.touched_bytes = TouchedMatrices(product, firsts) * args.weights.matrix_bytes +
                      int64_t{2} * product.rows * product.inputs +
                      int64_t{out_bytes} * product.rows * args.out_stride;
  const TileGemmShape shape = {product.outputs, product.inputs, product.rows, product.matrices,
                               bench.sm_count};
  ASSIGN_OR_RETURN(run.config, ChooseTileConfig(shape));
  RETURN_IF_ERROR(PrintRun(bench, product, args, run));
  if (product.matrices == 0 && cublas != nullptr) {
    ASSIGN_OR_RETURN(const double rate,
                     CublasRate(bench, *cublas, {product.rows, product.outputs, product.inputs}));
    std::printf("%-22s cuBLASLt (bf16 out) %.1f TFLOP/s\n", product.name, rate / 1e12);
  }
  if (!all) return absl::OkStatus();
  for (const TileKind kind : {TileKind::kWide, TileKind::kSquare, TileKind::kNarrow}) {
    run.config = MakeTileConfig(shape, kind);
    RETURN_IF_ERROR(PrintRun(bench, product, args, run));
  }
  return absl::OkStatus();
}

absl::Status RunAll(bool all) {
  ASSIGN_OR_RETURN(Bench bench, MakeBench());
  auto cublas = CublasLt::Create();
  if (cublas.ok()) {
    ASSIGN_OR_RETURN(bench.cublas_flops, CublasRate(bench, **cublas, {8192, 8192, 8192}));
    std::printf("cuBLASLt 8192^3: %.1f TFLOP/s\n", bench.cublas_flops / 1e12);
  } else {
    std::printf("no cuBLASLt: %s\n", cublas.status().ToString().c_str());
  }
  for (const Product& product : kProducts) {
    const absl::Status status =
        RunProduct(bench, product, all, cublas.ok() ? cublas->get() : nullptr);
    if (!status.ok()) return WithContext(status, product.name);
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  const absl::Status status = conclave::RunAll(argc > 1 && std::string(argv[1]) == "--all");
  if (!status.ok()) std::printf("%s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
