// CURVE keys of a process: made on first start, kept in a file that only its owner can read, with
// the public half in a ".pub" file beside it to copy to other machines. Functions are pure but for
// the files they name; any thread.
//
// Files hold "public Z85" and, the secret one, "secret Z85", a line each; other lines start with "#
// ".
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// Both in Z85 (ZeroMQ RFC 32), 40 characters.
struct CurveKeys {
  std::string public_key;
  std::string secret_key;
  bool operator==(const CurveKeys&) const = default;
};

// A new random pair, in memory only.
CurveKeys MakeCurveKeys();

// True for 40 characters of Z85 that stand for 32 bytes.
bool IsCurveKey(absl::string_view z85);

// "keys/worker.pub" for "keys/worker.key".
std::string PublicKeyPath(const std::string& path);

// The keys in `path` ("keys/worker.key"), made there first (mode 0600, missing folders 0700) when
// there are none; PublicKeyPath(path) is made when it is missing. Two processes that start at once
// end up with one pair. InvalidArgument names the file when it is malformed, its halves do not
// belong together, or others may read it; Unavailable when it cannot be read or written.
absl::StatusOr<CurveKeys> LoadOrCreateCurveKeys(const std::string& path);

// The public key in a ".pub" file, or in a secret key file.
absl::StatusOr<std::string> LoadPublicKey(const std::string& path);

// The public keys of all files "*.pub" of `folder`, sorted. Files that hold none are skipped with a
// warning: one bad file must not lock everybody out. Unavailable when the folder cannot be read.
absl::StatusOr<std::vector<std::string>> LoadAllowedKeys(const std::string& folder);

}  // namespace conclave
