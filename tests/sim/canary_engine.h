// CanaryEngine: a FakeEngine with one deliberate fault, so that a test can show that the checkers
// notice. It stands between the worker actor and the engine, both ways. Testonly; one thread.
#pragma once

#include <memory>

#include "tests/sim/scenario.h"
#include "worker/engine/fake_engine.h"

namespace conclave {

// A plain FakeEngine for Canary::kNone. `listener` outlives the result; `fake`, if not null, gets
// the engine inside.
std::unique_ptr<Engine> MakeSimEngine(Canary canary, FakeEngineOptions options,
                                      EngineListener& listener, FakeEngine** fake);

}  // namespace conclave
