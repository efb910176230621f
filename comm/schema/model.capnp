@0x85937371154234e7;
# What a worker is asked to be: the model, its placement, its cache. Mirrors comm/types; comm/codec
# checks every range. Fields are only ever added, with the next number; a change of meaning raises
# kProtocolVersion in comm/codec.

using Cxx = import "/capnp/c++.capnp";
$Cxx.namespace("conclave::schema");

enum Architecture { llama @0; qwen3 @1; mixtral @2; olmoe @3; qwen3Moe @4; }
enum QkNorm { none @0; perHead @1; fullWidth @2; }
enum RopeKind { default @0; llama3 @1; }
enum Dtype { f32 @0; f16 @1; bf16 @2; i32 @3; i64 @4; u8 @5; }
enum ExchangeKind { naive @0; pcc @1; twoLevel @2; }
enum PayloadFormat { f32 @0; bf16 @1; int8 @2; fp8 @3; }

struct RopeShape {
  kind @0 :RopeKind;
  theta @1 :Float64;
  factor @2 :Float64;
  lowFreqFactor @3 :Float64;
  highFreqFactor @4 :Float64;
  originalContextTokens @5 :Int64;
}

struct MoeShape {
  experts @0 :Int32;
  topK @1 :Int32;
  ffn @2 :Int32;
  normalizeTopK @3 :Bool;
}

struct ModelShape {
  architecture @0 :Architecture;
  name @1 :Text;
  layers @2 :Int32;
  hidden @3 :Int32;
  heads @4 :Int32;
  kvHeads @5 :Int32;
  headDim @6 :Int32;
  ffn @7 :Int32;
  vocab @8 :Int32;
  contextTokens @9 :Int32;
  normEpsilon @10 :Float32;
  tiedEmbeddings @11 :Bool;
  qkNorm @12 :QkNorm;
  rope @13 :RopeShape;
  moe @14 :MoeShape;
  denseLayers @15 :List(Int32);
  weightDtype @16 :Dtype;
  eosTokenIds @17 :List(Int32);
}

struct ParallelSpec {
  tp @0 :Int32;
  dp @1 :Int32;
  pp @2 :Int32;
  slices @3 :Int32;
  ep @4 :Int32;
}

struct LayerRange {
  begin @0 :Int32;
  end @1 :Int32;
}

# The owners of every unit (expert, slice) of a layer, in unit order: how many each has, and who
# they are, one after another. 4 bytes a unit: 100 layers of 3,000 experts take 1.2 MB.
struct LayerExperts {
  slices @0 :Int32;
  ownerCounts @1 :List(UInt16);
  ranks @2 :List(UInt16);
}

struct ParallelPlan {
  epoch @0 :UInt64;
  spec @1 :ParallelSpec;
  workers @2 :List(UInt64);
  stages @3 :List(LayerRange);
  experts @4 :List(LayerExperts);
  exchange @5 :ExchangeKind;
  payload @6 :PayloadFormat;
}

struct ModelSource {
  path @0 :Text;
  dummy @1 :Bool;
  dummySeed @2 :UInt64;
}

struct CacheOptions {
  pageTokens @0 :Int32;
  dtype @1 :Dtype;
  memoryBytes @2 :Int64;
  pagesMax @3 :Int32;
}

enum Quantization {
  none @0;
  fp8 @1;
  int8 @2;
  int4 @3;
  nf4 @4;
  mxfp4 @5;
}

struct ComputeOptions {
  deterministic @0 :Bool;
  quantization @1 :Quantization;
  quantGroup @2 :Int32;
}

struct Assign {
  shape @0 :ModelShape;
  source @1 :ModelSource;
  plan @2 :ParallelPlan;
  rank @3 :Int32;
  cache @4 :CacheOptions;
  compute @5 :ComputeOptions;
}
