#include "comm/fabric/nccl/nccl_api.h"

#include <dlfcn.h>

#include <cstdlib>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

constexpr char kDefaultLibrary[] = "libnccl.so.2";
constexpr char kLibraryVariable[] = "CONCLAVE_NCCL_LIBRARY";

std::string Remedy() {
  return absl::StrCat("install NCCL ", NcclVersionText(kNcclVersionMin),
                      " or newer, or name its library in ", kLibraryVariable,
                      ", or use the UCX fabric");
}

template <typename R, typename... Args>
void Bind(std::function<R(Args...)>& to, const NcclSymbolLookup& lookup, const char* name) {
  if (void* symbol = lookup(name); symbol != nullptr) to = reinterpret_cast<R (*)(Args...)>(symbol);
}

// The C names of the needed functions that `api` lacks.
std::vector<std::string> MissingFunctions(const NcclApi& api) {
  std::vector<std::string> missing;
  const auto need = [&](bool present, const char* name) {
    if (!present) missing.push_back(name);
  };
  need(api.get_unique_id != nullptr, "ncclGetUniqueId");
  need(api.comm_init_rank_config != nullptr, "ncclCommInitRankConfig");
  need(api.comm_finalize != nullptr, "ncclCommFinalize");
  need(api.comm_destroy != nullptr, "ncclCommDestroy");
  need(api.comm_abort != nullptr, "ncclCommAbort");
  need(api.comm_shrink != nullptr, "ncclCommShrink");
  need(api.comm_get_async_error != nullptr, "ncclCommGetAsyncError");
  need(api.get_error_string != nullptr, "ncclGetErrorString");
  need(api.get_last_error != nullptr, "ncclGetLastError");
  need(api.group_start != nullptr, "ncclGroupStart");
  need(api.group_end != nullptr, "ncclGroupEnd");
  need(api.send != nullptr, "ncclSend");
  need(api.recv != nullptr, "ncclRecv");
  need(api.all_reduce != nullptr, "ncclAllReduce");
  need(api.reduce_scatter != nullptr, "ncclReduceScatter");
  need(api.all_gather != nullptr, "ncclAllGather");
  need(api.broadcast != nullptr, "ncclBroadcast");
  return missing;
}

std::vector<NcclFeature> ListFeatures(const NcclApi& api) {
  std::vector<NcclFeature> features;
  const auto add = [&](const char* name, const char* function, bool present) {
    features.push_back({name, present, absl::StrCat(present ? "has " : "no ", function)});
  };
  add("all_to_all", "ncclAlltoAll", api.all_to_all != nullptr);
  const char* lacking = api.comm_window_register == nullptr     ? "ncclCommWindowRegister"
                        : api.comm_window_deregister == nullptr ? "ncclCommWindowDeregister"
                        : api.mem_alloc == nullptr              ? "ncclMemAlloc"
                        : api.mem_free == nullptr               ? "ncclMemFree"
                                                                : nullptr;
  add("symmetric_windows", lacking == nullptr ? "ncclCommWindowRegister" : lacking,
      lacking == nullptr);
  add("device_api", "ncclDevCommCreate", api.has_device_api);
  return features;
}

}  // namespace

std::string NcclVersionText(int version) {
  return absl::StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

std::string DescribeNccl(const NcclApi& api) {
  std::vector<std::string> present, absent;
  for (const NcclFeature& feature : api.features) {
    if (feature.present) {
      present.push_back(feature.name);
    } else {
      absent.push_back(absl::StrCat(feature.name, " (", feature.detail, ")"));
    }
  }
  std::string text = absl::StrCat("NCCL ", NcclVersionText(api.version), " (", api.library, ")");
  if (!present.empty()) absl::StrAppend(&text, ": ", absl::StrJoin(present, ", "));
  if (!absent.empty()) absl::StrAppend(&text, "; without ", absl::StrJoin(absent, ", "));
  return text;
}

absl::Status CheckNcclApi(NcclApi& api) {
  const auto refuse = [&](absl::string_view what) {
    return absl::FailedPreconditionError(
        absl::StrCat("NCCL library ", api.library, " ", what, "; ", Remedy()));
  };
  if (api.get_version == nullptr) return refuse("has no ncclGetVersion: it is not NCCL");
  int version = 0;
  if (const NcclResult result = api.get_version(&version); result != NcclResult::kSuccess) {
    return refuse(
        absl::StrCat("does not tell its version (ncclResult_t ", static_cast<int>(result), ")"));
  }
  if (version < kNcclVersionMin) {
    // Up to 2.8 the code was major * 1000 + minor * 100 + patch.
    const std::string text =
        version < 10000 ? absl::StrCat(version / 1000, ".", version / 100 % 10, ".", version % 100)
                        : NcclVersionText(version);
    return refuse(absl::StrCat("is version ", text, ", older than ",
                               NcclVersionText(kNcclVersionMin), " (ncclCommShrink)"));
  }
  if (const auto missing = MissingFunctions(api); !missing.empty()) {
    return refuse(absl::StrCat("of version ", NcclVersionText(version), " lacks ",
                               absl::StrJoin(missing, ", ")));
  }
  api.version = version;
  api.features = ListFeatures(api);
  return absl::OkStatus();
}

NcclApi BindNcclApi(const NcclSymbolLookup& lookup, absl::string_view library) {
  NcclApi api;
  api.library = std::string(library);
  Bind(api.get_version, lookup, "ncclGetVersion");
  Bind(api.get_unique_id, lookup, "ncclGetUniqueId");
  Bind(api.comm_init_rank_config, lookup, "ncclCommInitRankConfig");
  Bind(api.comm_finalize, lookup, "ncclCommFinalize");
  Bind(api.comm_destroy, lookup, "ncclCommDestroy");
  Bind(api.comm_abort, lookup, "ncclCommAbort");
  Bind(api.comm_shrink, lookup, "ncclCommShrink");
  Bind(api.comm_get_async_error, lookup, "ncclCommGetAsyncError");
  Bind(api.get_error_string, lookup, "ncclGetErrorString");
  Bind(api.get_last_error, lookup, "ncclGetLastError");
  Bind(api.group_start, lookup, "ncclGroupStart");
  Bind(api.group_end, lookup, "ncclGroupEnd");
  Bind(api.send, lookup, "ncclSend");
  Bind(api.recv, lookup, "ncclRecv");
  Bind(api.all_reduce, lookup, "ncclAllReduce");
  Bind(api.reduce_scatter, lookup, "ncclReduceScatter");
  Bind(api.all_gather, lookup, "ncclAllGather");
  Bind(api.broadcast, lookup, "ncclBroadcast");
  Bind(api.all_to_all, lookup, "ncclAlltoAll");
  Bind(api.comm_window_register, lookup, "ncclCommWindowRegister");
  Bind(api.comm_window_deregister, lookup, "ncclCommWindowDeregister");
  Bind(api.mem_alloc, lookup, "ncclMemAlloc");
  Bind(api.mem_free, lookup, "ncclMemFree");
  api.has_device_api = lookup("ncclDevCommCreate") != nullptr;
  return api;
}

NcclLoadOptions NcclLoadOptionsFromEnvironment() {
  NcclLoadOptions options;
  if (const char* library = std::getenv(kLibraryVariable); library != nullptr) {
    options.library = library;
  }
  return options;
}

absl::StatusOr<std::shared_ptr<const NcclApi>> LoadNccl(const NcclLoadOptions& options) {
  const std::string library = options.library.empty() ? kDefaultLibrary : options.library;
  // Read by NCCL at its first use. Multicast needs fabric-manager set-up that containers often
  // lack, and then fails in the middle of init.
  if (!options.nvls) setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    const char* error = dlerror();
    return absl::NotFoundError(absl::StrCat("cannot open the NCCL library ", library, ": ",
                                            error == nullptr ? "no reason given" : error, "; ",
                                            Remedy()));
  }
  auto api = std::make_shared<NcclApi>(
      BindNcclApi([handle](const char* name) { return dlsym(handle, name); }, library));
  RETURN_IF_ERROR(CheckNcclApi(*api));
  return api;
}

}  // namespace conclave
