#include "kernels/sbi_gemm/sbi_gemm.h"

#include "absl/strings/str_cat.h"
#include "kernels/sbi_gemm/sbi_launch.h"

namespace conclave {
namespace {

constexpr int kSharedBytesMax = 227 * 1024;

SbiShape ShapeOf(const SbiArgs& args) {
  return {.kind = args.kind,
          .prologue = args.prologue,
          .format = args.weights.format,
          .group = args.weights.group,
          .outputs = args.weights.outputs,
          .inputs = args.weights.inputs,
          .tokens = args.tokens,
          .slots = args.table.active_count == nullptr ? 0 : args.weights.matrices,
          .top_k = args.table.top_k};
}

bool SameLayout(const SbiSharedLayout& a, const SbiSharedLayout& b) {
  return a.ring == b.ring && a.reduce == b.reduce && a.table == b.table && a.rows == b.rows &&
         a.total == b.total;
}

absl::Status Refuse(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("sbi_gemm: ", what));
}

absl::Status CheckConfig(const SbiArgs& args, const SbiConfig& config) {
  SbiShape shape = ShapeOf(args);
  const absl::StatusOr<int32_t> tile_bytes = SbiTileBytes(shape.format, shape.group);
  if (!tile_bytes.ok()) return tile_bytes.status();
  if (config.splits < 1 || config.blocks < config.splits || config.blocks % config.splits != 0) {
    return Refuse(absl::StrCat(config.blocks, " blocks for ", config.splits, " splits"));
  }
  SbiConfig expected = config;
  shape.sm_count = config.blocks;
  CompleteSbiConfig(shape, expected);
  if (*tile_bytes != config.tile_bytes || 8 * config.token_tiles < args.tokens ||
      config.row_bytes != expected.row_bytes || !SameLayout(config.shared, expected.shared) ||
      config.shared.total > kSharedBytesMax || config.ring_slots > kSbiRingSlotsMax ||
      config.splits > args.weights.input_tiles() ||
      (args.kind != SbiKind::kDense && config.splits != 1) ||
      (config.streamed && args.prologue != SbiPrologue::kRows)) {
    return Refuse("the config was chosen for another shape");
  }
  return absl::OkStatus();
}

absl::Status CheckInputs(const SbiArgs& args) {
  const int inputs = args.weights.inputs;
  switch (args.prologue) {
    case SbiPrologue::kRows:
      if (args.rows.x == nullptr || args.rows.stride < inputs || args.rows.stride % 8 != 0) {
        return Refuse(absl::StrCat("rows of stride ", args.rows.stride, " for ", inputs,
                                   " inputs; it must be a multiple of 8"));
      }
      return absl::OkStatus();
    case SbiPrologue::kNorm:
      if (args.norm.residual_in == nullptr || args.norm.residual_out == nullptr ||
          args.norm.residual_in == args.norm.residual_out || args.norm.norm_weight == nullptr) {
        return Refuse("a norm needs its weight and two residual buffers");
      }
      if (args.norm.pending > 0 &&
          (args.norm.partials == nullptr || args.norm.row_stride < inputs ||
           args.norm.row_stride % 4 != 0 || args.norm.slab_stride % 4 != 0)) {
        return Refuse("strides of pending sums must be multiples of 4 and hold a row");
      }
      return absl::OkStatus();
    case SbiPrologue::kAttention:
      if (args.attention.o == nullptr || args.attention.m == nullptr ||
          args.attention.l == nullptr || args.attention.splits < 1 || args.attention.heads < 1 ||
          inputs % args.attention.heads != 0 || inputs / args.attention.heads % 4 != 0) {
        return Refuse(
            absl::StrCat("attention of ", args.attention.heads, " heads for ", inputs, " inputs"));
      }
      return absl::OkStatus();
  }
  return Refuse("no such prologue");
}

absl::Status CheckOutputs(const SbiArgs& args, const SbiConfig& config) {
  const SbiTable& table = args.table;
  if (args.kind != SbiKind::kDense && table.active_count == nullptr && table.top_k != 1) {
    return Refuse("top_k needs a table");
  }
  if (table.active_count != nullptr &&
      (args.kind == SbiKind::kDense || table.active_slot == nullptr ||
       table.slot_first == nullptr || table.order == nullptr || table.top_k < 1)) {
    return Refuse("an incomplete table, or one for a dense product");
  }
  if (args.kind == SbiKind::kGateUp) {
    if (args.weights.outputs % 2 != 0 || args.hidden == nullptr ||
        args.hidden_stride < args.weights.outputs / 2) {
      return Refuse("gate_up needs an even number of outputs and room for ffn hidden values");
    }
    return absl::OkStatus();
  }
  if (args.out == nullptr || args.out_stride < args.weights.outputs ||
      (config.splits > 1 && args.slab_stride < args.tokens * args.out_stride)) {
    return Refuse("no room for the outputs");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SbiGemm(const SbiArgs& args, const SbiConfig& config,
                     const SbiLaunchOptions& options) {
  if (absl::Status status = CheckConfig(args, config); !status.ok()) return status;
  if (absl::Status status = CheckInputs(args); !status.ok()) return status;
  if (absl::Status status = CheckOutputs(args, config); !status.ok()) return status;
#if CONCLAVE_CUDA
  const SbiLaunch launch = {.args = args, .config = config};
  switch (args.weights.format) {
    case WeightFormat::kBf16:
      return LaunchSbiBf16(launch, options);
    default:
      return Refuse("no kernel for this weight format");
  }
#else
  return absl::UnimplementedError("sbi_gemm: built without a CUDA toolkit");
#endif
}

}  // namespace conclave
