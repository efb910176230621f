#include "tools/cli/doctor/doctor.h"

#include <boost/json.hpp>
#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

const std::vector<DoctorCheck> kChecks = {
    {"clock", CheckState::kOk, "tsc", "deadlines"},
    {"shared memory", CheckState::kFailed, "there is no /dev/shm", "workers use it",
     std::string(300, 'x') + " or mount it"},
    {"MTU", CheckState::kWarning, "1400", "packets", "raise it"}};

TEST(DoctorTest, TheTableTellsWhatToDoWhereSomethingIsWrong) {
  const std::string plain = RenderChecks(kChecks, false);
  EXPECT_TRUE(absl::StrContains(plain, "ok       clock          tsc\n")) << plain;
  EXPECT_TRUE(absl::StrContains(plain, "failed   shared memory  there is no /dev/shm")) << plain;
  EXPECT_TRUE(absl::StrContains(plain, "why: workers use it")) << plain;
  EXPECT_FALSE(absl::StrContains(plain, "why: deadlines")) << plain;
  EXPECT_TRUE(absl::StrContains(plain, "do:  raise it")) << plain;
  EXPECT_TRUE(absl::EndsWith(plain, "3 checks: 1 ok, 1 warnings, 1 failed\n")) << plain;
  EXPECT_FALSE(absl::StrContains(plain, "\033"));
  EXPECT_TRUE(absl::StrContains(RenderChecks(kChecks, true), "\033[31mfailed"));
}

TEST(DoctorTest, TheJsonHasEveryCheck) {
  MachineFacts facts;
  facts.host = "node1";
  const boost::json::value parsed = boost::json::parse(ChecksJson(facts, kChecks));
  EXPECT_EQ(parsed.at("host").as_string(), "node1");
  EXPECT_FALSE(parsed.at("ok").as_bool());
  ASSERT_EQ(parsed.at("checks").as_array().size(), 3u);
  EXPECT_EQ(parsed.at("checks").at(1).at("state").as_string(), "failed");
  EXPECT_EQ(parsed.at("checks").at(2).at("remedy").as_string(), "raise it");
}

TEST(DoctorTest, AFileThatIsNoneIsAUsageError) {
  const std::atomic<bool> cancelled{false};
  const absl::Status missing = RunDoctor({.hosts_path = "/no/such/file"}, cancelled);
  EXPECT_EQ(missing.code(), absl::StatusCode::kInvalidArgument) << missing;
  const std::string path = absl::StrCat(testing::TempDir(), "/hosts");
  std::ofstream(path) << "a b\n";
  EXPECT_EQ(RunDoctor({.hosts_path = path}, cancelled).code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(DoctorTest, HostsAndCoordinatorsThatDoNotAnswerFail) {
  const std::atomic<bool> cancelled{false};
  const std::string path = absl::StrCat(testing::TempDir(), "/hosts");
  std::ofstream(path) << "nowhere\n";
  testing::internal::CaptureStdout();
  // Port 1 of this host: nobody listens there.
  const absl::Status status = RunDoctor({.hosts_path = path,
                                         .remote_shell = "/bin/echo refused",
                                         .url = "http://127.0.0.1:1",
                                         .state_dir = testing::TempDir(),
                                         .json = true},
                                        cancelled);
  const std::string out = testing::internal::GetCapturedStdout();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  const boost::json::value parsed = boost::json::parse(out);
  EXPECT_FALSE(parsed.at("ok").as_bool());
  int failed = 0;
  for (const boost::json::value& check : parsed.at("checks").as_array()) {
    if (check.at("state").as_string() == "failed") ++failed;
    if (check.at("name").as_string() == "host nowhere") {
      EXPECT_EQ(check.at("state").as_string(), "failed");
      EXPECT_TRUE(absl::StrContains(std::string(check.at("found").as_string()), "refused"));
    }
  }
  EXPECT_GE(failed, 2);
}

}  // namespace
}  // namespace conclave
