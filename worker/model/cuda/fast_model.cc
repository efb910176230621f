#include "worker/model/cuda/fast_model.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "worker/engine/step_check.h"
#include "worker/model/cuda/decode_bucket.h"
#include "worker/model/cuda/step_pieces.h"
#include "worker/model/head.h"

namespace conclave {
namespace {

// Slots of sampled tokens: one half for the tokens of even steps, one for those of odd ones, so
// that a step cut into pieces does not overwrite what its later pieces take as input.
constexpr int32_t kSlotsOfStep = kStepTokensMax;

// Rows of the head computed at once when their logits are reported.
constexpr int32_t kReportRows = 64;

bool DecodesOnly(const StepBatch& batch) {
  const auto& slices = batch.plan().batch;
  return !slices.empty() && slices.size() <= static_cast<size_t>(kDecodeTokensMax) &&
         std::all_of(slices.begin(), slices.end(), [](const SequenceSlice& slice) {
           return slice.tokens.size() == 1 && slice.sample && !slice.want_logits;
         });
}

bool AllGreedy(const StepBatch& batch) {
  const auto& slices = batch.plan().batch;
  return std::all_of(slices.begin(), slices.end(), [](const SequenceSlice& slice) {
    return !slice.sample || !(slice.sampling.temperature >= 1e-5f);
  });
}

int32_t LongestContext(const StepBatch& batch) {
  int32_t longest = 1;
  for (const SequenceSlice& slice : batch.plan().batch) {
    longest = std::max(longest, slice.position + static_cast<int32_t>(slice.tokens.size()));
  }
  return longest;
}

}  // namespace

absl::StatusOr<StepLog> StepLog::Create() {
  StepLog log;
  ASSIGN_OR_RETURN(log.begun, CudaEvent::Create());
  ASSIGN_OR_RETURN(log.ended, CudaEvent::Create());
  return log;
}

bool FastModelRuns(const Assign& assign) {
  return !assign.compute.deterministic && assign.plan.spec.WorkerCount() == 1 &&
         assign.plan.spec.slices == 1 && assign.cache.dtype == Dtype::kBf16 &&
         FastLayersRun(assign.shape);
}

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateFastModel(const DeviceModelParts& parts) {
  return FastModel::Create(parts);
}

FastModel::FastModel(const DeviceModelParts& parts)
    : parts_(parts),
      shape_(parts.assign.shape),
      inputs_(parts.kv.spare_page()),
      trace_(parts.assign.rank, parts.trace) {}

absl::StatusOr<std::unique_ptr<FastModel>> FastModel::Create(const DeviceModelParts& parts) {
  std::unique_ptr<FastModel> model(new FastModel(parts));
  ASSIGN_OR_RETURN(model->stream_, CudaStreamOwner::Create());
  for (StepLog& log : model->logs_) {
    ASSIGN_OR_RETURN(log, StepLog::Create());
  }
  ASSIGN_OR_RETURN(
      model->layers_,
      FastLayers::Create({parts.assign.shape, parts.weights, parts.kv, 2 * kSlotsOfStep,
                          kSlotsOfStep, model->trace_, model->stream_.get(), parts.tuning}));
  return model;
}

absl::Status FastModel::FindSources() {
  sources_.assign(batch_.tokens(), -1);
  int32_t token = 0;
  for (const SequenceSlice& slice : batch_.plan().batch) {
    if (slice.from_previous_step) {
      const auto it = sampled_before_.find(slice.request);
      if (it == sampled_before_.end()) {
        return absl::InvalidArgumentError(absl::StrCat(
            batch_.plan().step.ToString(), " of ", batch_.plan().epoch.ToString(), ": ",
            slice.request.ToString(),
            ": from_previous_step, but the step before sampled no token for it; give the token"));
      }
      sources_[token] = it->second;
    }
    token += static_cast<int32_t>(slice.tokens.size());
  }
  return absl::OkStatus();
}

absl::Status FastModel::Submit(const StepPlan& plan) {
  CHECK_LT(in_flight_.size(), 2u);
  turn_ ^= 1;
  StepLog& log = logs_[turn_];
  log.samples.clear();
  log.logits.clear();
  log.parts = 0;
  log.one_token = false;
  log.rows = 0;
  log.submitted = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(log.begun.Record(stream_.get()));
  sampled_now_.clear();
  RETURN_IF_ERROR(batch_.Build(plan, nullptr));
  if (DecodesOnly(batch_) && layers_->TakesAtOnce(batch_.tokens())) {
    RETURN_IF_ERROR(SubmitDecode(log));
  } else if (batch_.tokens() > 0) {
    RETURN_IF_ERROR(SubmitPieces(plan, log));
  }
  std::swap(sampled_before_, sampled_now_);
  RETURN_IF_ERROR(FetchResults(log));
  RETURN_IF_ERROR(log.ended.Record(stream_.get()));
  in_flight_.push_back(turn_);
  return absl::OkStatus();
}

// Notes whose tokens the rows of batch_ will be.
static void NoteSamples(const StepBatch& batch, int32_t half, StepLog& log, SampledBefore& now) {
  int32_t index = -1;
  for (const HeadRow& row : batch.head_rows()) {
    ++index;
    if (!row.sample) continue;
    const RequestId request = batch.plan().batch[row.sequence].request;
    now[request] = half + static_cast<int32_t>(log.samples.size());
    log.samples.push_back({request, row.position + 1, log.rows + index});
  }
  log.rows += static_cast<int32_t>(batch.head_rows().size());
}

absl::Status FastModel::SubmitDecode(StepLog& log) {
  const int32_t bucket = DecodeBucket(batch_.tokens());
  const int32_t context = std::min(ContextBucket(LongestContext(batch_)),
                                   std::max(shape_.context_tokens, kContextBucketMin));
  const StepCapacity capacity = {bucket, bucket, bucket};
  RETURN_IF_ERROR(FindSources());
  const int32_t half = turn_ * kSlotsOfStep;
  RETURN_IF_ERROR(
      inputs_.Send({batch_, sources_, batch_.head_rows(), half}, capacity, stream_.get()));
  NoteSamples(batch_, half, log, sampled_now_);
  log.parts = 1;
  RETURN_IF_ERROR(layers_->Reserve({bucket, bucket, 1}));
  const FastBatch batch = {inputs_.View(capacity), bucket, bucket, bucket, context, true, 0, 0,
                           AllGreedy(batch_)};
  log.one_token = layers_->UsesOneToken(batch);
  const auto enqueue = [&]() -> absl::Status {
    RETURN_IF_ERROR(layers_->Body(batch));
    return layers_->Head(batch, 0, bucket);
  };
  if (trace_.on() || !parts_.tuning.graphs) {
    RETURN_IF_ERROR(enqueue());
    return trace_.Finish(stream_.get());
  }
  const GraphKey key = {bucket, context, batch.inputs.token_id, layers_->generation(),
                        batch.all_greedy};
  auto found = graphs_.find(key);
  if (found == graphs_.end()) {
    ASSIGN_OR_RETURN(CudaGraph graph, CudaGraph::Capture(stream_.get(), enqueue));
    found = graphs_.emplace(key, std::move(graph)).first;
  }
  return found->second.Launch(stream_.get());
}

absl::Status FastModel::SubmitPieces(const StepPlan& plan, StepLog& log) {
  const std::vector<StepPlan> pieces =
      CutIntoPieces(plan, layers_->tokens_max(), parts_.kv.geometry().page_tokens);
  // All memory first: growing waits for the device.
  RETURN_IF_ERROR(layers_->Reserve(
      {std::min<int32_t>(batch_.tokens(), layers_->tokens_max()),
       std::min<int32_t>(static_cast<int32_t>(batch_.head_rows().size()), layers_->rows_max()),
       static_cast<int32_t>(pieces.size())}));
  for (const StepPlan& piece : pieces) {
    RETURN_IF_ERROR(batch_.Build(piece, nullptr));
    RETURN_IF_ERROR(RunPiece(piece, log));
    ++log.parts;
  }
  return trace_.Finish(stream_.get());
}

absl::Status FastModel::RunPiece(const StepPlan& plan, StepLog& log) {
  RETURN_IF_ERROR(FindSources());
  const int32_t tokens = batch_.tokens();
  const int32_t sequences = static_cast<int32_t>(plan.batch.size());
  const int32_t rows = static_cast<int32_t>(batch_.head_rows().size());
  const StepCapacity capacity = {tokens, sequences, rows};
  const int32_t half = turn_ * kSlotsOfStep;
  const int32_t first_slot = half + static_cast<int32_t>(log.samples.size());
  RETURN_IF_ERROR(
      inputs_.Send({batch_, sources_, batch_.head_rows(), first_slot}, capacity, stream_.get()));
  const int32_t first_row = log.rows;
  NoteSamples(batch_, half, log, sampled_now_);
  size_t longest = 0;
  for (const SequenceSlice& slice : plan.batch) longest = std::max(longest, slice.tokens.size());
  const FastBatch batch = {inputs_.View(capacity), tokens,       sequences, rows,
                           LongestContext(batch_), longest == 1, log.parts, first_row,
                           AllGreedy(batch_)};
  RETURN_IF_ERROR(layers_->Body(batch));
  const absl::Span<const HeadRow> all = batch_.head_rows();
  const bool reports =
      std::any_of(all.begin(), all.end(), [](const HeadRow& row) { return row.report; });
  const int32_t step = reports ? std::min(kReportRows, layers_->rows_max()) : layers_->rows_max();
  for (int32_t first = 0; first < rows; first += step) {
    const int32_t count = std::min(step, rows - first);
    RETURN_IF_ERROR(layers_->Head(batch, first, count));
    if (reports) RETURN_IF_ERROR(ReportLogits(all.subspan(first, count), log));
  }
  return absl::OkStatus();
}

// Logits are for tests and evaluation: they wait for the device.
absl::Status FastModel::ReportLogits(absl::Span<const HeadRow> rows, StepLog& log) {
  const int64_t vocab = shape_.vocab;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!rows[i].report) continue;
    Logits fact;
    fact.step = batch_.plan().step;
    fact.request = batch_.plan().batch[rows[i].sequence].request;
    fact.position = rows[i].position;
    fact.vocab = static_cast<int32_t>(vocab);
    fact.values.resize(vocab);
    RETURN_IF_ERROR(CopyToHost(fact.values.data(), layers_->LogitsRow(static_cast<int32_t>(i)),
                               vocab * static_cast<int64_t>(sizeof(float)), stream_.get()));
    RETURN_IF_ERROR(stream_.Synchronize());
    log.logits.push_back(std::move(fact));
  }
  return absl::OkStatus();
}

absl::Status FastModel::FetchResults(StepLog& log) {
  const int64_t samples = static_cast<int64_t>(log.samples.size());
  const int64_t loads = log.one_token ? layers_->chosen_bytes() : layers_->loads_bytes(log.parts);
  if (log.tokens.bytes() < samples * 4) {
    ASSIGN_OR_RETURN(log.tokens, PinnedBuffer::Create(std::max<int64_t>(samples, 1024) * 4));
  }
  if (log.logprobs.bytes() < int64_t{4} * log.rows) {
    ASSIGN_OR_RETURN(log.logprobs, PinnedBuffer::Create(std::max(log.rows, 1024) * int64_t{4}));
  }
  if (log.slot_first.bytes() < loads) {
    ASSIGN_OR_RETURN(log.slot_first, PinnedBuffer::Create(loads));
  }
  if (loads > 0) {
    RETURN_IF_ERROR(CopyToHost(log.slot_first.data(),
                               log.one_token ? layers_->chosen() : layers_->loads(), loads,
                               stream_.get()));
  }
  if (samples == 0) return absl::OkStatus();
  const int32_t half = turn_ * kSlotsOfStep;
  RETURN_IF_ERROR(
      CopyToHost(log.tokens.data(), layers_->sampled_tokens() + half, samples * 4, stream_.get()));
  return CopyToHost(log.logprobs.data(), layers_->sampled_logprobs(), int64_t{4} * log.rows,
                    stream_.get());
}

bool FastModel::Done() { return logs_[in_flight_.front()].ended.Done(); }

void FastModel::AddChosenExperts(const StepLog& log, StepResult& result) const {
  const int32_t* chosen = log.slot_first.as<int32_t>();
  for (const DeviceLayer& layer : parts_.weights.layers) {
    if (layer.router.data == nullptr) continue;
    for (int32_t i = 0; i < shape_.moe.top_k; ++i) {
      result.weight_bytes_read += layer.gate_up.matrix_bytes + layer.down.matrix_bytes;
      result.experts.push_back({layer.layer, chosen[i], 0, 1});
    }
    chosen += shape_.moe.top_k;
  }
}

void FastModel::AddExpertLoads(const StepLog& log, StepResult& result) const {
  if (log.one_token) return AddChosenExperts(log, result);
  const int32_t* first = log.slot_first.as<int32_t>();
  for (int part = 0; part < log.parts; ++part) {
    for (const DeviceLayer& layer : parts_.weights.layers) {
      if (layer.router.data == nullptr) continue;
      for (int32_t slot = 0; slot < layer.gate_up.matrices; ++slot) {
        const int32_t tokens = first[slot + 1] - first[slot];
        if (tokens == 0) continue;
        result.weight_bytes_read += layer.gate_up.matrix_bytes + layer.down.matrix_bytes;
        result.experts.push_back({layer.layer, slot, 0, tokens});
      }
      first += layer.gate_up.matrices + 1;
    }
  }
}

absl::Status FastModel::Collect(absl::FunctionRef<void(Logits)> sink, StepResult& result) {
  StepLog& log = logs_[in_flight_.front()];
  in_flight_.pop_front();
  RETURN_IF_ERROR(log.ended.Synchronize());
  ++parts_.progress;
  for (Logits& logits : log.logits) sink(std::move(logits));
  const int32_t* tokens = log.tokens.as<int32_t>();
  const float* logprobs = log.logprobs.as<float>();
  for (size_t i = 0; i < log.samples.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= shape_.vocab) {
      return absl::InternalError(absl::StrCat("sampled token ", tokens[i],
                                              " is outside the vocabulary; the GPU computed "
                                              "wrongly, take it out of service"));
    }
    result.tokens.push_back(
        {log.samples[i].request, log.samples[i].position, tokens[i], logprobs[log.samples[i].row]});
  }
  AddExpertLoads(log, result);
  result.weight_bytes_read += layers_->always_read_bytes() * std::max(log.parts, 1);
  result.timings.total_us = std::chrono::duration_cast<std::chrono::microseconds>(
                                std::chrono::steady_clock::now() - log.submitted)
                                .count();
  return absl::OkStatus();
}

}  // namespace conclave
