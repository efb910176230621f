#include "kernels/token_step/token_test_kit.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "comm/base/dtype.h"
#include "glog/logging.h"
#include "kernels/weight_pack/quant_tiles.h"

namespace conclave {
namespace {

// Uniform in [-scale, scale).
std::vector<float> RandomFloats(Rng& rng, int64_t count, float scale) {
  std::vector<float> values(count);
  for (float& v : values) v = (static_cast<float>(rng.Uniform()) * 2 - 1) * scale;
  return values;
}

double CodeValue(WeightFormat format, uint32_t code) {
  switch (format) {
    case WeightFormat::kInt4:
      return code < 8 ? static_cast<int>(code) : static_cast<int>(code) - 16;
    case WeightFormat::kInt8:
      return (code & 0x7f) * ((code & 0x80) != 0 ? -1.0 : 1.0);
    case WeightFormat::kFp8: {
      const int exponent = code >> 3 & 15, mantissa = code & 7;
      const double size =
          exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
      return (code & 0x80) != 0 ? -size : size;
    }
    default:
      LOG(FATAL) << "no codes of format " << static_cast<int>(format);
      return 0;
  }
}

uint32_t RandomCode(Rng& rng, WeightFormat format) {
  if (format == WeightFormat::kInt4) return rng.Below(16);
  if (format == WeightFormat::kInt8) return rng.Below(256);
  uint32_t code = rng.Below(256);
  return (code & 0x7f) == 0x7f ? 0 : code;  // NaN
}

// Of a uniform code.
double CodeSize(WeightFormat format) {
  if (format == WeightFormat::kInt4) return 4.6;
  return format == WeightFormat::kInt8 ? 73 : 120;
}

void FillQuantised(Rng& rng, float scale, TokenMatrices& m) {
  const WeightView& v = m.view;
  const int tile_bytes = TileBytes(v.format, v.group), groups = ScaleGroups(v.format, v.group);
  const float unit = FragmentUnit(v.format);
  for (int matrix = 0; matrix < v.matrices; ++matrix) {
    for (int64_t t = 0; t < int64_t{v.output_tiles()} * v.input_tiles(); ++t) {
      uint8_t* tile = m.tiles.data() + matrix * v.matrix_bytes + t * tile_bytes;
      for (int row = 0; row < kTileOutputs; ++row) {
        const int64_t output = t / v.input_tiles() * kTileOutputs + row;
        float stored[2] = {};
        for (int g = 0; g < groups; ++g) {
          const float s = static_cast<float>(scale * (0.5 + rng.Uniform())) / unit;
          uint8_t* place = tile + ScaleOffset(v.format, v.group, row, g);
          const uint16_t rounded = FloatToBf16(s);
          stored[g] = ScaleBytes(v.format) == 4 ? s : Bf16ToFloat(rounded);
          std::memcpy(place, ScaleBytes(v.format) == 4 ? static_cast<const void*>(&s) : &rounded,
                      ScaleBytes(v.format));
        }
        for (int column = 0; column < kTileInputs; ++column) {
          const int64_t input = t % v.input_tiles() * kTileInputs + column;
          if (output >= v.outputs || input >= v.inputs) continue;
          const uint32_t code = RandomCode(rng, v.format);
          const CodePlace at = PlaceOf(v.format, row, column);
          uint32_t word;
          std::memcpy(&word, tile + at.word, 4);
          word |= SpreadCode(v.format, at.pair, at.second, code);
          std::memcpy(tile + at.word, &word, 4);
          m.values[(int64_t{matrix} * v.outputs + output) * v.inputs + input] =
              static_cast<float>(CodeValue(v.format, code) * unit * stored[column * groups / 64]);
        }
      }
    }
  }
}

double Dot(const float* row, const std::vector<double>& x) {
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += row[i] * x[i];
  return sum;
}

void Norm(const float* weights, double epsilon, double* x, int64_t count) {
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) squares += x[i] * x[i];
  const double scale = 1 / std::sqrt(squares / count + epsilon);
  for (int64_t i = 0; i < count; ++i) x[i] *= scale * weights[i];
}

std::vector<double> Normed(const std::vector<double>& x, const std::vector<float>& weights,
                           double epsilon) {
  std::vector<double> normed = x;
  Norm(weights.data(), epsilon, normed.data(), static_cast<int64_t>(x.size()));
  return normed;
}

uint16_t* CacheRow(const TokenModel& model, std::vector<uint16_t>& cache, int which, int kv_head,
                   int position) {
  const TokenShape& s = model.shape;
  const int64_t page = model.page_table[position / s.page_tokens];
  const int64_t row =
      ((page * 2 + which) * s.kv_heads + kv_head) * s.page_tokens + position % s.page_tokens;
  return cache.data() + row * s.head_dim;
}

std::vector<double> AttentionRef(const TokenModel& model, const TokenHostLayer& layer,
                                 std::vector<double> qkv, std::vector<uint16_t>& cache) {
  const TokenShape& s = model.shape;
  const int dim = s.head_dim, half = dim / 2;
  double* k = qkv.data() + s.heads * dim;
  if (s.qk_norm == TokenQkNorm::kFullWidth) {
    Norm(layer.q_norm.data(), s.epsilon, qkv.data(), int64_t{s.heads} * dim);
    Norm(layer.k_norm.data(), s.epsilon, k, int64_t{s.kv_heads} * dim);
  }
  for (int h = 0; h < s.heads + s.kv_heads; ++h) {
    double* head = qkv.data() + h * dim;
    if (s.qk_norm == TokenQkNorm::kPerHead) {
      Norm((h < s.heads ? layer.q_norm : layer.k_norm).data(), s.epsilon, head, dim);
    }
    for (int i = 0; i < half; ++i) {
      const float* angle = model.rope.data() + (int64_t{model.position} * half + i) * 2;
      const double a = head[i], b = head[half + i];
      head[i] = a * angle[0] - b * angle[1];
      head[half + i] = b * angle[0] + a * angle[1];
    }
  }
  for (int which = 0; which < 2; ++which) {
    for (int h = 0; h < s.kv_heads; ++h) {
      uint16_t* row = CacheRow(model, cache, which, h, model.position);
      for (int i = 0; i < dim; ++i) {
        row[i] = FloatToBf16(static_cast<float>(k[(which * s.kv_heads + h) * dim + i]));
      }
    }
  }
  std::vector<double> out(s.heads * dim);
  for (int h = 0; h < s.heads; ++h) {
    const int kv_head = h / (s.heads / s.kv_heads);
    std::vector<double> scores(model.position + 1);
    for (int p = 0; p <= model.position; ++p) {
      const uint16_t* row = CacheRow(model, cache, 0, kv_head, p);
      for (int i = 0; i < dim; ++i) scores[p] += qkv[h * dim + i] * Bf16ToFloat(row[i]);
      scores[p] /= std::sqrt(dim);
    }
    const double top = *std::max_element(scores.begin(), scores.end());
    double sum = 0;
    for (int p = 0; p <= model.position; ++p) {
      const uint16_t* row = CacheRow(model, cache, 1, kv_head, p);
      const double weight = std::exp(scores[p] - top);
      sum += weight;
      for (int i = 0; i < dim; ++i) out[h * dim + i] += weight * Bf16ToFloat(row[i]);
    }
    for (int i = 0; i < dim; ++i) out[h * dim + i] /= sum;
  }
  return out;
}

void FfnRef(const TokenModel& model, const TokenHostLayer& layer, std::vector<double>& residual,
            std::vector<int32_t>& all_chosen) {
  const TokenShape& s = model.shape;
  const std::vector<double> x = Normed(residual, layer.ffn_norm, s.epsilon);
  std::vector<int> chosen = {0};
  std::vector<double> weights = {1};
  if (layer.routed) {
    std::vector<double> logits(s.experts);
    for (int e = 0; e < s.experts; ++e) logits[e] = Dot(layer.router.Row(0, e), x);
    chosen.resize(s.experts);
    std::iota(chosen.begin(), chosen.end(), 0);
    std::stable_sort(chosen.begin(), chosen.end(),
                     [&](int a, int b) { return logits[a] > logits[b]; });
    double sum = 0;
    weights.assign(s.experts, 0);
    for (int i = 0; i < s.experts; ++i) {
      weights[i] = std::exp(logits[chosen[i]] - logits[chosen[0]]);
      if (i < s.top_k || !s.normalize) sum += weights[i];
    }
    chosen.resize(s.top_k);
    for (double& w : weights) w /= sum;
    all_chosen.insert(all_chosen.end(), chosen.begin(), chosen.end());
  }
  const int ffn = layer.down.view.inputs;
  for (size_t c = 0; c < chosen.size(); ++c) {
    std::vector<double> h(ffn);
    for (int i = 0; i < ffn; ++i) {
      const double gate = Dot(layer.gate_up.Row(chosen[c], GateOutput(i)), x);
      h[i] = gate / (1 + std::exp(-gate)) * Dot(layer.gate_up.Row(chosen[c], UpOutput(i)), x);
    }
    for (int i = 0; i < s.hidden; ++i) {
      residual[i] += weights[c] * Dot(layer.down.Row(chosen[c], i), h);
    }
  }
}

std::vector<float> RandomNorm(Rng& rng, int count) {
  std::vector<float> norm = RandomFloats(rng, count, 0.5f);
  for (float& v : norm) v += 1;
  return norm;
}

}  // namespace

TokenMatrices RandomMatrices(Rng& rng, const WeightView& shape, float gain) {
  TokenMatrices m;
  m.view = shape;
  WeightView& v = m.view;
  v.matrix_bytes = MatrixBytes(v);
  m.tiles.assign(v.matrix_bytes * v.matrices, 0);
  m.values.resize(int64_t{v.matrices} * v.outputs * v.inputs);
  const float scale = gain / std::sqrt(static_cast<float>(v.inputs));
  if (IsQuantised(v.format)) {
    FillQuantised(rng, scale / static_cast<float>(CodeSize(v.format)), m);
    return m;
  }
  for (int matrix = 0; matrix < v.matrices; ++matrix) {
    auto* tiles = reinterpret_cast<uint16_t*>(m.tiles.data() + matrix * v.matrix_bytes);
    for (int64_t i = 0; i < int64_t{v.outputs} * v.inputs; ++i) {
      const uint16_t bits =
          FloatToBf16((static_cast<float>(rng.Uniform()) * 2 - 1) * scale * 1.732f);
      m.values[int64_t{matrix} * v.outputs * v.inputs + i] = Bf16ToFloat(bits);
      tiles[TiledIndex(i / v.inputs, i % v.inputs, v.input_tiles(), 2)] = bits;
    }
  }
  return m;
}

TokenModel RandomTokenModel(Rng& rng, TokenShape shape, const std::vector<bool>& routed,
                            int position) {
  TokenModel model;
  shape.layers = static_cast<int>(routed.size());
  shape.moe_layers = static_cast<int>(std::count(routed.begin(), routed.end(), true));
  model.shape = shape;
  model.position = position;
  model.residual = RandomFloats(rng, shape.hidden, 2);
  const int half = shape.head_dim / 2;
  for (int p = 0; p <= position; ++p) {
    for (int i = 0; i < half; ++i) {
      const double angle = p * std::pow(10000.0, -1.0 * i / half);
      model.rope.push_back(static_cast<float>(std::cos(angle)));
      model.rope.push_back(static_cast<float>(std::sin(angle)));
    }
  }
  const int used = position / shape.page_tokens + 1;
  model.pages = used + 3;
  model.page_table.resize(model.pages);
  std::iota(model.page_table.begin(), model.page_table.end(), 0);
  for (int i = model.pages - 1; i > 0; --i) {
    std::swap(model.page_table[i], model.page_table[rng.Below(i + 1)]);
  }
  model.page_table.resize(used);
  const int heads = shape.heads * shape.head_dim, kv = shape.kv_heads * shape.head_dim;
  const auto view = [&](int outputs, int inputs, int matrices) {
    return WeightView{.outputs = outputs,
                      .inputs = inputs,
                      .matrices = matrices,
                      .format = shape.format,
                      .group = shape.group};
  };
  for (const bool with_router : routed) {
    TokenHostLayer layer;
    layer.routed = with_router;
    const int ffn = with_router ? shape.ffn : shape.dense_ffn;
    const int experts = with_router ? shape.experts : 1;
    layer.qkv = RandomMatrices(rng, view(heads + 2 * kv, shape.hidden, 1), 1);
    layer.output = RandomMatrices(rng, view(shape.hidden, heads, 1), 2);
    layer.gate_up = RandomMatrices(rng, view(2 * ffn, shape.hidden, experts), 1);
    layer.down = RandomMatrices(rng, view(shape.hidden, ffn, experts), 2);
    if (with_router) {
      layer.router =
          RandomMatrices(rng, {.outputs = shape.experts, .inputs = shape.hidden, .matrices = 1}, 1);
    }
    layer.input_norm = RandomNorm(rng, shape.hidden);
    layer.ffn_norm = RandomNorm(rng, shape.hidden);
    const bool full = shape.qk_norm == TokenQkNorm::kFullWidth;
    layer.q_norm = RandomNorm(rng, full ? heads : shape.head_dim);
    layer.k_norm = RandomNorm(rng, full ? kv : shape.head_dim);
    layer.cache.assign(int64_t{model.pages} * 2 * kv * shape.page_tokens, 0xffff);
    for (int p = 0; p < position; ++p) {
      for (int h = 0; h < 2 * shape.kv_heads; ++h) {
        const std::vector<float> row = RandomFloats(rng, shape.head_dim, 1);
        std::transform(row.begin(), row.end(),
                       CacheRow(model, layer.cache, h / shape.kv_heads, h % shape.kv_heads, p),
                       FloatToBf16);
      }
    }
    model.layers.push_back(std::move(layer));
  }
  return model;
}

TokenResult TokenStepRef(const TokenModel& model) {
  const TokenShape& s = model.shape;
  TokenResult result;
  std::vector<double> residual(model.residual.begin(), model.residual.end());
  for (const TokenHostLayer& layer : model.layers) {
    std::vector<double> x = Normed(residual, layer.input_norm, s.epsilon);
    std::vector<double> qkv(layer.qkv.view.outputs);
    for (size_t i = 0; i < qkv.size(); ++i) qkv[i] = Dot(layer.qkv.Row(0, i), x);
    result.caches.push_back(layer.cache);
    x = AttentionRef(model, layer, std::move(qkv), result.caches.back());
    for (int i = 0; i < s.hidden; ++i) residual[i] += Dot(layer.output.Row(0, i), x);
    FfnRef(model, layer, residual, result.chosen);
  }
  result.residual.assign(residual.begin(), residual.end());
  return result;
}

void* TokenDeviceModel::Keep(const void* data, int64_t bytes) {
  memory_.push_back(std::make_unique<TokenBytes>(std::max<int64_t>(bytes, 16)));
  if (data != nullptr && bytes > 0) memory_.back()->Upload(data);
  return memory_.back()->data();
}

TokenDeviceModel::TokenDeviceModel(const TokenModel& model) : model_(model) {
  const auto matrix = [&](const TokenMatrices& m) {
    WeightView view = m.view;
    view.data = Keep(m.tiles.data(), static_cast<int64_t>(m.tiles.size()));
    return view;
  };
  const auto floats = [&](const std::vector<float>& v) {
    return static_cast<float*>(Keep(v.data(), static_cast<int64_t>(v.size()) * 4));
  };
  const TokenShape& s = model.shape;
  for (const TokenHostLayer& host : model.layers) {
    TokenLayer layer = {
        matrix(host.qkv), matrix(host.output), {}, matrix(host.gate_up), matrix(host.down)};
    if (host.routed) layer.router = matrix(host.router);
    layer.input_norm = floats(host.input_norm);
    layer.q_norm = floats(host.q_norm);
    layer.k_norm = floats(host.k_norm);
    layer.ffn_norm = floats(host.ffn_norm);
    layer.cache = {Keep(host.cache.data(), static_cast<int64_t>(host.cache.size()) * 2),
                   model.pages, s.page_tokens, s.kv_heads, s.head_dim};
    layers_.push_back(layer);
  }
  CHECK_EQ(CheckTokenLayers(s, layers_), absl::OkStatus());
  args_.shape = s;
  args_.layers = static_cast<const TokenLayer*>(
      Keep(layers_.data(), static_cast<int64_t>(layers_.size() * sizeof(TokenLayer))));
  args_.residual = floats(model.residual);
  args_.position = static_cast<const int32_t*>(Keep(&model.position, 4));
  args_.page_table = static_cast<const int32_t*>(
      Keep(model.page_table.data(), static_cast<int64_t>(model.page_table.size()) * 4));
  args_.rope = floats(model.rope);
  args_.chosen = static_cast<int32_t*>(Keep(nullptr, int64_t{s.moe_layers} * s.top_k * 4));
  workspace_ = std::make_unique<TokenBytes>(TokenStepWorkspaceBytes(s));
  std::vector<uint8_t> workspace(workspace_->bytes(), 0xff);  // NaN: only counters need zeros
  std::fill(workspace.begin(), workspace.begin() + 256, 0);
  workspace_->Upload(workspace.data());
  args_.workspace = workspace_->data();
}

TokenResult TokenDeviceModel::Run() {
  TokenResult result;
  const auto find = [&](const void* data) -> TokenBytes& {
    for (const auto& memory : memory_) {
      if (memory->data() == data) return *memory;
    }
    LOG(FATAL) << "unknown memory";
    return *memory_[0];
  };
  find(args_.residual).Upload(model_.residual.data());
  find(args_.chosen).Fill(0xff);
  for (size_t i = 0; i < layers_.size(); ++i) {
    find(layers_[i].cache.data).Upload(model_.layers[i].cache.data());
  }
  CHECK_EQ(TokenStep(args_), absl::OkStatus());
  CHECK_EQ(SynchronizeCudaDevice(), absl::OkStatus());
  result.residual.resize(model_.residual.size());
  find(args_.residual).Download(result.residual.data());
  if (model_.shape.moe_layers > 0) {
    result.chosen.resize(model_.shape.moe_layers * model_.shape.top_k);
    find(args_.chosen).Download(result.chosen.data());
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    result.caches.emplace_back(model_.layers[i].cache.size());
    find(layers_[i].cache.data).Download(result.caches.back().data());
  }
  return result;
}

}  // namespace conclave
