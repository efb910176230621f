// The exact products of a decode step and of a prefill: milliseconds, GB/s of weights beside the
// device's read bandwidth, and TFLOP/s.
#include <cstdio>
#include <cstring>

#include "comm/base/dtype.h"
#include "comm/device/cuda_device.h"
#include "kernels/cuda/stream_read.h"
#include "kernels/exact/exact.h"
#include "kernels/exact/exact_product.h"
#include "kernels/exact/exact_test_kit.h"

namespace conclave {
namespace {

constexpr int kOutputs = 5120, kInputs = 2048;
constexpr int kMatrices = 16;  // together larger than the L2 cache

void Check(const absl::Status& status) { CHECK(status.ok()) << status; }

template <typename T>
T Value(absl::StatusOr<T> value) {
  CHECK(value.ok()) << value.status();
  return *std::move(value);
}

// Milliseconds of one call, the best of three runs over `calls`.
template <typename Run>
double Measure(int calls, CudaStream stream, Run run) {
  const CudaEvent begin = Value(CudaEvent::Create()), end = Value(CudaEvent::Create());
  double best = 1e9;
  for (int pass = 0; pass < 4; ++pass) {
    Check(begin.Record(stream));
    for (int i = 0; i < calls; ++i) Check(run(i));
    Check(end.Record(stream));
    Check(end.Synchronize());
    const double ms = Value(end.MicrosecondsSince(begin)) / 1000 / calls;
    if (pass > 0) best = std::min(best, ms);
  }
  return best;
}

// Random numbers, fp32 or bf16, a period of them again and again. With zeros the chip would draw
// less power and clock higher than in earnest.
DeviceBuffer Random(int64_t bytes, bool bf16) {
  DeviceBuffer buffer = Value(DeviceBuffer::Create(bytes));
  const std::vector<float> values = UniformFloats(1 << 20, 1);
  std::vector<uint8_t> period(values.size() * 4);
  if (bf16) {
    for (size_t i = 0; i < 2 * values.size(); ++i) {
      const uint16_t bits = FloatToBf16(values[i % values.size()]);
      std::memcpy(period.data() + 2 * i, &bits, 2);
    }
  } else {
    std::memcpy(period.data(), values.data(), period.size());
  }
  for (int64_t at = 0; at < bytes; at += static_cast<int64_t>(period.size())) {
    const int64_t left = std::min<int64_t>(bytes - at, static_cast<int64_t>(period.size()));
    Check(CopyToDevice(buffer.as<uint8_t>() + at, period.data(), left, nullptr));
  }
  return buffer;
}

constexpr bool kBf16 = true, kFp32 = false;

// Which kernel, or ExactGemm's own choice.
enum class Kernel { kChosen, kStream8, kStream16, kTile };

struct GemmBench {
  int outputs, inputs, calls;
  int64_t rows;
  Kernel kernel = Kernel::kChosen;
};

absl::Status RunKernel(const GemmBench& b, const ExactGemmArgs& args, CudaStream stream) {
  if (b.kernel == Kernel::kChosen) return ExactGemm(args, stream);
  ExactProduct product;
  product.x = args.x;
  product.x_stride = args.x_stride;
  product.x_aligned = true;
  product.weights = args.weights;
  product.y = args.y;
  product.y_stride = args.y_stride;
  product.columns = args.weights.outputs;
  product.entries = static_cast<int32_t>(args.rows);
  if (b.kernel == Kernel::kTile) return LaunchExactTile(product, stream);
  return LaunchExactStream(product, b.kernel == Kernel::kStream8 ? 8 : 16, stream);
}

void RunGemm(const GemmBench& b, double read, CudaStream stream) {
  WeightView view;
  view.outputs = b.outputs;
  view.inputs = b.inputs;
  view.matrix_bytes = int64_t{view.output_tiles()} * view.input_tiles() * kTileElements * 2;
  const DeviceBuffer weights = Random(view.matrix_bytes * kMatrices, kBf16);
  const DeviceBuffer x = Random(b.rows * b.inputs * 4, kFp32),
                     y = Random(b.rows * b.outputs * 4, kFp32);
  Check(SynchronizeCudaDevice());
  const double ms = Measure(b.calls, stream, [&](int i) {
    ExactGemmArgs args;
    args.x = x.as<float>();
    args.x_stride = b.inputs;
    args.rows = b.rows;
    args.weights = view;
    args.weights.data = weights.as<uint8_t>() + i % kMatrices * view.matrix_bytes;
    args.y = y.as<float>();
    args.y_stride = b.outputs;
    return RunKernel(b, args, stream);
  });
  const double bytes = static_cast<double>(view.matrix_bytes);
  const char* const names[] = {"chosen  ", "stream8 ", "stream16", "tile    "};
  std::printf("gemm %s %6dx%d rows %5ld: %8.4f ms %7.0f GB/s (%3.0f %% of read) %6.2f TFLOP/s\n",
              names[static_cast<int>(b.kernel)], b.outputs, b.inputs, static_cast<long>(b.rows), ms,
              bytes / ms * 1e-6, bytes / ms * 1e-6 / (read * 1e-9) * 100,
              2.0 * b.outputs * b.inputs * static_cast<double>(b.rows) / ms * 1e-9);
}

// 128 experts of 768 by 2048, eight for each of `tokens` tokens.
void RunFfn(int tokens, CudaStream stream) {
  constexpr int kSlots = 128, kFfn = 768, kTopK = 8;
  WeightView up, down;
  up.outputs = 2 * kFfn, up.inputs = kInputs, up.matrices = kSlots;
  up.matrix_bytes = int64_t{up.output_tiles()} * up.input_tiles() * kTileElements * 2;
  down.outputs = kInputs, down.inputs = kFfn, down.matrices = kSlots;
  down.matrix_bytes = int64_t{down.output_tiles()} * down.input_tiles() * kTileElements * 2;
  const DeviceBuffer up_tiles = Random(up.matrix_bytes * kSlots, kBf16);
  const DeviceBuffer down_tiles = Random(down.matrix_bytes * kSlots, kBf16);
  up.data = up_tiles.data();
  down.data = down_tiles.data();
  const int entries = tokens * kTopK;
  std::vector<int32_t> first = {0}, order, row(entries);
  for (int s = 0; s < kSlots; ++s) {
    for (int e = 0; e < entries; ++e) {
      row[e] = e / kTopK;
      if ((e / kTopK * 29 + e % kTopK * 17) % kSlots == s) order.push_back(e);
    }
    first.push_back(static_cast<int32_t>(order.size()));
  }
  const OnDevice<int32_t> device_first(first), device_order(order), device_row(row);
  const DeviceBuffer x = Random(int64_t{tokens} * kInputs * 4, kFp32);
  const DeviceBuffer inner = Random(int64_t{entries} * kFfn * 4, kFp32);
  const DeviceBuffer out = Random(int64_t{entries} * kInputs * 4, kFp32);
  Check(SynchronizeCudaDevice());
  ExactFfnArgs args;
  args.x = x.as<float>();
  args.x_stride = kInputs;
  args.gate_up = up;
  args.down = down;
  args.entries = entries;
  args.slot_first = device_first.get();
  args.order = device_order.get();
  args.row_of_entry = device_row.get();
  args.inner = inner.as<float>();
  args.inner_stride = kFfn;
  args.out = out.as<float>();
  args.out_stride = kInputs;
  const double ms = Measure(8, stream, [&](int) { return ExactFfn(args, stream); });
  std::printf("ffn 128 x 768x2048 tokens %5d: %8.4f ms %6.2f TFLOP/s\n", tokens, ms,
              6.0 * kFfn * kInputs * entries / ms * 1e-9);
}

// One layer of 32 query and 4 kv heads of 128, `tokens` new ones after `prefix`.
void RunAttention(int sequences, int tokens, int prefix, CudaStream stream) {
  constexpr int kHeads = 32, kKvHeads = 4, kHeadDim = 128, kPage = 16;
  const int pages = (prefix + tokens + kPage - 1) / kPage;
  KvLayer cache = {nullptr, Dtype::kBf16, pages * sequences, kPage, kKvHeads, kHeadDim};
  const DeviceBuffer memory = Random(cache.PageBytes() * cache.pages, kBf16);
  cache.data = memory.data();
  std::vector<int32_t> first_token = {0}, position, first_page = {0}, table;
  for (int s = 0; s < sequences; ++s) {
    first_token.push_back(first_token.back() + tokens);
    position.push_back(prefix);
    for (int p = 0; p < pages; ++p) table.push_back(s * pages + p);
    first_page.push_back(static_cast<int32_t>(table.size()));
  }
  const OnDevice<int32_t> dt(first_token), dp(position), df(first_page), dtable(table);
  const int64_t rows = int64_t{sequences} * tokens, cols = kHeads * kHeadDim;
  const DeviceBuffer q = Random(rows * cols * 4, kFp32), out = Random(rows * cols * 4, kFp32);
  Check(SynchronizeCudaDevice());
  ExactAttentionArgs args;
  args.batch = {dt.get(), dp.get(), df.get(), dtable.get(), sequences, static_cast<int32_t>(rows)};
  args.q = {q.as<float>(), rows, cols, cols};
  args.cache = cache;
  args.heads = kHeads;
  args.scale = 0.088388346f;
  args.out = {out.as<float>(), rows, cols, cols};
  const double ms = Measure(4, stream, [&](int) { return ExactPagedAttention(args, stream); });
  std::printf("attention 32/4 x 128, %3d x %4d tokens after %5d: %8.4f ms\n", sequences, tokens,
              prefix, ms);
}

int Main() {
  const absl::Status device = CheckCudaDevice(0);
  if (!device.ok()) {
    std::printf("skipped: %s\n", std::string(device.message()).c_str());
    return 0;
  }
  Check(UseCudaDevice(0));
  const double read = Value(MeasureDeviceReadBandwidth(int64_t{2} << 30));
  std::printf("read bandwidth %.0f GB/s\n", read * 1e-9);
  const CudaStreamOwner stream = Value(CudaStreamOwner::Create());
  for (const int64_t rows : {1, 2, 4, 8, 16, 32, 64, 128, 512, 2048}) {
    RunGemm({kOutputs, kInputs, 32, rows}, read, stream.get());
    if (rows <= 8) continue;
    for (const Kernel kernel : {Kernel::kStream8, Kernel::kStream16, Kernel::kTile}) {
      RunGemm({kOutputs, kInputs, 8, rows, kernel}, read, stream.get());
    }
  }
  RunGemm({151936, kInputs, 4, 1}, read, stream.get());
  RunGemm({128, kInputs, 16, 2048}, read, stream.get());
  for (const int tokens : {1, 8, 32, 512, 2048}) RunFfn(tokens, stream.get());
  RunAttention(1, 1, 128, stream.get());
  RunAttention(1, 1, 4096, stream.get());
  RunAttention(32, 1, 512, stream.get());
  RunAttention(1, 2048, 0, stream.get());
  return 0;
}

}  // namespace
}  // namespace conclave

int main() { return conclave::Main(); }
