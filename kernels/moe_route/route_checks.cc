#include "kernels/moe_route/route_checks.h"

#include "absl/strings/str_cat.h"

namespace conclave {

absl::Status CheckRoute(int32_t tokens, int32_t experts, const RouteChoice& choice,
                        const RouteTable& table) {
  const bool experts_fit = experts >= 1 && experts <= kRouteExpertsMax;
  const bool choice_fits =
      choice.top_k >= 1 && choice.top_k <= kRouteTopKMax && choice.top_k <= experts;
  const bool slots_fit = table.slots >= 1 && table.slots <= kRouteExpertsMax &&
                         (table.slot_of_expert != nullptr || table.slots >= experts);
  if (tokens >= 0 && experts_fit && choice_fits && slots_fit) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("routing ", tokens, " tokens to ", choice.top_k, " of ", experts, " experts in ",
                   table.slots, " slots: at most ", kRouteExpertsMax, " experts and slots, top ",
                   kRouteTopKMax, ", and a slot for each expert unless a map is given"));
}

absl::Status CheckRouter(const WeightView& router) {
  if (router.format == WeightFormat::kBf16 && router.inputs > 0 && router.inputs % 8 == 0 &&
      router.outputs > 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(
      absl::StrCat("a router of ", router.outputs, " x ", router.inputs, " in format ",
                   static_cast<int>(router.format), ": bf16 with inputs in eights is served"));
}

}  // namespace conclave
