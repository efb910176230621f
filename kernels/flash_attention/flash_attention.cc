#include "kernels/flash_attention/flash_attention.h"

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "kernels/flash_attention/flash_launch.h"

namespace conclave {
namespace {

absl::Status CheckArgs(const FlashAttentionArgs& args) {
  RETURN_IF_ERROR(CheckGpuCache(args.cache, args.heads));
  RETURN_IF_ERROR(CheckGpuBatch(args.batch));
  const int64_t columns = int64_t{args.heads} * args.cache.head_dim;
  RETURN_IF_ERROR(CheckGpuRows({"q", args.q, args.q_stride}, columns));
  RETURN_IF_ERROR(CheckGpuRows({"out", args.out, args.out_stride}, columns));
  if (args.batch.first_token == nullptr || args.counter == nullptr) {
    return absl::InvalidArgumentError("a batch without first_token, or no counter");
  }
  if (args.heads / args.cache.kv_heads > kFlashGroupMax || !(args.scale > 0) || args.sm_count < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(args.heads, " heads of ", args.cache.kv_heads, " KV heads, scale ", args.scale,
                     ": at most ", kFlashGroupMax, " share one, and the scale is positive"));
  }
  if (args.kernel == FlashKernel::kWgmma && !FlashTakesWgmma(args.cache, args.heads)) {
    return absl::InvalidArgumentError(absl::StrCat("no wgmma kernel for head_dim ",
                                                   args.cache.head_dim, ", pages of ",
                                                   args.cache.page_tokens, " tokens"));
  }
  if (!args.variant.plain()) {
    return absl::UnimplementedError("no kernel has windows, sinks or ALiBi");
  }
  return absl::OkStatus();
}

}  // namespace

bool FlashTakesWgmma(const GpuKvLayer& cache, int32_t heads) {
  const int32_t page = cache.page_tokens;
  return (cache.head_dim == 64 || cache.head_dim == 128) && page >= 8 && page <= 128 &&
         (page & (page - 1)) == 0 && heads / cache.kv_heads <= kFlashGroupMax;
}

absl::Status FlashAttention(const FlashAttentionArgs& args) {
  RETURN_IF_ERROR(WithContext(CheckArgs(args), "flash_attention"));
  if (args.batch.tokens == 0 || args.batch.sequences == 0) return absl::OkStatus();
#if CONCLAVE_CUDA
  const bool general =
      args.kernel == FlashKernel::kGeneral || !FlashTakesWgmma(args.cache, args.heads);
  if (general) return LaunchFlashGeneral(args);
  return args.cache.head_dim == 64 ? LaunchFlashWgmma64(args) : LaunchFlashWgmma128(args);
#else
  return absl::UnimplementedError("flash_attention: built without a CUDA toolkit");
#endif
}

}  // namespace conclave
