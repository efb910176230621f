#include "kernels/decode_attention/decode_attention.h"

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "kernels/decode_attention/decode_launch.h"

namespace conclave {
namespace {

absl::Status CheckQkv(const DecodeAttentionArgs& args) {
  const DecodeQkv& qkv = args.qkv;
  const int64_t columns = int64_t{args.heads + 2 * args.cache.kv_heads} * args.cache.head_dim;
  if (qkv.rows != nullptr) return CheckGpuRows({"qkv", qkv.rows, qkv.row_stride}, columns);
  RETURN_IF_ERROR(CheckGpuRows({"qkv partials", qkv.partials, qkv.row_stride}, columns));
  if (qkv.splits < 1 || (qkv.splits > 1 && qkv.slab_stride < 1) || qkv.slab_stride % 4 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(qkv.splits, " qkv partials, ", qkv.slab_stride,
                     " floats from one to the next: it must be a multiple of 4"));
  }
  return absl::OkStatus();
}

absl::Status CheckResult(const DecodeAttentionArgs& args, int32_t splits) {
  const DecodeSplits& to = args.splits;
  if (args.out != nullptr) {
    RETURN_IF_ERROR(CheckGpuRows({"out", args.out, args.out_stride},
                                 int64_t{args.heads} * args.cache.head_dim));
    if (splits == 1) return absl::OkStatus();
  }
  if (to.o == nullptr || to.m == nullptr || to.l == nullptr ||
      reinterpret_cast<uintptr_t>(to.o) % 16 != 0) {
    return absl::InvalidArgumentError("the splits need o, 16-byte aligned, m and l");
  }
  return absl::OkStatus();
}

absl::Status CheckArgs(const DecodeAttentionArgs& args, const DecodeAttentionConfig& config) {
  RETURN_IF_ERROR(CheckGpuCache(args.cache, args.heads));
  RETURN_IF_ERROR(CheckGpuBatch(args.batch));
  RETURN_IF_ERROR(CheckQkNorm(args.norm));
  RETURN_IF_ERROR(CheckQkv(args));
  if (args.batch.tokens != args.batch.sequences || args.batch.tokens > kDecodeTokensMax ||
      config.splits < 1 || config.splits > kDecodeSplitsMax || !(args.scale > 0)) {
    return absl::InvalidArgumentError(
        absl::StrCat(args.batch.tokens, " tokens of ", args.batch.sequences, " sequences in ",
                     config.splits, " splits, scale ", args.scale, ": at most ", kDecodeTokensMax,
                     ", one of each, in ", kDecodeSplitsMax, " splits, with a positive scale"));
  }
  RETURN_IF_ERROR(CheckResult(args, config.splits));
  if (args.prefetch != nullptr &&
      (reinterpret_cast<uintptr_t>(args.prefetch) % 16 != 0 || args.prefetch_bytes % 16 != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("prefetch of ", args.prefetch_bytes,
                                                   " bytes: it must be multiples of 16 bytes"));
  }
  if (!args.variant.plain()) {
    return absl::UnimplementedError("no kernel has windows, sinks or ALiBi");
  }
  return absl::OkStatus();
}

#if CONCLAVE_CUDA
absl::Status LaunchDim(const DecodeAttentionArgs& args, const DecodeGrid& grid) {
  const int head_dim = args.cache.head_dim;
  if (head_dim <= 32) return LaunchDecode32(args, grid);
  if (head_dim <= 64) return LaunchDecode64(args, grid);
  if (head_dim <= 128) return LaunchDecode128(args, grid);
  return LaunchDecode256(args, grid);
}
#endif

}  // namespace

absl::Status DecodeAttention(const DecodeAttentionArgs& args, const DecodeAttentionConfig& config) {
  RETURN_IF_ERROR(WithContext(CheckArgs(args, config), "decode_attention"));
  if (args.batch.tokens == 0) return absl::OkStatus();
#if CONCLAVE_CUDA
  DecodeGrid grid;
  grid.splits = config.splits;
  grid.head_blocks = DecodeHeadBlocks(args.heads, args.cache.kv_heads);
  grid.work_blocks = args.batch.tokens * args.cache.kv_heads * grid.head_blocks * config.splits;
  if (args.prefetch != nullptr) grid.prefetch_blocks = config.prefetch_blocks;
  RETURN_IF_ERROR(LaunchDim(args, grid));
  if (args.out == nullptr || config.splits == 1) return absl::OkStatus();
  return LaunchDecodeCombine(args, config.splits);
#else
  return absl::UnimplementedError("decode_attention: built without a CUDA toolkit");
#endif
}

}  // namespace conclave
