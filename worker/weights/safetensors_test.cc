#include "worker/weights/safetensors.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "worker/weights/file_io.h"
#include "worker/weights/safetensors_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;

absl::StatusOr<SafetensorsTable> Parse(const std::string& header, int64_t data_bytes) {
  return ParseSafetensorsHeader("a.safetensors", header,
                                8 + static_cast<int64_t>(header.size()) + data_bytes);
}

std::string Tensor(absl::string_view name, absl::string_view dtype, absl::string_view shape,
                   absl::string_view offsets) {
  return absl::StrCat("\"", name, "\":{\"dtype\":\"", dtype, "\",\"shape\":", shape,
                      ",\"data_offsets\":", offsets, "}");
}

TEST(ParseSafetensorsHeader, ReadsTensors) {
  const std::string header = absl::StrCat(
      "{\"__metadata__\":{\"format\":\"pt\"},", Tensor("b", "BF16", "[2,3]", "[8,20]"), ",",
      Tensor("a", "F32", "[2]", "[0,8]"), ",", Tensor("e", "I64", "[0,4]", "[20,20]"), ",",
      Tensor("s", "U8", "[]", "[20,21]"), "}  ");
  const auto table = Parse(header, 21);
  ASSERT_TRUE(table.ok()) << table.status();
  ASSERT_EQ(table->size(), 4u);
  const int64_t begin = 8 + static_cast<int64_t>(header.size());
  EXPECT_EQ(table->at("a"), (SafetensorsEntry{Dtype::kF32, {2}, begin, begin + 8}));
  EXPECT_EQ(table->at("b"), (SafetensorsEntry{Dtype::kBf16, {2, 3}, begin + 8, begin + 20}));
  EXPECT_EQ(table->at("e").dims, (std::vector<int64_t>{0, 4}));
  EXPECT_EQ(table->at("s").dims, (std::vector<int64_t>{}));
}

struct Bad {
  std::string header;
  int64_t data_bytes;
  std::string message;
};

std::vector<Bad> BadHeaders() {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  return {
      {"", 0, "not a JSON object"},
      {"[]", 0, "not a JSON object"},
      {" {}", 0, "not a JSON object"},
      {"{", 0, "not valid JSON"},
      {"{}x", 0, "not valid JSON"},
      {std::string("{\"a\0", 4), 0, "not valid JSON"},
      {"{\"\xff\":1}", 0, "not valid JSON"},
      {absl::StrCat("{\"a\":", deep, "}"), 0, "not valid JSON"},
      {"{\"a\":1}", 0, "tensor 'a' is not a JSON object"},
      {"{\"a\":{}}", 0, "lacks one of dtype, shape and data_offsets"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,4]"), "}"), 5, "1 bytes follow the last"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,4]"), "}"), 3, "3 bytes of data"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[4,0]"), "}"), 4, "[4, 0]"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[-4,0]"), "}"), 4, "data_offsets"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0]"), "}"), 4, "1 data_offsets, expected 2"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,4,4]"), "}"), 4, "expected 2"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,4.0]"), "}"), 4, "non-negative integers"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,1e300]"), "}"), 4, "non-negative integers"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,18446744073709551615]"), "}"), 4,
       "non-negative integers"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "7"), "}"), 4, "not a list"},
      {absl::StrCat("{", Tensor("a", "F32", "[-1]", "[0,4]"), "}"), 4, "has a shape"},
      {absl::StrCat("{", Tensor("a", "F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), "}"), 4, "at most 8"},
      {absl::StrCat("{", Tensor("a", "F32", "[2]", "[0,4]"), "}"), 4,
       "of 4 bytes, but its shape [2] of float32 takes 8"},
      {absl::StrCat("{", Tensor("a", "F32", "[4294967296,4294967296]", "[0,0]"), "}"), 0,
       "larger than any file"},
      {absl::StrCat("{", Tensor("a", "F32", "[9223372036854775807]", "[0,4]"), "}"), 4,
       "larger than any file"},
      {absl::StrCat("{", Tensor("a", "F8_E4M3", "[1]", "[0,1]"), "}"), 1,
       "dtype 'F8_E4M3', which is not supported; convert"},
      {absl::StrCat("{", Tensor("a", "f32", "[1]", "[0,4]"), "}"), 4, "not supported"},
      {"{\"a\":{\"dtype\":4,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "not a string"},
      {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}", 4,
       "repeated key 'dtype'"},
      {"{\"a\":{\"dtype\":\"F32\",\"x\":1,\"shape\":[1],\"data_offsets\":[0,4]}}", 4, "key 'x'"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,4]"), ",",
                    Tensor("a", "F32", "[1]", "[4,8]"), "}"),
       8, "'a' is listed twice"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "'__metadata__' is repeated"},
      {absl::StrCat("{", Tensor("a", "F32", "[2]", "[0,8]"), ",",
                    Tensor("b", "F32", "[1]", "[4,8]"), "}"),
       8, "tensor 'b' begins at data offset 4, but the tensor before it ends at 8 (overlap)"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[0,4]"), ",",
                    Tensor("b", "F32", "[1]", "[8,12]"), "}"),
       12, "(hole)"},
      {absl::StrCat("{", Tensor("a", "F32", "[1]", "[4,8]"), "}"), 8, "(hole)"},
      {absl::StrCat("{\"", std::string(5000, 'n'), "\\n\":1}"), 0, "is not a JSON object"},
  };
}

TEST(ParseSafetensorsHeader, RefusesWhatTheFormatForbids) {
  for (const Bad& bad : BadHeaders()) {
    const auto table = Parse(bad.header, bad.data_bytes);
    ASSERT_FALSE(table.ok()) << bad.header.substr(0, 200);
    EXPECT_EQ(table.status().code(), absl::StatusCode::kInvalidArgument);
    const std::string message(table.status().message());
    EXPECT_THAT(message, HasSubstr(bad.message));
    EXPECT_THAT(message, HasSubstr("a.safetensors"));
    EXPECT_LT(message.size(), 600u);
  }
}

// Every prefix of a header, and every header with one byte changed, gives a table or an error,
// never a crash.
TEST(ParseSafetensorsHeader, SurvivesDamage) {
  const std::string good = absl::StrCat("{", Tensor("a", "F32", "[2,1]", "[0,8]"), ",",
                                        Tensor("b", "F16", "[3]", "[8,14]"), "}");
  for (size_t i = 0; i < good.size(); ++i) {
    EXPECT_FALSE(Parse(good.substr(0, i), 14).ok());
    for (const char c : {'\0', '"', '9', '{', ']', '-', '\xff'}) {
      std::string damaged = good;
      damaged[i] = c;
      (void)Parse(damaged, 14).ok();
    }
  }
}

absl::Status ReadFile(const std::string& content) {
  const ScratchFolder folder;
  folder.Write("x.safetensors", content);
  const std::string path = folder.File("x.safetensors");
  const auto file = ReadOnlyFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  return ReadSafetensorsHeader(path, file->fd()).status();
}

TEST(ReadSafetensorsHeader, RefusesTruncatedAndOversizedHeaders) {
  const std::string good = SafetensorsFile({{"a", "F32", {1}, "1234"}});
  EXPECT_TRUE(ReadFile(good).ok());
  EXPECT_TRUE(ReadFile(RawSafetensors("{}", "")).ok());
  for (size_t bytes = 0; bytes < good.size(); ++bytes) {
    EXPECT_EQ(ReadFile(good.substr(0, bytes)).code(), absl::StatusCode::kInvalidArgument) << bytes;
  }
  EXPECT_THAT(std::string(ReadFile("1234").message()), HasSubstr("fewer than a header needs"));
  EXPECT_THAT(std::string(ReadFile(std::string(8, '\xff') + "{}").message()),
              HasSubstr("18446744073709551615 bytes, more than the 33554432 allowed"));
  EXPECT_THAT(std::string(ReadFile(std::string("\xff\0\0\0\0\0\0\0{}", 10)).message()),
              HasSubstr("claims 255 bytes, but the file has 10 in all"));
  EXPECT_THAT(std::string(ReadFile(good + "x").message()), HasSubstr("follow the last tensor"));
}

TEST(ParseSafetensorsIndex, ReadsTheMapAndRefusesOtherFolders) {
  const auto map = ParseSafetensorsIndex(
      "i.json", R"({"metadata":{},"weight_map":{"a":"m-1.safetensors","b":"m-2.safetensors"}})");
  ASSERT_TRUE(map.ok()) << map.status();
  EXPECT_EQ(map->at("b"), "m-2.safetensors");
  for (const std::string shard :
       {"../m.safetensors", "/etc/passwd", "..", ".", "", "a/b", "a\\\\b", "a\\u0000b"}) {
    const auto bad =
        ParseSafetensorsIndex("i.json", absl::StrCat("{\"weight_map\":{\"a\":\"", shard, "\"}}"));
    ASSERT_FALSE(bad.ok()) << shard;
    EXPECT_THAT(std::string(bad.status().message()), HasSubstr("not the name of a file")) << shard;
  }
  for (const std::string json : {"", "{}", "{\"weight_map\":[]}", "{\"weight_map\":{\"a\":1}}", "[",
                                 "{\"weight_map\":{\"a\":\"b\",\"a\":\"b\"}}"}) {
    EXPECT_FALSE(ParseSafetensorsIndex("i.json", json).ok()) << json;
  }
}

}  // namespace
}  // namespace conclave
