// JSON whose numbers survive: what PrettyJson writes, ParseExactJson reads back bit for bit, which
// Boost.JSON's own parser does not promise of doubles. For files that must be reproducible. Pure;
// any thread.
#pragma once

#include <boost/json.hpp>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Parses strict UTF-8 JSON nested at most 32 deep; every number becomes the nearest double, or an
// int64 when it is written as one. InvalidArgument: `context`, what is wrong, and the remedy.
absl::StatusOr<boost::json::value> ParseExactJson(absl::string_view text,
                                                  absl::string_view context);

// Two blanks a level, a line for each member; arrays of plain values stay on one line. Doubles in
// the shortest form that reads back as the same double; those that are not finite as null. Ends
// with a newline.
std::string PrettyJson(const boost::json::value& value);

}  // namespace conclave
