// Fit: least squares of measurements against a linear model of a few terms, with coefficients that
// are not negative, as costs are not. Relative errors are weighed, so that short and long times
// count alike. Pure; any thread.
#pragma once

#include <vector>

namespace conclave {

struct FitPoint {
  std::vector<double> terms;  // of the model, the same number in each point
  double value = 0;           // measured, positive
};

struct Fit {
  std::vector<double> coefficients;  // one a term; 0 for a term that does not help
  double error_mean = 0;             // of |fitted - measured| / measured
  double error_max = 0;

  double Predict(const std::vector<double>& terms) const;
};

// Minimises the sum of ((fitted - value) / value)^2 by the normal equations over the terms kept;
// the one with the most negative coefficient is dropped until there is none. Terms that the points
// cannot tell apart leave the later one at 0.
Fit FitCosts(const std::vector<FitPoint>& points);

}  // namespace conclave
