#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "kernels/exact/exact_gemm.h"
#include "kernels/exact/exact_product.h"

namespace conclave {
namespace {

bool IsSliceCount(int slices) { return slices == 1 || slices == 2 || slices == 4 || slices == 8; }

bool IsExactFormat(WeightFormat format) {
  return format == WeightFormat::kBf16 || format == WeightFormat::kF16 ||
         format == WeightFormat::kF32;
}

bool CanReadBy16(const float* x, int64_t stride) {
  return reinterpret_cast<uintptr_t>(x) % 16 == 0 && stride % 4 == 0;
}

absl::Status CheckWeights(const WeightView& weights, int slices) {
  if (!IsExactFormat(weights.format)) {
    return absl::InvalidArgumentError("exact gemm: weights must be bf16, f16 or f32");
  }
  if (!IsSliceCount(slices)) {
    return absl::InvalidArgumentError(
        absl::StrCat("exact gemm: ", slices, " slices; 1, 2, 4 or 8 are possible"));
  }
  if (weights.data == nullptr || weights.inputs <= 0 || weights.outputs <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("exact gemm: no weights [", weights.outputs, ", ", weights.inputs, "]"));
  }
  if (reinterpret_cast<uintptr_t>(weights.data) % 16 != 0 || weights.matrix_bytes % 16 != 0) {
    return absl::InvalidArgumentError("exact gemm: weights must be 16-byte aligned");
  }
  return absl::OkStatus();
}

// Rows of a block that streams the weights. Rows that a block lacks cost little; a slot with more
// rows than a block takes reads its weights again, mostly from L2.
int StreamRows(const ExactProduct& product) {
  const int64_t entries = product.entries;
  if (product.slot_first == nullptr) {
    return entries <= 1 ? 1 : entries <= 2 ? 2 : entries <= 4 ? 4 : entries <= 8 ? 8 : 16;
  }
  constexpr int64_t kOneTokenEntries = 16;  // probably all of different slots
  const int64_t slots = product.weights.matrices;
  if (entries <= kOneTokenEntries) return 1;
  return entries <= slots ? 4 : entries <= 4 * slots ? 8 : 16;
}

// Register tiles pay where there are enough of them to fill the device, and rows to fill them.
absl::Status LaunchProduct(const ExactProduct& product, CudaStream stream) {
  constexpr int64_t kTileBlocksMin = 64;
  constexpr int64_t kTileRowsMin = 48;  // of a slot on average
  const int64_t slots = product.slot_first == nullptr ? 1 : product.weights.matrices;
  const int64_t rows = (product.entries + slots - 1) / slots;
  const int64_t tiles = (rows + 127) / 128 * slots * ((product.weights.outputs + 127) / 128);
  if (rows >= kTileRowsMin && tiles >= kTileBlocksMin) return LaunchExactTile(product, stream);
  return LaunchExactStream(product, StreamRows(product), stream);
}

}  // namespace

absl::Status ExactGemm(const ExactGemmArgs& args, CudaStream stream) {
  RETURN_IF_ERROR(CheckWeights(args.weights, args.slices));
  if (args.rows < 0 || args.rows > INT32_MAX || args.x_stride < args.weights.inputs ||
      args.y_stride < args.weights.outputs) {
    return absl::InvalidArgumentError(absl::StrCat(
        "exact gemm: ", args.rows, " rows with strides ", args.x_stride, " and ", args.y_stride,
        " for [", args.weights.outputs, ", ", args.weights.inputs, "]"));
  }
  if (args.rows == 0) return absl::OkStatus();
  ExactProduct product;
  product.x = args.x;
  product.x_stride = args.x_stride;
  product.x_aligned = CanReadBy16(args.x, args.x_stride);
  product.weights = args.weights;
  product.slices = args.slices;
  product.y = args.y;
  product.y_stride = args.y_stride;
  product.columns = args.weights.outputs;
  product.entries = static_cast<int32_t>(args.rows);
  return LaunchProduct(product, stream);
}

absl::Status ExactFfn(const ExactFfnArgs& args, CudaStream stream) {
  RETURN_IF_ERROR(CheckWeights(args.gate_up, kReductionSlices));
  RETURN_IF_ERROR(CheckWeights(args.down, args.down_slices));
  const int32_t ffn = args.down.inputs, hidden = args.gate_up.inputs;
  if (args.gate_up.outputs != (ffn + 7) / 8 * 16 || args.down.outputs != hidden ||
      args.gate_up.matrices != args.down.matrices || args.gate_up.format != args.down.format) {
    return absl::InvalidArgumentError(absl::StrCat(
        "exact ffn: gate_up ", args.gate_up.matrices, " x [", args.gate_up.outputs, ", ", hidden,
        "] does not fit down ", args.down.matrices, " x [", args.down.outputs, ", ", ffn, "]"));
  }
  if (args.entries < 0 || args.x_stride < hidden || args.inner_stride < ffn ||
      args.out_stride < hidden || (args.slot_first != nullptr && args.order == nullptr)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "exact ffn: ", args.entries, " entries with strides ", args.x_stride, ", ",
        args.inner_stride, " and ", args.out_stride, " for hidden ", hidden, ", ffn ", ffn));
  }
  if (args.entries == 0) return absl::OkStatus();
  ExactProduct up;
  up.x = args.x;
  up.x_stride = args.x_stride;
  up.x_aligned = CanReadBy16(args.x, args.x_stride);
  up.weights = args.gate_up;
  up.slices = kReductionSlices;
  up.y = args.inner;
  up.y_stride = args.inner_stride;
  up.columns = ffn;
  up.swiglu = true;
  up.entries = args.entries;
  up.slot_first = args.slot_first;
  up.order = args.order;
  up.row_of_entry = args.row_of_entry;
  RETURN_IF_ERROR(LaunchProduct(up, stream));
  ExactProduct down = up;
  down.x = args.inner;
  down.x_stride = args.inner_stride;
  down.x_aligned = CanReadBy16(args.inner, args.inner_stride);
  down.weights = args.down;
  down.slices = args.down_slices;
  down.y = args.out;
  down.y_stride = args.out_stride;
  down.columns = hidden;
  down.swiglu = false;
  down.row_of_entry = nullptr;
  return LaunchProduct(down, stream);
}

}  // namespace conclave
