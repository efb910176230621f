// Expected values of uniform, independent routing: how many experts a step touches, how many the
// busiest rank has, how uneven rows fall. Pure functions; any thread.
#pragma once

namespace conclave {

// Expected largest number of touched units on one of `ranks` ranks that hold `units` each (a real
// number is interpolated), each unit touched with probability `hit`.
double ExpectedMostHit(double units, double hit, int ranks);

}  // namespace conclave
