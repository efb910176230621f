// The cluster's status as tables for a terminal, from the JSON of /admin/status. Pure; throws
// nothing: a missing field shows as empty.
#pragma once

#include <boost/json.hpp>
#include <string>

namespace conclave {

// One line: model, state, epoch, grid.
std::string RenderHeadline(const boost::json::object& status);

// Who holds which slice and which experts: a line for each rank.
std::string RenderPlan(const boost::json::object& status);

// MoE traffic since the epoch began, beside what a naive all-to-all would have sent: peers,
// messages and bytes of a rank for each exchange and of the cluster for each step.
std::string RenderTraffic(const boost::json::object& status);

// All of it, with requests and the latest events.
std::string RenderStatus(const boost::json::object& status);

}  // namespace conclave
