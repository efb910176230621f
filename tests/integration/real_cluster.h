// What the integration tests share: the built `conclave`, the demo model, real clusters of it, and
// its references. Test only.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tools/cli/completion.h"
#include "tools/cli/local_cluster.h"

namespace conclave {

// Paths in the runfiles of a test.
std::string ConclaveBinary();
std::string DemoModelPath();
std::string GoldenPath(const std::string& name);

// Starts a cluster of the demo model (or `model`) for a --parallel spec, its workers on as many
// nodes as they are told to say; fails the test when it does not serve.
std::unique_ptr<LocalCluster> StartCluster(const std::string& parallel, ModelOptions model = {},
                                           int nodes = 1);

// A greedy completion of token ids; fails the test on error.
std::vector<int32_t> Greedy(const HttpClient& client, const std::vector<int32_t>& prompt,
                            int tokens);

// The body of /admin/logits for prompts of one length: the .npy bytes, for comparing bit by bit.
std::string LogitsBytes(const LocalCluster& cluster,
                        const std::vector<std::vector<int32_t>>& prompts);

// One reference text of tools/demo_model/reference.safetensors.
struct DemoReference {
  std::vector<int32_t> prompt;
  std::vector<int32_t> greedy;  // the 64 tokens after the prompt
};
std::vector<DemoReference> DemoReferences();

}  // namespace conclave
