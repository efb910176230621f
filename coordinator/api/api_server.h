// ApiServer: the HTTP face of a coordinator (DESIGN 9): OpenAI's /v1/completions and /v1/models,
// /health, and the admin endpoints behind a bearer token. Owned by the coordinator's main; runs one
// thread; talks to the actor through ClusterService only, which must outlive it. Start and Stop are
// for the owner's thread.
//
//   GET  /health           200 serving, 503 with the reason
//   GET  /health/live      200 while the process lives
//   GET  /v1/models
//   POST /v1/completions   streamed or whole
//   GET  /admin/status     ClusterStatus as JSON
//   POST /admin/logits     {"input_ids": [[...]]} -> .npy
//   POST /admin/drain      finish what is open, then stop
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "comm/types/model_shape.h"
#include "coordinator/api/http_server.h"
#include "coordinator/service/cluster_service.h"
#include "coordinator/tokenizer/tokenizer.h"

namespace conclave {

struct ApiOptions {
  HttpServerOptions http;
  std::string model;  // as served
  ModelShape shape;
  std::string admin_token;  // empty: the admin endpoints answer 401 to all
  uint64_t random_seed =
      0;  // of the names and the seeds given to requests that bring none; choose it at random
  absl::Duration status_max = absl::Seconds(2);  // wait for the actor's answer
};

class ApiServer {
 public:
  virtual ~ApiServer() = default;  // stops
  // `tokenizer` may be null: prompts are then token ids and answers have no text. InvalidArgument:
  // bad host or port. Unavailable: the port is taken.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Start(const ApiOptions& options,
                                                          ClusterService& service,
                                                          const Tokenizer* tokenizer);
  virtual int port() const = 0;
  // Takes no new requests, lets answers that are complete leave, cancels the rest, joins the
  // thread.
  virtual void Stop() = 0;
};

}  // namespace conclave
