#include "kernels/qkv_post/qkv_post.h"

#include "comm/base/status.h"
#include "kernels/qkv_post/qkv_post_launch.h"

namespace conclave {

absl::Status QkvPost(const QkvPostArgs& args) {
  RETURN_IF_ERROR(WithContext(CheckGpuCache(args.cache, args.heads), "qkv_post"));
  RETURN_IF_ERROR(WithContext(CheckGpuBatch(args.batch), "qkv_post"));
  RETURN_IF_ERROR(WithContext(CheckQkNorm(args.norm), "qkv_post"));
  if (args.batch.first_token == nullptr) {
    return absl::InvalidArgumentError("qkv_post: a batch without first_token");
  }
  const int64_t head_dim = args.cache.head_dim;
  RETURN_IF_ERROR(CheckGpuRows({"qkv_post: qkv", args.qkv, args.qkv_stride},
                               (args.heads + 2 * args.cache.kv_heads) * head_dim));
  RETURN_IF_ERROR(CheckGpuRows({"qkv_post: q", args.q, args.q_stride}, args.heads * head_dim));
#if CONCLAVE_CUDA
  return LaunchQkvPost(args);
#else
  return absl::UnimplementedError("qkv_post: built without a CUDA toolkit");
#endif
}

}  // namespace conclave
