// Host checks of what the launches of moe_route are given. Internal to kernels/moe_route; pure.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/moe_route/moe_route.h"

namespace conclave {

// InvalidArgument that names the shape.
absl::Status CheckRoute(int32_t tokens, int32_t experts, const RouteChoice& choice,
                        const RouteTable& table);
// A bf16 matrix whose inputs are whole 16-byte chunks.
absl::Status CheckRouter(const WeightView& router);

}  // namespace conclave
