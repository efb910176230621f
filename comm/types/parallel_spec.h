// ParallelSpec: the degrees of parallelism a user asks for, and the grid of ranks they make (DESIGN
// 4). A replica has tp * dp * pp workers. Rank = (pp * dp_size + dp) * tp_size + tp: the ranks of a
// stage are neighbours, and within it the tp ranks of one dp group. A value; any thread may use it.
#pragma once

#include <ostream>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/types/model_shape.h"

namespace conclave {

// Coordinates in the grid.
struct GridPosition {
  int pp = 0;
  int dp = 0;
  int tp = 0;
  bool operator==(const GridPosition&) const = default;
};

struct ParallelSpec {
  int tp = 1;
  int dp = 1;
  int pp = 1;
  int slices = 1;  // pieces each expert is cut into
  int ep =
      0;  // groups the experts of a stage are spread over: tp * dp / slices; 0 in a dense model

  bool operator==(const ParallelSpec&) const = default;

  int WorkerCount() const { return tp * dp * pp; }
  int StageSize() const { return tp * dp; }
  int RankOf(GridPosition p) const { return (p.pp * dp + p.dp) * tp + p.tp; }
  // Rank within the stage, 0..StageSize(): dp * tp_size + tp.
  int StageRankOf(GridPosition p) const { return p.dp * tp + p.tp; }
  GridPosition PositionOf(int rank) const { return {rank / (tp * dp), rank / tp % dp, rank % tp}; }
  // "tp=2,dp=2,pp=1,ep=4,slices=1".
  std::string ToString() const;
};

inline std::ostream& operator<<(std::ostream& out, const ParallelSpec& spec) {
  return out << spec.ToString();
}

// Parses "tp=T,dp=D,pp=P[,ep=E][,slices=S]"; every key is optional and defaults to 1 (ep: derived
// by Resolve). InvalidArgument names the key, the value and the remedy.
absl::StatusOr<ParallelSpec> ParseParallelSpec(absl::string_view text);

// Checks `spec` against `shape` and fills in ep: divisibility of heads, widths and layers, tp in
// {1, 2, 4, 8}, no rank without work. In a dense model ep does not apply: it is set to 0, and
// callers that asked for it say so (EpNote).
absl::StatusOr<ParallelSpec> ResolveParallelSpec(ParallelSpec spec, const ModelShape& shape);

// "ep=2 does not apply: llama is a dense model without experts" when `asked` names an ep for a
// dense model; else empty.
std::string EpNote(const ParallelSpec& asked, const ModelShape& shape);

}  // namespace conclave
