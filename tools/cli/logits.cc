#include <boost/json.hpp>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "tools/cli/commands.h"
#include "tools/cli/server.h"
#include "tools/cli/tokens_file.h"

namespace conclave {

absl::Status RunLogits(const LogitsOptions& options, const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const auto sequences, ReadTokensFile(options.tokens_path));
  boost::json::array ids;
  for (const std::vector<int32_t>& sequence : sequences) {
    if (sequence.size() != sequences[0].size()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "--tokens '", options.tokens_path, "': input_ids[", ids.size(), "] has ", sequence.size(),
          " tokens, the first has ", sequences[0].size(), "; logits need sequences of one length"));
    }
    ids.push_back(boost::json::array(sequence.begin(), sequence.end()));
  }
  ASSIGN_OR_RETURN(std::unique_ptr<Server> server,
                   Server::Open(options.server, options.model, false, cancelled));
  const std::string body = boost::json::serialize(boost::json::object{{"input_ids", ids}});
  ASSIGN_OR_RETURN(const HttpResponse response, server->Client(true).Post("/admin/logits", body));
  RETURN_IF_ERROR(StatusFromHttp(response, "/admin/logits"));
  RETURN_IF_ERROR(WriteFileAtomically(options.out_path, response.body));
  return server->Close();
}

}  // namespace conclave
