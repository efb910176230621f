#include "kernels/tile_gemm/cublas_lt.h"

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"

#if CONCLAVE_CUDA && __has_include(<cublasLt.h>)
#include <cublasLt.h>
#include <dlfcn.h>
#define CONCLAVE_CUBLAS 1
#endif

namespace conclave {

#if CONCLAVE_CUBLAS
namespace {

constexpr int64_t kWorkspaceBytes = int64_t{64} << 20;

absl::Status Check(cublasStatus_t status, const char* attempt) {
  if (status == CUBLAS_STATUS_SUCCESS) return absl::OkStatus();
  return absl::InternalError(absl::StrCat(attempt, " failed with cuBLAS status ", status));
}

struct Functions {
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmul) matmul;
};

template <typename F>
bool Find(void* library, const char* name, F& function) {
  function = reinterpret_cast<F>(dlsym(library, name));
  return function != nullptr;
}

bool FindAll(void* library, Functions& f) {
  return Find(library, "cublasLtCreate", f.create) &&
         Find(library, "cublasLtMatmulDescCreate", f.desc_create) &&
         Find(library, "cublasLtMatmulDescSetAttribute", f.desc_set) &&
         Find(library, "cublasLtMatmulDescDestroy", f.desc_destroy) &&
         Find(library, "cublasLtMatrixLayoutCreate", f.layout_create) &&
         Find(library, "cublasLtMatrixLayoutDestroy", f.layout_destroy) &&
         Find(library, "cublasLtMatmulPreferenceCreate", f.preference_create) &&
         Find(library, "cublasLtMatmulPreferenceSetAttribute", f.preference_set) &&
         Find(library, "cublasLtMatmulPreferenceDestroy", f.preference_destroy) &&
         Find(library, "cublasLtMatmulAlgoGetHeuristic", f.heuristic) &&
         Find(library, "cublasLtMatmul", f.matmul);
}

// The handle and the library stay until the program ends.
class LoadedCublasLt : public CublasLt {
 public:
  LoadedCublasLt(const Functions& f, cublasLtHandle_t handle, void* workspace)
      : f_(f), handle_(handle), workspace_(workspace) {}

  absl::Status Multiply(const CublasProduct& p, CudaStream stream) override {
    cublasLtMatmulDesc_t desc = nullptr;
    RETURN_IF_ERROR(Check(f_.desc_create(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "a product"));
    const cublasOperation_t transpose = CUBLAS_OP_T;
    RETURN_IF_ERROR(Check(
        f_.desc_set(desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose, sizeof(transpose)), "TRANSA"));
    // Column-major for cuBLAS: out^T = W x^T.
    cublasLtMatrixLayout_t w = nullptr, x = nullptr, out = nullptr;
    RETURN_IF_ERROR(Check(f_.layout_create(&w, CUDA_R_16BF, p.inputs, p.outputs, p.inputs), "W"));
    RETURN_IF_ERROR(Check(f_.layout_create(&x, CUDA_R_16BF, p.inputs, p.rows, p.inputs), "x"));
    RETURN_IF_ERROR(
        Check(f_.layout_create(&out, CUDA_R_16BF, p.outputs, p.rows, p.outputs), "out"));
    cublasLtMatmulPreference_t preference = nullptr;
    RETURN_IF_ERROR(Check(f_.preference_create(&preference), "a preference"));
    const size_t bytes = kWorkspaceBytes;
    RETURN_IF_ERROR(Check(f_.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                            &bytes, sizeof(bytes)),
                          "the workspace"));
    cublasLtMatmulHeuristicResult_t chosen = {};
    int found = 0;
    RETURN_IF_ERROR(Check(
        f_.heuristic(handle_, desc, w, x, out, out, preference, 1, &chosen, &found), "a choice"));
    const float one = 1, zero = 0;
    const cublasStatus_t status =
        f_.matmul(handle_, desc, &one, p.w, w, p.x, x, &zero, p.out, out, p.out, out, &chosen.algo,
                  workspace_, kWorkspaceBytes, stream);
    f_.preference_destroy(preference);
    for (cublasLtMatrixLayout_t layout : {w, x, out}) f_.layout_destroy(layout);
    f_.desc_destroy(desc);
    return Check(status, "cublasLtMatmul");
  }

 private:
  Functions f_;
  cublasLtHandle_t handle_;
  void* workspace_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Create() {
  void* library = dlopen("libcublasLt.so.13", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) library = dlopen("libcublasLt.so.12", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return absl::UnavailableError(dlerror());
  Functions f;
  if (!FindAll(library, f)) return absl::UnavailableError("libcublasLt lacks a function");
  cublasLtHandle_t handle = nullptr;
  RETURN_IF_ERROR(Check(f.create(&handle), "cublasLtCreate"));
  void* workspace = nullptr;
  if (cudaMalloc(&workspace, kWorkspaceBytes) != cudaSuccess) {
    return absl::ResourceExhaustedError("no memory for cuBLASLt's workspace");
  }
  return std::make_unique<LoadedCublasLt>(f, handle, workspace);
}

#else

absl::StatusOr<std::unique_ptr<CublasLt>> CublasLt::Create() {
  return absl::UnavailableError("built without cublasLt.h");
}

#endif

}  // namespace conclave
