#include "kernels/sbi_gemm/sbi_bench_kit.h"

#include <algorithm>

#include "glog/logging.h"
#include "kernels/sbi_gemm/sbi_bench_kernels.h"

#if CONCLAVE_CUDA
#include <cublasLt.h>
#include <cuda_runtime.h>
#include <dlfcn.h>

namespace conclave {
namespace {

void Check(cudaError_t error) { CHECK(error == cudaSuccess) << cudaGetErrorString(error); }

constexpr int64_t kWorkspaceBytes = 32 << 20;

class DlLtGemm : public LtGemm {
 public:
  explicit DlLtGemm(void* library)
      : create_(Find<decltype(&cublasLtCreate)>(library, "cublasLtCreate")),
        matmul_(Find<decltype(&cublasLtMatmul)>(library, "cublasLtMatmul")),
        describe_(Find<decltype(&cublasLtMatmulDescCreate)>(library, "cublasLtMatmulDescCreate")),
        set_(Find<decltype(&cublasLtMatmulDescSetAttribute)>(library,
                                                             "cublasLtMatmulDescSetAttribute")),
        layout_(Find<decltype(&cublasLtMatrixLayoutCreate)>(library, "cublasLtMatrixLayoutCreate")),
        prefer_(Find<decltype(&cublasLtMatmulPreferenceCreate)>(library,
                                                                "cublasLtMatmulPreferenceCreate")),
        limit_(Find<decltype(&cublasLtMatmulPreferenceSetAttribute)>(
            library, "cublasLtMatmulPreferenceSetAttribute")),
        choose_(Find<decltype(&cublasLtMatmulAlgoGetHeuristic)>(library,
                                                                "cublasLtMatmulAlgoGetHeuristic")),
        workspace_(kWorkspaceBytes) {
    CHECK_EQ(create_(&handle_), CUBLAS_STATUS_SUCCESS);
    CHECK_EQ(describe_(&product_, CUBLAS_COMPUTE_32F, CUDA_R_32F), CUBLAS_STATUS_SUCCESS);
    const cublasOperation_t transposed = CUBLAS_OP_T;
    set_(product_, CUBLASLT_MATMUL_DESC_TRANSA, &transposed, sizeof(transposed));
    prefer_(&preference_);
    limit_(preference_, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
           sizeof(kWorkspaceBytes));
  }

  bool Record(const Operands& o, CudaStream stream) override {
    if (o.tokens != tokens_ || o.outputs != outputs_ || o.inputs != inputs_) {
      tokens_ = o.tokens;
      outputs_ = o.outputs;
      inputs_ = o.inputs;
      // Column-major: w is [inputs x outputs], transposed; x [inputs x tokens]; y [outputs x
      // tokens]. Layouts of earlier shapes live as long as the program.
      layout_(&w_, CUDA_R_16BF, o.inputs, o.outputs, o.inputs);
      layout_(&x_, CUDA_R_16BF, o.inputs, o.tokens, o.inputs);
      layout_(&y_, CUDA_R_16BF, o.outputs, o.tokens, o.outputs);
      int found = 0;
      const cublasStatus_t status =
          choose_(handle_, product_, w_, x_, y_, y_, preference_, 1, &algorithm_, &found);
      usable_ = status == CUBLAS_STATUS_SUCCESS && found == 1;
    }
    if (!usable_) return false;
    const float one = 1, zero = 0;
    return matmul_(handle_, product_, &one, o.weights, w_, o.x, x_, &zero, o.y, y_, o.y, y_,
                   &algorithm_.algo, workspace_.data(), kWorkspaceBytes,
                   stream) == CUBLAS_STATUS_SUCCESS;
  }

 private:
  template <typename F>
  static F Find(void* library, const char* name) {
    void* symbol = dlsym(library, name);
    CHECK(symbol != nullptr) << name;
    return reinterpret_cast<F>(symbol);
  }

  const decltype(&cublasLtCreate) create_;
  const decltype(&cublasLtMatmul) matmul_;
  const decltype(&cublasLtMatmulDescCreate) describe_;
  const decltype(&cublasLtMatmulDescSetAttribute) set_;
  const decltype(&cublasLtMatrixLayoutCreate) layout_;
  const decltype(&cublasLtMatmulPreferenceCreate) prefer_;
  const decltype(&cublasLtMatmulPreferenceSetAttribute) limit_;
  const decltype(&cublasLtMatmulAlgoGetHeuristic) choose_;
  DeviceBytes workspace_;
  cublasLtHandle_t handle_ = nullptr;
  cublasLtMatmulDesc_t product_ = nullptr;
  cublasLtMatmulPreference_t preference_ = nullptr;
  cublasLtMatrixLayout_t w_ = nullptr, x_ = nullptr, y_ = nullptr;
  cublasLtMatmulHeuristicResult_t algorithm_ = {};
  int tokens_ = 0, outputs_ = 0, inputs_ = 0;
  bool usable_ = false;
};

}  // namespace

double MeasureGraph(const std::function<void(CudaStream)>& record, int runs) {
  cudaStream_t stream;
  cudaGraph_t graph;
  cudaGraphExec_t runnable;
  cudaEvent_t begin, end;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  Check(cudaEventCreate(&begin));
  Check(cudaEventCreate(&end));
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
  record(stream);
  Check(cudaStreamEndCapture(stream, &graph));
  Check(cudaGraphInstantiate(&runnable, graph, 0));
  std::vector<double> times;
  for (int i = 0; i < runs + 2; ++i) {
    Check(cudaEventRecord(begin, stream));
    Check(cudaGraphLaunch(runnable, stream));
    Check(cudaEventRecord(end, stream));
    Check(cudaEventSynchronize(end));
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end));
    if (i >= 2) times.push_back(milliseconds * 1e3);
  }
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  Check(cudaGraphExecDestroy(runnable));
  Check(cudaGraphDestroy(graph));
  Check(cudaEventDestroy(begin));
  Check(cudaEventDestroy(end));
  Check(cudaStreamDestroy(stream));
  return times[runs / 2];
}

WeightPool::WeightPool(int64_t bytes) : pool_(bytes) {
  CHECK(FillPool(pool_.data(), bytes, nullptr).ok());
  SynchronizeDevice();
}

WeightView WeightPool::Take(int outputs, int inputs, int matrices, WeightFormat format,
                            int32_t group) {
  WeightView view = {
      .outputs = outputs, .inputs = inputs, .matrices = matrices, .format = format, .group = group};
  const int64_t tiles = int64_t{view.output_tiles()} * view.input_tiles();
  view.matrix_bytes = (tiles * SbiTileBytes(format, group).value() + 1023) / 1024 * 1024;
  if (next_ + view.matrix_bytes * matrices > pool_.bytes()) next_ = 0;
  view.data = static_cast<const uint8_t*>(pool_.data()) + next_;
  next_ += view.matrix_bytes * matrices;
  return view;
}

double WeightPool::MeasureRead() {
  DeviceArray<uint32_t> sums(kReadPoolSums);
  const double us = MeasureGraph(
      [&](CudaStream stream) {
        CHECK(ReadPool(pool_.data(), pool_.bytes(), sums.get(), stream).ok());
      },
      7);
  return static_cast<double>(pool_.bytes()) / us * 1e6;
}

std::unique_ptr<LtGemm> LtGemm::Load() {
  for (const char* name : {"libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13"}) {
    if (void* library = dlopen(name, RTLD_NOW)) return std::make_unique<DlLtGemm>(library);
  }
  return nullptr;
}

}  // namespace conclave
#endif
