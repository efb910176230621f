// ShareBuilder: uneven candidates of one grid. Stage ranks (and dp groups) whose devices are of the
// same kinds in every stage form a class; a Tilt gives each class a weight and each stage its
// layers, and Build turns it into shares of whole experts within the devices' memory. Keeps
// references to its input; no other state; any thread.
#pragma once

#include <optional>
#include <vector>

#include "placement/search/pricing.h"

namespace conclave {

struct Tilt {
  std::vector<double> token_weights;   // by class of dp group, relative
  std::vector<double> expert_weights;  // by class of stage rank, relative; empty: dense
  std::vector<int> layers;             // [pp], sum = the model's
  bool operator==(const Tilt&) const = default;
};

class ShareBuilder {
 public:
  // `even`: the grid's even candidate. `kinds`: of the cluster's devices.
  ShareBuilder(const SearchInput& input, const Candidate& even, const std::vector<int>& kinds);

  // More than one class, so that shares may differ.
  bool Mixed() const { return token_classes_.size() > 1 || expert_classes_.size() > 1; }
  // The even candidate's.
  Tilt Even() const;
  // Shares and layers in proportion to memory bandwidth, and to memory.
  std::vector<Tilt> Starts() const;
  // `tilt` with its layers spread anew so that the slowest stage is as fast as can be, by the stage
  // times of `priced`, which was built from it.
  Tilt LevelStages(const Tilt& tilt, const PricedPlan& priced) const;
  // nullopt where the devices' memory leaves no room for all experts. The result may still not fit.
  std::optional<Candidate> Build(const Tilt& tilt) const;

 private:
  struct Class {
    std::vector<int> members;  // dp groups or stage ranks
    double bandwidth = 0;      // of a member in its slowest stage, bytes/s
    double memory = 0;         // of a member in its smallest stage, bytes
  };
  static std::vector<Class> Classify(const std::vector<std::vector<int>>& keys);
  void Measure(int members_each, std::vector<Class>* classes) const;
  std::vector<double> LayerCaps() const;  // [pp] most layers that a stage's memory holds
  std::vector<int> LayersBy(bool memory) const;
  std::optional<std::vector<double>> ExpertShares(const Candidate& candidate,
                                                  const std::vector<double>& weights) const;
  std::vector<double> ExpertCaps(const Candidate& candidate) const;

  const SearchInput& input_;
  const Candidate even_;
  std::vector<Class> token_classes_;
  std::vector<Class> expert_classes_;
};

}  // namespace conclave
