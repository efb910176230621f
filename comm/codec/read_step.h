// Readers of comm/schema/step.capnp: wire structs to values, every bound checked. Internal to
// comm/codec; any thread; KJ exceptions of malformed pointers pass through to Decode.
#pragma once

#include "comm/codec/field_check.h"
#include "comm/schema/step.capnp.h"
#include "comm/types/worker_facts.h"

namespace conclave {

StepPlan ReadStepPlan(schema::StepPlan::Reader in, FieldCheck& check);
StepResult ReadStepResult(schema::StepResult::Reader in, FieldCheck& check);
Logits ReadLogits(schema::Logits::Reader in, FieldCheck& check);

}  // namespace conclave
