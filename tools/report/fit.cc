#include "tools/report/fit.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "glog/logging.h"

namespace conclave {
namespace {

using Matrix = std::vector<std::vector<double>>;  // [n][n + 1], the right-hand side last

// Gauss-Jordan with pivoting; a column without a pivot gets 0.
std::vector<double> Solve(Matrix m) {
  constexpr double kNothing = 1e-9;  // of the column's scale
  const size_t n = m.size();
  std::vector<double> scale(n), solution(n, 0);
  for (size_t i = 0; i < n; ++i) scale[i] = std::abs(m[i][i]);
  std::vector<size_t> row_of(n, n);
  size_t next = 0;
  for (size_t column = 0; column < n; ++column) {
    size_t pivot = next;
    for (size_t row = next; row < n; ++row) {
      if (std::abs(m[row][column]) > std::abs(m[pivot][column])) pivot = row;
    }
    if (next == n || std::abs(m[pivot][column]) <= kNothing * scale[column]) continue;
    std::swap(m[pivot], m[next]);
    for (size_t row = 0; row < n; ++row) {
      if (row == next) continue;
      const double factor = m[row][column] / m[next][column];
      for (size_t k = column; k <= n; ++k) m[row][k] -= factor * m[next][k];
    }
    row_of[column] = next++;
  }
  for (size_t column = 0; column < n; ++column) {
    if (row_of[column] < n) solution[column] = m[row_of[column]][n] / m[row_of[column]][column];
  }
  return solution;
}

// Coefficients of the terms in `kept`.
std::vector<double> SolveKept(const std::vector<FitPoint>& points,
                              const std::vector<size_t>& kept) {
  const size_t n = kept.size();
  Matrix m(n, std::vector<double>(n + 1, 0));
  for (const FitPoint& point : points) {
    for (size_t i = 0; i < n; ++i) {
      const double a = point.terms[kept[i]] / point.value;
      for (size_t k = 0; k < n; ++k) m[i][k] += a * point.terms[kept[k]] / point.value;
      m[i][n] += a;
    }
  }
  return Solve(std::move(m));
}

}  // namespace

double Fit::Predict(const std::vector<double>& terms) const {
  CHECK_EQ(terms.size(), coefficients.size());
  double sum = 0;
  for (size_t i = 0; i < terms.size(); ++i) sum += coefficients[i] * terms[i];
  return sum;
}

Fit FitCosts(const std::vector<FitPoint>& points) {
  CHECK(!points.empty());
  std::vector<size_t> kept;
  for (size_t i = 0; i < points[0].terms.size(); ++i) kept.push_back(i);
  for (const FitPoint& point : points) {
    CHECK_EQ(point.terms.size(), kept.size());
    CHECK_GT(point.value, 0);
  }
  Fit fit;
  fit.coefficients.assign(kept.size(), 0);
  while (!kept.empty()) {
    const std::vector<double> solved = SolveKept(points, kept);
    const auto least = std::min_element(solved.begin(), solved.end());
    if (*least < 0) {
      kept.erase(kept.begin() + (least - solved.begin()));
      continue;
    }
    for (size_t i = 0; i < kept.size(); ++i) fit.coefficients[kept[i]] = std::max(0.0, solved[i]);
    break;
  }
  for (const FitPoint& point : points) {
    const double error = std::abs(fit.Predict(point.terms) - point.value) / point.value;
    fit.error_mean += error / static_cast<double>(points.size());
    fit.error_max = std::max(fit.error_max, error);
  }
  return fit;
}

}  // namespace conclave
