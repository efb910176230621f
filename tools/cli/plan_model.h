// The model that a plan is for: a preset's name, or the config.json of a checkpoint, also of
// architectures that the runtime does not run yet (latent attention, shared experts). Reads files
// when given a folder; otherwise pure. Any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "placement/cost/model_dims.h"

namespace conclave {

// How the weights and the cache shall be stored, as the flags say it.
struct PlanFormats {
  std::string quantization;  // empty: as the checkpoint has them; none, fp8, int8, int4, nf4, mxfp4
  std::string kv_cache = "auto";  // auto (bfloat16), float32, float16, bfloat16, fp8 or int8
};

// `model` is a folder with a config.json, such a file itself, or a preset's name. InvalidArgument
// names the flag or the file and key, the value and the remedy; an unknown name gets the nearest
// preset's.
absl::StatusOr<ModelDims> LoadPlanModel(const std::string& model, const PlanFormats& formats);

// `text` is a config.json, in the spellings of Hugging Face transformers 4 and 5; `context` (its
// path) opens every error. The format of the weights follows quantization_config. Models that the
// runtime runs are read as it reads them.
absl::StatusOr<ModelDims> ParsePlanModel(absl::string_view text, absl::string_view context);

// Overrides the formats of `dims`. InvalidArgument: an unknown format, with the known ones.
absl::Status ApplyFormats(const PlanFormats& formats, ModelDims* dims);

// The entry of `names` nearest to `name` by edits; empty when none is near enough to be meant.
std::string NearestName(absl::string_view name, const std::vector<std::string>& names);

}  // namespace conclave
