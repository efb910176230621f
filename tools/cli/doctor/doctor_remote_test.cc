#include "tools/cli/doctor/doctor_remote.h"

#include <sys/stat.h>

#include <fstream>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(DoctorRemoteTest, HostsAreLines) {
  const auto hosts = ParseHosts("# the cluster\nnode1\n\n  me@10.0.0.7  # GPU\nnode3\r\n");
  ASSERT_TRUE(hosts.ok()) << hosts.status();
  EXPECT_EQ(*hosts, (std::vector<std::string>{"node1", "me@10.0.0.7", "node3"}));
}

TEST(DoctorRemoteTest, WhatIsNoHostIsRefusedWithItsLine) {
  for (const char* text : {"a\nb c\n", "a\na", "a\n-oProxyCommand=x", "a\nb\x01"}) {
    const auto hosts = ParseHosts(text);
    EXPECT_EQ(hosts.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_TRUE(absl::StrContains(hosts.status().message(), "line 2")) << hosts.status();
  }
  EXPECT_FALSE(ParseHosts("").ok());
  EXPECT_FALSE(ParseHosts("# none\n").ok());
}

TEST(DoctorRemoteTest, TheClockIsComparedWithTheMiddleOfTheQuestion) {
  HostAnswer answer;
  ReadHostAnswer({.asked_at = 100, .answered_at = 102, .answer = "104.5\n"},
                 R"({"ucx":"1.13.1","checks":[{"name":"a","state":"ok"},
                    {"name":"b","state":"failed"},{"name":"c","state":"warning"},7]})",
                 answer);
  EXPECT_EQ(answer.error, "");
  EXPECT_DOUBLE_EQ(answer.clock_ahead_seconds, 3.5);
  EXPECT_DOUBLE_EQ(answer.round_trip_seconds, 2);
  EXPECT_EQ(answer.ucx, "1.13.1");
  EXPECT_EQ(answer.failed, std::vector<std::string>{"b"});
  EXPECT_EQ(answer.warnings, std::vector<std::string>{"c"});
}

TEST(DoctorRemoteTest, AnswersThatAreNoneAreShown) {
  HostAnswer clock;
  ReadHostAnswer({.answer = "Permission denied"}, "{}", clock);
  EXPECT_TRUE(absl::StrContains(clock.error, "Permission denied"));
  for (const char* text : {"", "not found", "[1]", "{\"checks\":3}", "{\"checks\":["}) {
    HostAnswer answer;
    ReadHostAnswer({.answer = "1"}, text, answer);
    EXPECT_TRUE(absl::StrContains(answer.error, "doctor answered")) << text;
  }
  HostAnswer greeted;  // shells may greet
  ReadHostAnswer({.answer = "1"}, "Welcome {you}\n{\"checks\":[]}\n", greeted);
  EXPECT_EQ(greeted.error, "");
}

// A remote shell that is a script: says what it is asked.
std::string Shell(const std::string& body) {
  const std::string path = absl::StrCat(testing::TempDir(), "/shell");
  std::ofstream(path) << "#!/bin/sh\n" << body;
  EXPECT_EQ(chmod(path.c_str(), 0700), 0);
  return path;
}

TEST(DoctorRemoteTest, EveryHostIsAskedByTheShell) {
  const std::atomic<bool> cancelled{false};
  const std::string shell = Shell(
      "[ \"$1\" = bad ] && { echo no route; exit 255; }\n"
      "[ \"$2\" = date ] && exec date +%s.%N\n"
      "echo \"{\\\"ucx\\\":\\\"$2 $3 $4\\\",\\\"checks\\\":[]}\"\n");
  const auto answers = AskHosts({"good", "bad"}, {shell, "/opt/conclave"}, cancelled);
  ASSERT_TRUE(answers.ok()) << answers.status();
  ASSERT_EQ(answers->size(), 2u);
  EXPECT_EQ((*answers)[0].host, "good");
  EXPECT_EQ((*answers)[0].error, "");
  EXPECT_EQ((*answers)[0].ucx, "/opt/conclave doctor --json");
  EXPECT_LT(std::abs((*answers)[0].clock_ahead_seconds), 1);
  EXPECT_TRUE(absl::StrContains((*answers)[1].error, "no route")) << (*answers)[1].error;
}

TEST(DoctorRemoteTest, AnInterruptEndsIt) {
  const std::atomic<bool> cancelled{true};
  EXPECT_EQ(AskHosts({"a"}, {"/bin/true", "x"}, cancelled).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(DoctorRemoteTest, TheStatusOfACoordinatorIsRead) {
  CoordinatorAnswer answer;
  ReadCoordinatorAnswer(R"({"state":"serving","workers":[
      {"name":"a","state":"ready","version":"0.1"},{"name":"b","state":"suspect","version":"0.2"},
      {"name":"c","state":"lost","version":"0.1"},null]})",
                        answer);
  EXPECT_EQ(answer.error, "");
  EXPECT_EQ(answer.state, "serving");
  EXPECT_EQ(answer.workers, 4);
  EXPECT_EQ(answer.lost, (std::vector<std::string>{"b", "c"}));
  EXPECT_EQ(answer.versions, (std::vector<std::string>{"0.1", "0.2"}));
  ReadCoordinatorAnswer("<html>", answer);
  EXPECT_FALSE(answer.error.empty());
}

}  // namespace
}  // namespace conclave
