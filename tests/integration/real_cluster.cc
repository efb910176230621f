#include "tests/integration/real_cluster.h"

#include <boost/json.hpp>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

std::string Runfile(const std::string& path) {
  const char* root = getenv("TEST_SRCDIR");
  const char* workspace = getenv("TEST_WORKSPACE");
  CHECK(root != nullptr && workspace != nullptr) << "run the test with bazel";
  return absl::StrCat(root, "/", workspace, "/", path);
}

// An int32 tensor of a safetensors file that the project itself ships.
std::vector<int32_t> ReadInts(const std::string& file, const std::string& tensor) {
  uint64_t header_bytes = 0;
  memcpy(&header_bytes, file.data(), 8);
  const boost::json::object header = boost::json::parse(file.substr(8, header_bytes)).as_object();
  const boost::json::object& info = header.at(tensor).as_object();
  const boost::json::array& offsets = info.at("data_offsets").as_array();
  const size_t begin = offsets[0].to_number<size_t>();
  const size_t end = offsets[1].to_number<size_t>();
  const bool wide = info.at("dtype").as_string() == "I64";
  const size_t size = wide ? 8 : 4;
  std::vector<int32_t> values;
  for (size_t at = begin; at < end; at += size) {
    int64_t value = 0;
    memcpy(&value, file.data() + 8 + header_bytes + at, size);
    values.push_back(static_cast<int32_t>(value));
  }
  return values;
}

}  // namespace

std::string ConclaveBinary() { return Runfile("tools/cli/conclave"); }
std::string DemoModelPath() { return Runfile("tools/demo_model"); }
std::string GoldenPath(const std::string& name) { return Runfile("tests/golden/" + name); }

std::unique_ptr<LocalCluster> StartCluster(const std::string& parallel, ModelOptions model,
                                           int nodes) {
  LocalClusterOptions options;
  options.nodes = nodes;
  options.model = std::move(model);
  if (options.model.model.empty()) options.model.model = DemoModelPath();
  options.model.parallel = parallel;
  options.program = ConclaveBinary();
  options.start_timeout = absl::Seconds(60);
  const absl::StatusOr<ResolvedModel> resolved = ResolveModel(options.model);
  CHECK(resolved.ok()) << resolved.status().message();
  options.workers = resolved->workers;
  absl::StatusOr<std::unique_ptr<LocalCluster>> cluster =
      LocalCluster::Start(options, [](absl::string_view) {});
  CHECK(cluster.ok()) << parallel << ": " << cluster.status().message();
  return *std::move(cluster);
}

std::vector<int32_t> Greedy(const HttpClient& client, const std::vector<int32_t>& prompt,
                            int tokens) {
  CompletionOptions options;
  options.token_ids = prompt;
  options.tokens_max = tokens;
  options.temperature = 0;
  options.ignore_eos = true;
  const absl::StatusOr<Completion> completion = Complete(client, options, [](absl::string_view) {});
  EXPECT_TRUE(completion.ok()) << completion.status().message();
  return completion.ok() ? completion->token_ids : std::vector<int32_t>();
}

std::string LogitsBytes(const LocalCluster& cluster,
                        const std::vector<std::vector<int32_t>>& prompts) {
  boost::json::array rows;
  for (const auto& prompt : prompts)
    rows.emplace_back(boost::json::array(prompt.begin(), prompt.end()));
  const absl::StatusOr<HttpResponse> response = cluster.Client(true).Post(
      "/admin/logits", boost::json::serialize(boost::json::object{{"input_ids", rows}}));
  EXPECT_TRUE(response.ok()) << response.status().message();
  if (!response.ok()) return "";
  EXPECT_EQ(response->code, 200) << response->body.substr(0, 300);
  return response->body;
}

std::vector<DemoReference> DemoReferences() {
  std::ifstream in(DemoModelPath() + "/reference.safetensors", std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  const std::string file = text.str();
  CHECK_GT(file.size(), 8u) << "no reference.safetensors in " << DemoModelPath();
  std::vector<DemoReference> references;
  for (int i = 0; i < 4; ++i) {
    DemoReference reference;
    reference.prompt = ReadInts(file, absl::StrCat("prompt", i));
    const std::vector<int32_t> whole = ReadInts(file, absl::StrCat("greedy", i));
    reference.greedy.assign(whole.begin() + reference.prompt.size(), whole.end());
    references.push_back(std::move(reference));
  }
  return references;
}

}  // namespace conclave
