@0x9ed8d6cc2983d44b;
# One forward pass: what is asked of a worker, and what it observed. Mirrors comm/types/step_plan.h
# and step_result.h.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("conclave::schema");

struct SamplingParams {
  temperature @0 :Float32;
  topK @1 :Int32;
  topP @2 :Float32;
  minP @3 :Float32;
  seed @4 :UInt64;
}

struct SequenceSlice {
  request @0 :UInt64;
  position @1 :Int32;
  tokens @2 :List(Int32);
  fromPreviousStep @3 :Bool;
  pages @4 :List(Int32);
  sample @5 :Bool;
  wantLogits @6 :Bool;
  sampling @7 :SamplingParams;
}

struct StepPlan {
  epoch @0 :UInt64;
  step @1 :UInt64;
  tokensByDp @2 :List(Int32);
  batch @3 :List(SequenceSlice);
}

struct SampledToken {
  request @0 :UInt64;
  position @1 :Int32;
  token @2 :Int32;
  logprob @3 :Float32;
}

struct ExpertLoad {
  layer @0 :Int32;
  expert @1 :Int32;
  slice @2 :Int32;
  tokens @3 :Int32;
}

struct ExchangeStats {
  exchanges @0 :Int64;
  peersMax @1 :Int64;
  messages @2 :Int64;
  bytes @3 :Int64;
  naivePeersMax @4 :Int64;
  naiveMessages @5 :Int64;
  naiveBytes @6 :Int64;
  gatherBytes @7 :Int64;
}

struct StepTimings {
  totalUs @0 :Int64;
  attentionUs @1 :Int64;
  expertsUs @2 :Int64;
  exchangeUs @3 :Int64;
  collectiveUs @4 :Int64;
  headUs @5 :Int64;
}

struct StepResult {
  epoch @0 :UInt64;
  step @1 :UInt64;
  tokens @2 :List(SampledToken);
  experts @3 :List(ExpertLoad);
  exchange @4 :ExchangeStats;
  timings @5 :StepTimings;
  weightBytesRead @6 :Int64;
}

# Values are little-endian IEEE 754 binary32, [positions, vocab].
struct Logits {
  step @0 :UInt64;
  request @1 :UInt64;
  position @2 :Int32;
  vocab @3 :Int32;
  values @4 :Data;
}
