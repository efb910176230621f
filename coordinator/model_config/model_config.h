// model_config: reads the config.json of a checkpoint into a ModelShape, in the spellings of
// transformers 4 and 5, and refuses what the runtime would compute wrongly. Pure functions over
// files and text; any thread may call them.
//
// Errors: NotFound when the folder or its config.json is absent; InvalidArgument for bad JSON,
// missing keys, wrong types and impossible values; Unimplemented for a setting that is legal but
// not supported. Each names the file, the key, the value and what to do.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/types/model_shape.h"

namespace conclave {

// Reads FOLDER/config.json, and the end-of-text ids of FOLDER/generation_config.json when it
// exists. The name is the folder's last component.
absl::StatusOr<ModelShape> ReadModelShape(const std::string& folder);

// `json` is the text of a config.json; `context` (its path) opens every error.
absl::StatusOr<ModelShape> ParseModelShape(absl::string_view json, absl::string_view context);

// Adds the eos_token_id of a generation_config.json to the shape's.
absl::Status AddGenerationConfig(absl::string_view json, absl::string_view context,
                                 ModelShape* shape);

// A public model's shape by name: olmoe-1b-7b, qwen3-30b-a3b, mixtral-8x7b. InvalidArgument lists
// the names. Sources: the config.json of allenai/OLMoE-1B-7B-0924, Qwen/Qwen3-30B-A3B and
// mistralai/Mixtral-8x7B-v0.1.
absl::StatusOr<ModelShape> PresetShape(absl::string_view name);
std::vector<std::string> PresetNames();

// A config.json that ParseModelShape reads back as `shape` (but for the name).
std::string WriteModelConfig(const ModelShape& shape);

}  // namespace conclave
