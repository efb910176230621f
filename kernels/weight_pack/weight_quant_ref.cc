#include "kernels/weight_pack/weight_quant_ref.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "glog/logging.h"
#include "kernels/weight_pack/quant_codes.h"

namespace conclave {
namespace {

uint8_t* TileOf(const WeightView& view, int32_t matrix, int64_t output, int64_t input) {
  const int64_t tile = output / kTileOutputs * view.input_tiles() + input / kTileInputs;
  return static_cast<uint8_t*>(const_cast<void*>(view.data)) + matrix * view.matrix_bytes +
         tile * TileBytes(view.format, view.group);
}

float SourceAt(const PackRowsArgs& args, int64_t row, int64_t column) {
  if (column >= args.columns) return 0;
  const int64_t stride = args.source_stride == 0 ? args.columns : args.source_stride;
  const int64_t at = row * stride + column;
  if (args.dtype == Dtype::kF32) return static_cast<const float*>(args.source)[at];
  const uint16_t bits = static_cast<const uint16_t*>(args.source)[at];
  return args.dtype == Dtype::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
}

void StorePlain(uint8_t* tile, WeightFormat format, int row, int column, float value) {
  const int bytes = CodeBits(format) / 8;
  const int64_t at = TiledIndex(row, column, 1, bytes);
  if (format == WeightFormat::kF32) {
    std::memcpy(tile + at * 4, &value, 4);
    return;
  }
  const uint16_t bits = format == WeightFormat::kF16 ? FloatToF16(value) : FloatToBf16(value);
  std::memcpy(tile + at * 2, &bits, 2);
}

void StoreCode(uint8_t* tile, WeightFormat format, int row, int column, uint32_t code) {
  const CodePlace place = PlaceOf(format, row, column);
  const uint32_t all = CodeBits(format) == 8 ? 0xff : 15;
  uint32_t used = 0;  // the bits of this code
  for (uint32_t c = 0; c <= all; ++c) used |= SpreadCode(format, place.pair, place.second, c);
  uint32_t word;
  std::memcpy(&word, tile + place.word, 4);
  word = (word & ~used) | SpreadCode(format, place.pair, place.second, code);
  std::memcpy(tile + place.word, &word, 4);
}

uint32_t CodeAt(const uint8_t* tile, WeightFormat format, int row, int column) {
  const CodePlace place = PlaceOf(format, row, column);
  uint32_t word;
  std::memcpy(&word, tile + place.word, 4);
  return GatherCode(format, place.pair, place.second, word);
}

float StoredScaleAt(const WeightView& view, const uint8_t* tile, int row, int column) {
  const int scale_group = view.group < kTileInputs ? column / view.group : 0;
  uint32_t stored = 0;
  std::memcpy(&stored, tile + ScaleOffset(view.format, view.group, row, scale_group),
              ScaleBytes(view.format));
  switch (ScaleBytes(view.format)) {
    case 4:
      return std::bit_cast<float>(stored);
    case 2:
      return Bf16Value(stored);
    default:
      return std::ldexp(1.0f, static_cast<int>(stored) - 127);
  }
}

// One group of a row of one call: columns [begin, end) of the source, which may lie past its end.
void PackGroup(const PackRowsArgs& args, int64_t row, int64_t output, int64_t begin, int64_t end) {
  const WeightView& out = args.out;
  float largest = 0;
  for (int64_t c = begin; c < end; ++c) {
    largest = std::max(largest, std::fabs(SourceAt(args, row, c)));
  }
  const QuantScale scale = ScaleOf(out.format, largest);
  const int r = static_cast<int>(output % kTileOutputs);
  for (int64_t c = begin; c < end; ++c) {
    const int64_t input = args.first_column + c;
    if (input >= int64_t{out.input_tiles()} * kTileInputs) break;
    uint8_t* const tile = TileOf(out, args.matrix, output, input);
    const int column = static_cast<int>(input % kTileInputs);
    StoreCode(tile, out.format, r, column,
              CodeOf(out.format, SourceAt(args, row, c), scale.divisor));
    const int scale_group = out.group < kTileInputs ? column / out.group : 0;
    std::memcpy(tile + ScaleOffset(out.format, out.group, r, scale_group), &scale.stored,
                ScaleBytes(out.format));
  }
}

void PackPlainRow(const PackRowsArgs& args, int64_t row, int64_t output) {
  const WeightView& out = args.out;
  const int64_t padded = (args.columns + kTileInputs - 1) / kTileInputs * kTileInputs;
  for (int64_t c = 0; c < padded; ++c) {
    const int64_t input = args.first_column + c;
    StorePlain(TileOf(out, args.matrix, output, input), out.format,
               static_cast<int>(output % kTileOutputs), static_cast<int>(input % kTileInputs),
               SourceAt(args, row, c));
  }
}

}  // namespace

absl::Status PackRowsRef(const PackRowsArgs& args) {
  if (absl::Status status = CheckPackRows(args); !status.ok()) return status;
  for (int64_t row = 0; row < args.count; ++row) {
    const int64_t placed = args.first + row;
    const int64_t output = args.placement == RowPlacement::kPlain  ? placed
                           : args.placement == RowPlacement::kGate ? GateOutput(placed)
                                                                   : UpOutput(placed);
    if (!IsQuantised(args.out.format)) {
      PackPlainRow(args, row, output);
      continue;
    }
    const int64_t group = args.out.group;
    const int64_t padded = (args.columns + kTileInputs - 1) / kTileInputs * kTileInputs;
    for (int64_t c = 0; c < padded; c += group) PackGroup(args, row, output, c, c + group);
  }
  return absl::OkStatus();
}

float CodeValue(WeightFormat format, uint32_t code) {
  switch (format) {
    case WeightFormat::kFp8: {
      const int exponent = code >> 3 & 15, mantissa = code & 7;
      if (exponent == 15 && mantissa == 7) return NAN;
      const float magnitude =
          exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
      return (code & 0x80) != 0 ? -magnitude : magnitude;
    }
    case WeightFormat::kInt8: {
      const float magnitude = static_cast<float>(code & 0x7f);
      return (code & 0x80) != 0 ? -magnitude : magnitude;
    }
    case WeightFormat::kInt4:
      return static_cast<float>(code) - ((code & 8) != 0 ? 16 : 0);
    case WeightFormat::kNf4:
      return Bf16Value(Bf16Bits(Nf4Value(static_cast<int>(code))));
    case WeightFormat::kMxfp4: {
      constexpr float kValues[8] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
      return (code & 8) != 0 ? -kValues[code & 7] : kValues[code & 7];
    }
    default:
      LOG(FATAL) << "a plain format has no codes";
  }
}

float FragmentAt(const WeightView& view, int32_t matrix, int64_t output, int64_t input) {
  const uint8_t* const tile = TileOf(view, matrix, output, input);
  const int row = static_cast<int>(output % kTileOutputs);
  const int column = static_cast<int>(input % kTileInputs);
  if (IsQuantised(view.format)) {
    const float value = CodeValue(view.format, CodeAt(tile, view.format, row, column));
    const float scale =
        view.format == WeightFormat::kMxfp4 ? StoredScaleAt(view, tile, row, column) : 1;
    return value * FragmentUnit(view.format) * scale;
  }
  const int64_t at = TiledIndex(row, column, 1, CodeBits(view.format) / 8);
  if (view.format == WeightFormat::kF32) {
    float value;
    std::memcpy(&value, tile + at * 4, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, tile + at * 2, 2);
  return view.format == WeightFormat::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
}

float RowScaleAt(const WeightView& view, int32_t matrix, int64_t output, int64_t input) {
  if (!IsQuantised(view.format)) return 1;
  if (view.format == WeightFormat::kMxfp4) return 1 / FragmentUnit(view.format);
  return StoredScaleAt(view, TileOf(view, matrix, output, input),
                       static_cast<int>(output % kTileOutputs),
                       static_cast<int>(input % kTileInputs));
}

float WeightAt(const WeightView& view, int32_t matrix, int64_t output, int64_t input) {
  return FragmentAt(view, matrix, output, input) * RowScaleAt(view, matrix, output, input);
}

std::vector<float> Dequantise(const WeightView& view, int32_t matrix) {
  std::vector<float> weights;
  weights.reserve(int64_t{view.outputs} * view.inputs);
  for (int64_t output = 0; output < view.outputs; ++output) {
    for (int64_t input = 0; input < view.inputs; ++input) {
      weights.push_back(WeightAt(view, matrix, output, input));
    }
  }
  return weights;
}

}  // namespace conclave
