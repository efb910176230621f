// Readers of comm/schema/model.capnp: wire structs to values, every bound checked. Internal to
// comm/codec; any thread; KJ exceptions of malformed pointers pass through to Decode.
#pragma once

#include "comm/codec/field_check.h"
#include "comm/schema/model.capnp.h"
#include "comm/types/worker_facts.h"

namespace conclave {

// Names, ranges, and what the parts of an assignment say of one another: a plan has one worker for
// each rank of its grid, stages that cover the layers, and an owner within the stage for every
// expert slice.
Assign ReadAssign(schema::Assign::Reader in, FieldCheck& check);

}  // namespace conclave
