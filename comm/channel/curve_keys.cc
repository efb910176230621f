#include "comm/channel/curve_keys.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr size_t kZ85Chars = 40;
constexpr size_t kKeyFileBytesMax = 4096;
constexpr size_t kAllowedKeysMax = 1 << 16;

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }
  bool ok() const { return fd_ >= 0; }

 private:
  const int fd_;
};

absl::Status FileError(absl::string_view what, const std::string& path, int error) {
  return absl::UnavailableError(
      absl::StrCat("cannot ", what, " key file ", path, ": ", std::strerror(error)));
}

absl::Status BadFile(const std::string& path, absl::string_view problem) {
  return absl::InvalidArgumentError(absl::StrCat("key file ", path, ": ", problem));
}

struct KeyFile {
  std::string text;
  mode_t mode = 0;
};

// NotFound when there is none.
absl::StatusOr<KeyFile> ReadKeyFile(const std::string& path) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.ok() && errno == ENOENT) {
    return absl::NotFoundError(absl::StrCat("there is no key file ", path));
  }
  struct stat info;
  if (!file.ok() || fstat(file.get(), &info) != 0) return FileError("open", path, errno);
  if (!S_ISREG(info.st_mode)) return BadFile(path, "is not a regular file; name another");
  KeyFile out;
  out.mode = info.st_mode;
  out.text.resize(kKeyFileBytesMax + 1);
  const ssize_t size = read(file.get(), out.text.data(), out.text.size());
  if (size < 0) return FileError("read", path, errno);
  if (static_cast<size_t>(size) > kKeyFileBytesMax) {
    return BadFile(path, "is larger than 4096 bytes; that is no key");
  }
  out.text.resize(size);
  return out;
}

// The keys that lines "public K" and "secret K" of `text` give; empty where there is none.
absl::StatusOr<CurveKeys> ParseKeys(const std::string& path, absl::string_view text) {
  CurveKeys keys;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    absl::string_view rest = absl::StripSuffix(line, "\r");
    std::string* key = nullptr;
    if (absl::ConsumePrefix(&rest, "public ")) {
      key = &keys.public_key;
    } else if (absl::ConsumePrefix(&rest, "secret ")) {
      key = &keys.secret_key;
    }
    if (key == nullptr) continue;
    if (!IsCurveKey(rest)) {
      return BadFile(path,
                     "a key is not 40 characters of Z85; restore the file, or delete it to "
                     "have new keys made");
    }
    *key = std::string(rest);
  }
  return keys;
}

absl::StatusOr<CurveKeys> LoadCurveKeys(const std::string& path) {
  ASSIGN_OR_RETURN(const KeyFile file, ReadKeyFile(path));
  if ((file.mode & 077) != 0) {
    return BadFile(path, absl::StrFormat("others may read it (mode %o); run chmod 600 %s",
                                         file.mode & 0777, path));
  }
  ASSIGN_OR_RETURN(CurveKeys keys, ParseKeys(path, file.text));
  if (keys.public_key.empty() || keys.secret_key.empty()) {
    return BadFile(path,
                   "lacks a line 'public KEY' or 'secret KEY'; restore the file, or delete "
                   "it to have new keys made");
  }
  std::array<char, kZ85Chars + 1> derived;
  if (zmq_curve_public(derived.data(), keys.secret_key.c_str()) != 0 ||
      keys.public_key != derived.data()) {
    return BadFile(path,
                   "its public key does not belong to its secret key; restore the file, or "
                   "delete it to have new keys made");
  }
  return keys;
}

absl::Status WriteAll(int fd, const std::string& path, absl::string_view text) {
  while (!text.empty()) {
    const ssize_t written = write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return FileError("write", path, errno);
    text.remove_prefix(written);
  }
  if (fsync(fd) != 0) return FileError("write", path, errno);
  return absl::OkStatus();
}

// Puts `text` at `path` whole or not at all. AlreadyExists when a file is there; it stays.
absl::Status Publish(const std::string& path, absl::string_view text, mode_t mode) {
  std::string temporary = path + ".XXXXXX";
  const FileDescriptor file(mkostemp(temporary.data(), O_CLOEXEC));
  if (!file.ok()) return FileError("create", path, errno);
  absl::Status status = WriteAll(file.get(), path, text);
  if (status.ok() && fchmod(file.get(), mode) != 0) status = FileError("create", path, errno);
  if (status.ok() && link(temporary.c_str(), path.c_str()) != 0) {
    status = errno == EEXIST ? absl::AlreadyExistsError(path) : FileError("create", path, errno);
  }
  unlink(temporary.c_str());
  return status;
}

absl::Status MakeParentFolder(const std::string& path) {
  const std::filesystem::path parent = std::filesystem::path(path).parent_path();
  std::error_code error;
  if (parent.empty() || std::filesystem::exists(parent, error)) return absl::OkStatus();
  std::filesystem::create_directories(parent, error);
  if (error) return FileError("make the folder of", path, error.value());
  std::filesystem::permissions(parent, std::filesystem::perms::owner_all, error);
  return error ? FileError("protect the folder of", path, error.value()) : absl::OkStatus();
}

absl::Status CreateCurveKeys(const std::string& path) {
  RETURN_IF_ERROR(MakeParentFolder(path));
  const CurveKeys keys = MakeCurveKeys();
  const absl::Status status =
      Publish(path,
              absl::StrCat("# CURVE key of a Conclave process. Keep it secret.\npublic ",
                           keys.public_key, "\nsecret ", keys.secret_key, "\n"),
              0600);
  if (absl::IsAlreadyExists(status)) return absl::OkStatus();  // another process was quicker
  if (status.ok()) unlink(PublicKeyPath(path).c_str());        // of a secret key that is gone
  return status;
}

absl::Status PublishPublicKey(const std::string& path, const std::string& public_key) {
  const absl::Status status =
      Publish(PublicKeyPath(path),
              absl::StrCat("# Put this file where a coordinator finds the keys it allows.\npublic ",
                           public_key, "\n"),
              0644);
  return absl::IsAlreadyExists(status) ? absl::OkStatus() : status;
}

}  // namespace

CurveKeys MakeCurveKeys() {
  std::array<char, kZ85Chars + 1> public_key;
  std::array<char, kZ85Chars + 1> secret_key;
  CHECK_EQ(zmq_curve_keypair(public_key.data(), secret_key.data()), 0)
      << "this libzmq has no CURVE: " << zmq_strerror(zmq_errno());
  return {public_key.data(), secret_key.data()};
}

bool IsCurveKey(absl::string_view z85) {
  if (z85.size() != kZ85Chars) return false;
  std::array<uint8_t, 32> bytes;
  return zmq_z85_decode(bytes.data(), std::string(z85).c_str()) != nullptr;
}

std::string PublicKeyPath(const std::string& path) {
  return absl::StrCat(absl::StripSuffix(path, ".key"), ".pub");
}

absl::StatusOr<CurveKeys> LoadOrCreateCurveKeys(const std::string& path) {
  absl::StatusOr<CurveKeys> keys = LoadCurveKeys(path);
  if (absl::IsNotFound(keys.status())) {
    RETURN_IF_ERROR(CreateCurveKeys(path));
    keys = LoadCurveKeys(path);
  }
  if (!keys.ok() || access(PublicKeyPath(path).c_str(), F_OK) == 0) return keys;
  RETURN_IF_ERROR(PublishPublicKey(path, keys->public_key));
  return keys;
}

absl::StatusOr<std::string> LoadPublicKey(const std::string& path) {
  ASSIGN_OR_RETURN(const KeyFile file, ReadKeyFile(path));
  ASSIGN_OR_RETURN(CurveKeys keys, ParseKeys(path, file.text));
  if (keys.public_key.empty()) return BadFile(path, "lacks a line 'public KEY'");
  return std::move(keys.public_key);
}

absl::StatusOr<std::vector<std::string>> LoadAllowedKeys(const std::string& folder) {
  std::error_code error;
  std::filesystem::directory_iterator files(folder, error);
  std::vector<std::string> keys;
  for (; !error && files != std::filesystem::directory_iterator(); files.increment(error)) {
    if (files->path().extension() != ".pub") continue;
    absl::StatusOr<std::string> key = LoadPublicKey(files->path().string());
    if (!key.ok()) {
      LOG(WARNING) << "not allowed: " << key.status().message();
      continue;
    }
    if (keys.size() >= kAllowedKeysMax) {
      return absl::UnavailableError(absl::StrCat("folder of allowed keys ", folder,
                                                 " holds more than ", kAllowedKeysMax, " keys"));
    }
    keys.push_back(*std::move(key));
  }
  if (error) {
    return absl::UnavailableError(absl::StrCat("cannot read the folder of allowed keys ", folder,
                                               ": ", error.message(), "; make it readable"));
  }
  std::sort(keys.begin(), keys.end());
  return keys;
}

}  // namespace conclave
