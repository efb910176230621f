#include "tools/cli/trace_file.h"

#include <boost/json.hpp>

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(TraceFileTest, HoldsEachOperatorOfEachWorkerFromTimeZero) {
  const std::vector<OpSpan> spans = {{"qkv", 1, 3, 1005.5, 2.5, 100, 200},
                                     {"gate", 0, 4, 1000, 1, 10, 20}};
  const boost::json::value json = boost::json::parse(ChromeTrace(spans));
  const boost::json::array& events = json.at("traceEvents").as_array();
  ASSERT_EQ(events.size(), 4u);  // two names of workers
  const boost::json::value& qkv = events[2];
  EXPECT_EQ(qkv.at("name").as_string(), "qkv");
  EXPECT_EQ(qkv.at("ph").as_string(), "X");
  EXPECT_EQ(qkv.at("pid").as_int64(), 1);
  EXPECT_DOUBLE_EQ(qkv.at("ts").as_double(), 5.5);
  EXPECT_DOUBLE_EQ(qkv.at("dur").as_double(), 2.5);
  EXPECT_EQ(qkv.at("args").at("layer").as_int64(), 3);
  EXPECT_DOUBLE_EQ(events[3].at("ts").as_double(), 0);
}

TEST(TraceFileTest, AFileThatCannotBeWrittenIsNamed) {
  const absl::Status status = WriteChromeTrace("--trace", "/no/such/folder/t.json", {});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(status.message().find("/no/such/folder/t.json"), std::string::npos);
}

}  // namespace
}  // namespace conclave
