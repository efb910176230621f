@0xb2769237b5623984;
# The envelope of every control message (DESIGN 5), and the messages that are small. Mirrors
# comm/types/worker_facts.h.

using Cxx = import "/capnp/c++.capnp";
using Model = import "model.capnp";
using Step = import "step.capnp";
$Cxx.namespace("conclave::schema");

struct Hello {
  name @0 :Text;
  node @1 :Text;
  device @2 :Text;
  memoryBytes @3 :Int64;
  threads @4 :Int32;
  process @5 :Int64;
  version @6 :Text;
}

struct Heartbeat {
  progress @0 :UInt64;
  lastStep @1 :UInt64;
  stepsQueued @2 :Int32;
}

struct Prepared {
  fabricAddress @0 :Data;
  weightBytes @1 :Int64;
  checkpointBytesRead @2 :Int64;
  checkpointBytesShare @3 :Int64;
  loadUs @4 :Int64;
  kvPages @5 :Int32;
}

struct Fault {
  step @0 :UInt64;
  code @1 :Int32;
  message @2 :Text;
}

struct Commit {
  fabricAddresses @0 :List(Data);
  nodes @1 :List(Text);
}

struct Envelope {
  protocol @0 :UInt32;
  epoch @1 :UInt64;
  worker @2 :UInt64;
  sequence @3 :UInt64;
  message :union {
    hello @4 :Hello;
    heartbeat @5 :Heartbeat;
    prepared @6 :Prepared;
    ready @7 :Void;
    stepDone @8 :Step.StepResult;
    logits @9 :Step.Logits;
    fault @10 :Fault;
    goodbye @11 :Text;
    assign @12 :Model.Assign;
    commit @13 :Commit;
    step @14 :Step.StepPlan;
    abort @15 :Text;
    shutdown @16 :Text;
  }
}
