#include "coordinator/api/completion_text.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace conclave {

std::string StopMatcher::Push(absl::string_view text) {
  if (stopped_) return "";
  std::string all = std::exchange(held_, "");
  all.append(text.data(), text.size());
  size_t end = std::string::npos;
  for (const std::string& stop : stops_) end = std::min(end, all.find(stop));
  if (end != std::string::npos) {
    stopped_ = true;
    return all.substr(0, end);
  }
  // Hold back the longest tail that may be the beginning of a stop string.
  size_t held = 0;
  for (const std::string& stop : stops_) {
    for (size_t size = std::min(stop.size() - 1, all.size()); size > held; --size) {
      if (absl::EndsWith(all, absl::string_view(stop).substr(0, size))) held = size;
    }
  }
  held_ = all.substr(all.size() - held);
  all.resize(all.size() - held);
  return all;
}

std::string StopMatcher::Flush() { return stopped_ ? "" : std::exchange(held_, ""); }

CompletionText::CompletionText(const Tokenizer* tokenizer, std::vector<std::string> stops,
                               std::vector<int32_t> silent)
    : stops_(std::move(stops)), silent_(std::move(silent)) {
  if (tokenizer != nullptr) decoder_.emplace(*tokenizer);
}

std::string CompletionText::Push(int32_t token) {
  if (!decoder_ || std::find(silent_.begin(), silent_.end(), token) != silent_.end()) return "";
  return stops_.Push(decoder_->Push(token));
}

std::string CompletionText::Flush() {
  if (!decoder_) return "";
  std::string text = stops_.Push(decoder_->Flush());
  text += stops_.Flush();
  return text;
}

}  // namespace conclave
