// The launcher behind QkvPost, which has checked its arguments. Any thread.
#pragma once

#include "kernels/qkv_post/qkv_post.h"

namespace conclave {

absl::Status LaunchQkvPost(const QkvPostArgs& args);

}  // namespace conclave
