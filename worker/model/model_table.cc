#include "worker/model/model_table.h"

#include "glog/logging.h"

namespace conclave {

LayerFunction LayerOf(Architecture architecture) {
  switch (architecture) {
    case Architecture::kLlama:
      return LlamaLayer;
    case Architecture::kQwen3:
      return Qwen3Layer;
    case Architecture::kMixtral:
      return MixtralLayer;
    case Architecture::kOlmoe:
      return OlmoeLayer;
    case Architecture::kQwen3Moe:
      return Qwen3MoeLayer;
  }
  LOG(FATAL) << "no such architecture: " << static_cast<int>(architecture);
}

}  // namespace conclave
