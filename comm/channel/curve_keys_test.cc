#include "comm/channel/curve_keys.h"

#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class CurveKeysTest : public ::testing::Test {
 protected:
  CurveKeysTest() {
    std::string folder = ::testing::TempDir() + "/keys.XXXXXX";
    folder_ = mkdtemp(folder.data());
  }
  ~CurveKeysTest() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return folder_ + "/" + name; }
  std::string Write(const std::string& name, const std::string& text, mode_t mode = 0600) {
    std::ofstream(Path(name)) << text;
    EXPECT_EQ(chmod(Path(name).c_str(), mode), 0);
    return Path(name);
  }
  static mode_t Mode(const std::string& path) {
    struct stat info = {};
    EXPECT_EQ(stat(path.c_str(), &info), 0);
    return info.st_mode & 0777;
  }

  std::string folder_;
};

TEST_F(CurveKeysTest, AreMadeOnceAndKept) {
  const std::string path = Path("deep/er/worker.key");
  const auto made = LoadOrCreateCurveKeys(path);
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_TRUE(IsCurveKey(made->public_key));
  EXPECT_TRUE(IsCurveKey(made->secret_key));
  EXPECT_EQ(Mode(path), 0600u);
  EXPECT_EQ(Mode(Path("deep/er")), 0700u);
  EXPECT_EQ(PublicKeyPath(path), Path("deep/er/worker.pub"));
  EXPECT_EQ(*LoadOrCreateCurveKeys(path), *made);
  EXPECT_EQ(*LoadPublicKey(PublicKeyPath(path)), made->public_key);
  EXPECT_EQ(*LoadPublicKey(path), made->public_key);

  std::filesystem::remove(PublicKeyPath(path));
  EXPECT_TRUE(LoadOrCreateCurveKeys(path).ok());
  EXPECT_EQ(*LoadPublicKey(PublicKeyPath(path)), made->public_key) << "made again";
}

TEST_F(CurveKeysTest, ProcessesThatStartAtOnceAgree) {
  std::vector<absl::StatusOr<CurveKeys>> keys(8, absl::UnknownError("not run"));
  std::vector<std::thread> threads;
  for (auto& result : keys) {
    threads.emplace_back([&] { result = LoadOrCreateCurveKeys(Path("shared.key")); });
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& result : keys) {
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(*result, *keys[0]);
  }
  EXPECT_EQ(*LoadPublicKey(Path("shared.pub")), keys[0]->public_key);
  const auto files = std::filesystem::directory_iterator(folder_);
  EXPECT_EQ(std::distance(begin(files), end(files)), 2) << "no temporary file stays";
}

TEST_F(CurveKeysTest, BadFilesAreNamed) {
  const CurveKeys good = MakeCurveKeys();
  const CurveKeys other = MakeCurveKeys();
  const auto expect_bad = [&](const std::string& text, const std::string& problem) {
    const std::string path = Write("bad.key", text);
    const absl::Status status = LoadOrCreateCurveKeys(path).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(path));
    EXPECT_THAT(std::string(status.message()), HasSubstr(problem));
  };
  expect_bad("", "lacks a line");
  expect_bad("public " + good.public_key + "\n", "lacks a line");
  expect_bad("public short\nsecret " + good.secret_key + "\n", "40 characters");
  expect_bad("public " + std::string(40, '~') + "\n", "40 characters");
  expect_bad("public " + other.public_key + "\nsecret " + good.secret_key + "\n", "belong");
  expect_bad(std::string(5000, 'x'), "larger");
}

TEST_F(CurveKeysTest, ASecretThatOthersReadIsRefused) {
  const CurveKeys keys = MakeCurveKeys();
  const std::string path =
      Write("open.key", "public " + keys.public_key + "\nsecret " + keys.secret_key + "\n", 0644);
  const absl::Status status = LoadOrCreateCurveKeys(path).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("chmod 600 " + path));
}

TEST_F(CurveKeysTest, UnusablePathsAreErrors) {
  EXPECT_EQ(LoadOrCreateCurveKeys(folder_).status().code(), absl::StatusCode::kInvalidArgument);
  Write("file", "");
  EXPECT_EQ(LoadOrCreateCurveKeys(Path("file/x.key")).status().code(),
            absl::StatusCode::kUnavailable);
  EXPECT_EQ(LoadPublicKey(Path("none.pub")).status().code(), absl::StatusCode::kNotFound);
}

TEST_F(CurveKeysTest, AFolderOfAllowedKeys) {
  std::vector<std::string> keys = {MakeCurveKeys().public_key, MakeCurveKeys().public_key};
  std::sort(keys.begin(), keys.end());
  Write("b.pub", "public " + keys[0] + "\n");
  Write("a.pub", "# a comment\npublic " + keys[1] + "\r\n");
  Write("broken.pub", "public nonsense\n");
  Write("ignored.txt", "public " + MakeCurveKeys().public_key + "\n");
  const auto allowed = LoadAllowedKeys(folder_);
  ASSERT_TRUE(allowed.ok()) << allowed.status();
  EXPECT_THAT(*allowed, ElementsAre(keys[0], keys[1]));
  EXPECT_EQ(LoadAllowedKeys(Path("nowhere")).status().code(), absl::StatusCode::kUnavailable);
}

TEST(CurveKeyTest, KnowsZ85) {
  EXPECT_TRUE(IsCurveKey(MakeCurveKeys().public_key));
  EXPECT_FALSE(IsCurveKey(""));
  EXPECT_FALSE(IsCurveKey(std::string(39, 'a')));
  EXPECT_FALSE(IsCurveKey(std::string(40, '"')));
  EXPECT_NE(MakeCurveKeys(), MakeCurveKeys());
}

}  // namespace
}  // namespace conclave
