#include "coordinator/api/status_codec.h"

#include "boost/json.hpp"
#include "coordinator/api/npy.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(RangesTest, Ranges) {
  EXPECT_EQ(RangesText({}), "");
  EXPECT_EQ(RangesText({5}), "5");
  EXPECT_EQ(RangesText({0, 1, 2, 8, 10, 11}), "0-2,8,10-11");
}

TEST(StatusCodecTest, WholeStatus) {
  ClusterStatus status;
  status.state = ClusterState::kServing;
  status.model = "demo";
  status.shape.layers = 3;
  status.plan.epoch = Epoch{4};
  status.plan.spec = {.tp = 1, .dp = 2, .pp = 1, .slices = 2, .ep = 1};
  status.plan.workers = {WorkerId{7}, WorkerId{9}};
  status.plan.stages = {{0, 3}};
  const LayerExperts even(2, {{0}, {1}, {0}, {1}, {0, 1}, {1}});
  status.plan.experts.layers = {LayerExperts(), even, even};
  WorkerStatus worker;
  worker.id = WorkerId{7};
  worker.hello.name = "w\"0";
  worker.rank = 0;
  worker.state = WorkerState::kReady;
  worker.prepared.checkpoint_bytes_read = 100;
  worker.prepared.checkpoint_bytes_share = 90;
  worker.exchange = {.exchanges = 2,
                     .peers_max = 1,
                     .messages = 4,
                     .bytes = 10,
                     .naive_peers_max = 7,
                     .naive_messages = 28,
                     .naive_bytes = 40};
  status.workers = {worker, worker};
  status.events = {"joined"};
  const boost::json::value json = boost::json::parse(ClusterStatusJson(status));
  EXPECT_EQ(json.at("state"), ClusterStateName(ClusterState::kServing));
  EXPECT_EQ(json.at("epoch"), 4);
  const boost::json::array& experts = json.at("plan").at("experts").as_array();
  ASSERT_EQ(experts.size(), 1u);
  EXPECT_EQ(experts[0].at("layers"), "1-2");
  EXPECT_EQ(experts[0].at("ranks"), (boost::json::array{"0-2/0", "2/0 0-2/1"}));
  EXPECT_EQ(json.at("workers").at(0).at("name"), "w\"0");
  EXPECT_EQ(json.at("workers").at(0).at("checkpoint_bytes_share"), 90);
  EXPECT_EQ(json.at("exchange_total").at("bytes"), 20);
  EXPECT_EQ(json.at("exchange_total").at("naive_messages"), 56);
  EXPECT_EQ(json.at("exchange_total").at("exchanges"), 2);
  EXPECT_EQ(json.at("exchange_total").at("naive_peers_max"), 7);
  EXPECT_EQ(json.at("events").at(0), "joined");
}

TEST(StatusCodecTest, EmptyStatus) {
  const boost::json::value json = boost::json::parse(ClusterStatusJson(ClusterStatus()));
  EXPECT_TRUE(json.at("workers").as_array().empty());
  EXPECT_TRUE(json.at("plan").at("experts").as_array().empty());
}

TEST(NpyTest, Header) {
  const std::string header = NpyFloatHeader({2, 3, 512});
  EXPECT_EQ(header.substr(0, 8), std::string("\x93NUMPY\x01\x00", 8));
  EXPECT_EQ(header.size() % 64, 0u);
  const size_t length = static_cast<uint8_t>(header[8]) + 256u * static_cast<uint8_t>(header[9]);
  EXPECT_EQ(10 + length, header.size());
  EXPECT_EQ(header.substr(10, 64),
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3, 512), }");
  EXPECT_EQ(header.back(), '\n');
  EXPECT_NE(NpyFloatHeader({5}).find("(5,)"), std::string::npos);
}

}  // namespace
}  // namespace conclave
