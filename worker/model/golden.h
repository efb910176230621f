// Golden checkpoints for tests: the shape of a small checkpoint folder, and tensors of a reference
// file, read by plain and separate code, so that a mistake in the loaders shows. Only what the
// checkpoints of tests/golden and tools/demo_model need. Pure but for reading files; any thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "comm/types/model_shape.h"

namespace conclave {

struct GoldenTensor {
  std::vector<int64_t> dims;
  std::vector<float> floats;  // of an F32 tensor
  std::vector<int32_t> ints;  // of an I32 tensor

  // Row `i` of the first dimension of an I32 tensor.
  std::vector<int32_t> IntRow(int64_t i) const;
};

// All tensors of a safetensors file; CHECKs that it can be read.
std::map<std::string, GoldenTensor> ReadGolden(const std::string& path);

// From config.json of the folder; CHECKs.
ModelShape GoldenShape(const std::string& folder);

// tests/golden/<name>, or tools/demo_model for "demo", as a test finds it.
std::string GoldenFolder(const std::string& name);

// Largest |a - b| over the standard deviation of b.
double WorstDifference(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace conclave
