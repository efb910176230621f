// The table from named functions: what is missing is said by name; the library of this machine.
#include "comm/fabric/nccl/nccl_api.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <set>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::Not;

template <int kVersion>
NcclResult Version(int* version) {
  *version = kVersion;
  return NcclResult::kSuccess;
}
NcclResult NoVersion(int*) { return NcclResult::kInternalError; }
NcclResult UniqueId(NcclUniqueId* id) {
  std::memset(id->bytes, 7, sizeof(id->bytes));
  return NcclResult::kSuccess;
}
void Unused() {}

using VersionFunction = NcclResult (*)(int*);

// A library with every function but `missing`.
NcclSymbolLookup Library(VersionFunction version, std::set<std::string> missing = {}) {
  return [version, missing](const char* name) -> void* {
    if (missing.contains(name)) return nullptr;
    if (std::strcmp(name, "ncclGetVersion") == 0) return reinterpret_cast<void*>(version);
    if (std::strcmp(name, "ncclGetUniqueId") == 0) return reinterpret_cast<void*>(&UniqueId);
    return reinterpret_cast<void*>(&Unused);
  };
}

std::string Refusal(const NcclSymbolLookup& lookup) {
  NcclApi api = BindNcclApi(lookup, "libtest.so");
  const absl::Status status = CheckNcclApi(api);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
  return std::string(status.message());
}

TEST(NcclApiTest, AWholeLibraryIsTaken) {
  NcclApi api = BindNcclApi(Library(&Version<22809>), "libtest.so");
  ASSERT_EQ(CheckNcclApi(api), absl::OkStatus());
  EXPECT_EQ(api.version, NcclVersionCode(2, 28, 9));
  NcclUniqueId id = {};
  EXPECT_EQ(api.get_unique_id(&id), NcclResult::kSuccess);
  EXPECT_EQ(id.bytes[127], 7);
  EXPECT_EQ(DescribeNccl(api),
            "NCCL 2.28.9 (libtest.so): all_to_all, symmetric_windows, device_api");
}

TEST(NcclApiTest, WhatOnlyNewerLibrariesHaveIsSwitchedOffByName) {
  NcclApi api = BindNcclApi(
      Library(&Version<22705>, {"ncclAlltoAll", "ncclDevCommCreate", "ncclMemFree"}), "libtest.so");
  ASSERT_EQ(CheckNcclApi(api), absl::OkStatus());
  EXPECT_EQ(api.all_to_all, nullptr);
  EXPECT_EQ(DescribeNccl(api),
            "NCCL 2.27.5 (libtest.so); without all_to_all (no ncclAlltoAll), symmetric_windows (no "
            "ncclMemFree), device_api (no ncclDevCommCreate)");
}

TEST(NcclApiTest, AnOldLibraryIsRefusedWithBothVersions) {
  EXPECT_THAT(Refusal(Library(&Version<22602>)),
              HasSubstr("libtest.so is version 2.26.2, older than 2.27.0 (ncclCommShrink); install "
                        "NCCL 2.27.0 or newer, or name its library in CONCLAVE_NCCL_LIBRARY"));
  EXPECT_THAT(Refusal(Library(&Version<2708>)), HasSubstr("version 2.7.8"));
}

TEST(NcclApiTest, MissingFunctionsAreListed) {
  EXPECT_THAT(Refusal(Library(&Version<22809>, {"ncclSend", "ncclCommShrink"})),
              HasSubstr("of version 2.28.9 lacks ncclCommShrink, ncclSend; "));
  EXPECT_THAT(Refusal(Library(&Version<22809>, {"ncclGetVersion"})), HasSubstr("it is not NCCL"));
  EXPECT_THAT(Refusal(Library(&NoVersion)), HasSubstr("does not tell its version"));
}

TEST(NcclApiTest, EveryNeededFunctionIsMissed) {
  for (const char* name :
       {"ncclGetUniqueId", "ncclCommInitRankConfig", "ncclCommFinalize", "ncclCommDestroy",
        "ncclCommAbort", "ncclCommShrink", "ncclCommGetAsyncError", "ncclGetErrorString",
        "ncclGetLastError", "ncclGroupStart", "ncclGroupEnd", "ncclSend", "ncclRecv",
        "ncclAllReduce", "ncclReduceScatter", "ncclAllGather", "ncclBroadcast"}) {
    EXPECT_THAT(Refusal(Library(&Version<22809>, {name})),
                HasSubstr(absl::StrCat(" lacks ", name, ";")));
  }
}

TEST(NcclApiTest, AnAbsentLibrarySaysWhatWasTriedAndWhatToDo) {
  const auto api = LoadNccl({"libno_such_nccl.so.9"});
  EXPECT_EQ(api.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(api.status().message()),
              testing::AllOf(HasSubstr("cannot open the NCCL library libno_such_nccl.so.9: "),
                             HasSubstr("CONCLAVE_NCCL_LIBRARY")));
}

TEST(NcclApiTest, AnotherLibraryIsNotTakenForNccl) {
  const auto api = LoadNccl({"libm.so.6"});
  EXPECT_EQ(api.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(api.status().message()), HasSubstr("libm.so.6 has no ncclGetVersion"));
}

TEST(NcclApiTest, MulticastIsOffUnlessTheUserSetIt) {
  unsetenv("NCCL_NVLS_ENABLE");
  (void)LoadNccl({"libno_such_nccl.so.9"});
  EXPECT_STREQ(std::getenv("NCCL_NVLS_ENABLE"), "0");
  setenv("NCCL_NVLS_ENABLE", "1", 1);
  (void)LoadNccl({"libno_such_nccl.so.9"});
  EXPECT_STREQ(std::getenv("NCCL_NVLS_ENABLE"), "1");
  unsetenv("NCCL_NVLS_ENABLE");
  (void)LoadNccl({"libno_such_nccl.so.9", /*nvls=*/true});
  EXPECT_EQ(std::getenv("NCCL_NVLS_ENABLE"), nullptr);
}

TEST(NcclApiTest, TheEnvironmentNamesTheLibrary) {
  setenv("CONCLAVE_NCCL_LIBRARY", "/opt/nccl/libnccl.so.2", 1);
  EXPECT_EQ(NcclLoadOptionsFromEnvironment().library, "/opt/nccl/libnccl.so.2");
  unsetenv("CONCLAVE_NCCL_LIBRARY");
  EXPECT_EQ(NcclLoadOptionsFromEnvironment().library, "");
}

// The one test on the real library: it needs no GPU to tell its version and make an id.
TEST(NcclApiTest, TheLibraryOfThisMachine) {
  NcclLoadOptions options = NcclLoadOptionsFromEnvironment();
  auto api = LoadNccl(options);
  if (!api.ok() && options.library.empty()) api = LoadNccl({"/usr/local/cuda/lib64/libnccl.so.2"});
  if (!api.ok()) GTEST_SKIP() << api.status().message();
  EXPECT_GE((*api)->version, kNcclVersionMin);
  EXPECT_THAT(DescribeNccl(**api), HasSubstr("NCCL 2."));
  EXPECT_THAT(std::string((*api)->get_error_string(NcclResult::kRemoteError)),
              Not(HasSubstr("no error")));
}

}  // namespace
}  // namespace conclave
