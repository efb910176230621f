#include "worker/weights/safetensors_source.h"

#include <filesystem>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/weights/safetensors_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;

// Matrix m[4][3] of bytes row * 16 + column, vector v of two floats.
std::vector<TestTensor> Tensors() {
  std::string m;
  for (int row = 0; row < 4; ++row) {
    for (int col = 0; col < 3; ++col) m.push_back(static_cast<char>(row * 16 + col));
  }
  return {{"v", "F32", {2}, "abcdefgh"}, {"m", "U8", {4, 3}, m}, {"cube", "U8", {1, 1, 2}, "xy"}};
}

std::string ReadString(WeightSource& source, absl::string_view name, const TensorRegion& region,
                       int64_t bytes) {
  std::string out(bytes, '?');
  const absl::Status status = source.Read(name, region, out.data());
  return status.ok() ? out : status.ToString();
}

TEST(SafetensorsSource, ReadsRegionsAndCountsTheirBytes) {
  const ScratchFolder folder;
  folder.Write("model.safetensors", SafetensorsFile(Tensors()));
  const auto source = SafetensorsSource::Open(folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  const auto info = (*source)->Find("m");
  ASSERT_TRUE(info.ok());
  EXPECT_EQ(info->dtype, Dtype::kU8);
  EXPECT_EQ(info->dims, (std::vector<int64_t>{4, 3}));
  EXPECT_EQ((*source)->bytes_read(), 0);
  EXPECT_EQ(ReadString(**source, "m", {1, 3, 0, 3}, 6), std::string("\x10\x11\x12\x20\x21\x22"));
  EXPECT_EQ((*source)->bytes_read(), 6);
  EXPECT_EQ(ReadString(**source, "m", {1, 4, 1, 2}, 3), std::string("\x11\x21\x31"));
  EXPECT_EQ((*source)->bytes_read(), 9);
  EXPECT_EQ(ReadString(**source, "v", {1, 2, 0, 1}, 4), "efgh");
  EXPECT_EQ(ReadString(**source, "v", {1, 1, 0, 1}, 0), "");
  EXPECT_EQ((*source)->bytes_read(), 13);
}

TEST(SafetensorsSource, RefusesRegionsOutside) {
  const ScratchFolder folder;
  folder.Write("model.safetensors", SafetensorsFile(Tensors()));
  const auto source = SafetensorsSource::Open(folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  char out[64];
  for (const TensorRegion& region : std::vector<TensorRegion>{
           {0, 5, 0, 3}, {-1, 1, 0, 3}, {2, 1, 0, 3}, {0, 4, 0, 4}, {0, 4, -1, 3}, {0, 4, 2, 1}}) {
    const absl::Status status = (*source)->Read("m", region, out);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("'m' of shape [4, 3]"));
  }
  EXPECT_FALSE((*source)->Read("cube", {0, 1, 0, 1}, out).ok());
  const absl::Status missing = (*source)->Read("no", {0, 1, 0, 1}, out);
  EXPECT_EQ(missing.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(missing.message()), HasSubstr("'no'"));
  EXPECT_THAT(std::string(missing.message()), HasSubstr(folder.path()));
  EXPECT_EQ((*source)->Find("no").status().code(), absl::StatusCode::kNotFound);
}

class ShardedFolder {
 public:
  ShardedFolder() {
    const auto tensors = Tensors();
    folder_.Write("s-1.safetensors", SafetensorsFile({tensors[0]}));
    folder_.Write("s-2.safetensors", SafetensorsFile({tensors[1], tensors[2]}));
    Index(R"("v":"s-1.safetensors","m":"s-2.safetensors")");
  }
  void Index(const std::string& map) {
    folder_.Write("model.safetensors.index.json", absl::StrCat("{\"weight_map\":{", map, "}}"));
  }
  std::string Error() const {
    const auto source = SafetensorsSource::Open(folder_.path());
    return source.ok() ? "ok" : source.status().ToString();
  }
  const ScratchFolder& folder() const { return folder_; }

 private:
  ScratchFolder folder_;
};

TEST(SafetensorsSource, ReadsShards) {
  const ShardedFolder sharded;
  const auto source = SafetensorsSource::Open(sharded.folder().path());
  ASSERT_TRUE(source.ok()) << source.status();
  EXPECT_EQ(ReadString(**source, "v", {0, 2, 0, 1}, 8), "abcdefgh");
  EXPECT_EQ(ReadString(**source, "m", {3, 4, 0, 3}, 3), std::string("\x30\x31\x32"));
  EXPECT_FALSE((*source)->Find("cube").ok());  // in a shard, but not in the index
}

TEST(SafetensorsSource, NamesWhatIsWrongWithShards) {
  ShardedFolder sharded;
  sharded.Index(R"("v":"s-1.safetensors","m":"s-3.safetensors")");
  EXPECT_THAT(sharded.Error(), HasSubstr("s-3.safetensors"));
  EXPECT_THAT(sharded.Error(), HasSubstr("NOT_FOUND"));
  EXPECT_THAT(sharded.Error(), HasSubstr("'m'"));
  sharded.Index(R"("v":"s-1.safetensors","w":"s-2.safetensors")");
  EXPECT_THAT(sharded.Error(),
              HasSubstr("'w' is said to lie in 's-2.safetensors', which does not"));
  sharded.Index(R"("v":"../s-1.safetensors")");
  EXPECT_THAT(sharded.Error(), HasSubstr("not the name of a file"));
  sharded.folder().Write("s-1.safetensors", "short");
  sharded.Index(R"("v":"s-1.safetensors")");
  EXPECT_THAT(sharded.Error(), HasSubstr("INVALID_ARGUMENT"));
  EXPECT_THAT(sharded.Error(), HasSubstr("s-1.safetensors"));
}

TEST(SafetensorsSource, NamesAMissingFolderAndAnEmptyOne) {
  const ScratchFolder folder;
  const auto none = SafetensorsSource::Open(folder.File("nothing"));
  EXPECT_EQ(none.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("nothing' does not exist"));
  const auto empty = SafetensorsSource::Open(folder.path());
  EXPECT_EQ(empty.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(empty.status().message()), HasSubstr("neither model.safetensors nor"));
  folder.Write("file", "x");
  EXPECT_FALSE(SafetensorsSource::Open(folder.File("file")).ok());
}

TEST(SafetensorsSource, AFileThatShrinksIsAnError) {
  const ScratchFolder folder;
  folder.Write("model.safetensors", SafetensorsFile(Tensors()));
  const auto source = SafetensorsSource::Open(folder.path());
  ASSERT_TRUE(source.ok()) << source.status();
  std::filesystem::resize_file(folder.File("model.safetensors"), 20);
  char out[64];
  EXPECT_EQ((*source)->Read("m", {0, 4, 0, 3}, out).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace conclave
