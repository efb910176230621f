// Status macros, used in every module: they return early with the error of an expression.
//
// Errors follow STYLE: InvalidArgument for input from outside, Unavailable / DeadlineExceeded /
// ResourceExhausted for the environment, CHECK (glog) for our own bugs. A message says what was
// attempted, with which ids, and what to do. Thread-safe: no state.
#pragma once

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/cord.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace conclave {

// `status` with "context: " put before its message and its payloads kept; Ok stays Ok.
inline absl::Status WithContext(const absl::Status& status, absl::string_view context) {
  if (status.ok()) return status;
  absl::Status longer(status.code(), absl::StrCat(context, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view name, const absl::Cord& payload) {
    longer.SetPayload(name, payload);
  });
  return longer;
}

}  // namespace conclave

#define CONCLAVE_CONCAT_INNER(a, b) a##b
#define CONCLAVE_CONCAT(a, b) CONCLAVE_CONCAT_INNER(a, b)

// Returns from the calling function when `expr` (an absl::Status) is an error.
#define RETURN_IF_ERROR(expr)                           \
  do {                                                  \
    if (absl::Status status_ = (expr); !status_.ok()) { \
      return status_;                                   \
    }                                                   \
  } while (false)

// ASSIGN_OR_RETURN(auto x, F()): the value of an absl::StatusOr, or return its error.
#define ASSIGN_OR_RETURN(lhs, expr) \
  CONCLAVE_ASSIGN_OR_RETURN_IMPL(CONCLAVE_CONCAT(status_or_, __LINE__), lhs, expr)
#define CONCLAVE_ASSIGN_OR_RETURN_IMPL(var, lhs, expr) \
  auto var = (expr);                                   \
  if (!var.ok()) return std::move(var).status();       \
  lhs = *std::move(var)
