#include "coordinator/tokenizer/tokenizer_json.h"

#include <algorithm>
#include <utility>

#include "absl/container/btree_map.h"
#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "coordinator/model_config/json_fields.h"

namespace conclave {
namespace {

constexpr IntRange kIdRange = {0, kTokenIdMax};
constexpr size_t kAddedContentBytesMax = 4096;
// The pattern of GPT-2, which ByteLevel applies unless use_regex is false.
constexpr char kGpt2Pattern[] =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

absl::string_view View(const boost::json::string& text) { return {text.data(), text.size()}; }
absl::string_view View(boost::json::string_view text) { return {text.data(), text.size()}; }

absl::Status Unsupported(const JsonFields& fields, absl::string_view key,
                         absl::string_view remedy) {
  return absl::UnimplementedError(fields.Refuse(key, remedy).message());
}

// The members of a "Sequence" node, or the node itself. `list_key` names the members.
absl::StatusOr<std::vector<const boost::json::object*>> Members(const boost::json::object& node,
                                                                const std::string& context,
                                                                absl::string_view list_key) {
  const JsonFields fields(node, context);
  ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
  std::vector<const boost::json::object*> members;
  if (type != "Sequence") {
    members.push_back(&node);
    return members;
  }
  ASSIGN_OR_RETURN(const boost::json::array* list, fields.ArrayOrNull(list_key));
  if (list == nullptr) return fields.Refuse(list_key, "give a list");
  for (const boost::json::value& item : *list) {
    if (!item.is_object()) return fields.Refuse(list_key, "give a list of objects");
    ASSIGN_OR_RETURN(const auto inner, Members(item.get_object(), context, list_key));
    members.insert(members.end(), inner.begin(), inner.end());
  }
  return members;
}

absl::Status ReadVocab(const JsonFields& model, BpeSource* bpe) {
  ASSIGN_OR_RETURN(const boost::json::object* vocab, model.ObjectOrNull("vocab"));
  if (vocab == nullptr || vocab->empty()) {
    return model.Refuse("vocab", "give an object of tokens and ids");
  }
  const JsonFields entries(*vocab, absl::StrCat(model.context(), ".vocab"));
  std::vector<bool> used;
  for (const auto& [token, value] : *vocab) {
    ASSIGN_OR_RETURN(const int64_t id, entries.Int(View(token), kIdRange));
    if (used.size() <= static_cast<size_t>(id)) used.resize(id + 1, false);
    if (used[id]) {
      return entries.Refuse(View(token), "another token has this id; give each its own");
    }
    used[id] = true;
    bpe->vocab.push_back({std::string(View(token)), static_cast<int32_t>(id)});
  }
  return absl::OkStatus();
}

// "a b", or ["a", "b"].
absl::Status ReadMerges(const JsonFields& model, BpeSource* bpe) {
  ASSIGN_OR_RETURN(const boost::json::array* merges, model.ArrayOrNull("merges"));
  if (merges == nullptr) return model.Refuse("merges", "give a list");
  bpe->merges.reserve(merges->size());
  for (size_t rank = 0; rank < merges->size(); ++rank) {
    const boost::json::value& item = (*merges)[rank];
    absl::string_view left, right;
    if (const boost::json::string* text = item.if_string()) {
      const absl::string_view all = View(*text);
      const size_t space = all.find(' ');
      if (space != absl::string_view::npos && all.find(' ', space + 1) == absl::string_view::npos) {
        left = all.substr(0, space);
        right = all.substr(space + 1);
      }
    } else if (const boost::json::array* pair = item.if_array();
               pair != nullptr && pair->size() == 2 && (*pair)[0].is_string() &&
               (*pair)[1].is_string()) {
      left = View((*pair)[0].get_string());
      right = View((*pair)[1].get_string());
    }
    if (left.empty() || right.empty()) {
      return absl::InvalidArgumentError(absl::StrCat(model.context(), ": key 'merges', entry ",
                                                     rank, ", is ", JsonExcerpt(item),
                                                     "; give \"a b\" or [\"a\", \"b\"]"));
    }
    bpe->merges.emplace_back(left, right);
  }
  return absl::OkStatus();
}

absl::Status ReadModel(const JsonFields& root, BpeSource* bpe) {
  ASSIGN_OR_RETURN(const boost::json::object* object, root.ObjectOrNull("model"));
  if (object == nullptr) return root.Refuse("model", "give the BPE model");
  const JsonFields model(*object, absl::StrCat(root.context(), ": model"));
  ASSIGN_OR_RETURN(const std::string type, model.StringOr("type", "BPE"));
  if (type != "BPE") return Unsupported(model, "type", "only byte-level BPE is supported");
  ASSIGN_OR_RETURN(const double dropout, model.NumberOr("dropout", 0));
  if (dropout != 0) return Unsupported(model, "dropout", "only null is supported");
  for (absl::string_view key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    ASSIGN_OR_RETURN(const std::string affix, model.StringOr(key, ""));
    if (!affix.empty()) return Unsupported(model, key, "only byte-level BPE is supported");
  }
  ASSIGN_OR_RETURN(const bool byte_fallback, model.BoolOr("byte_fallback", false));
  if (byte_fallback) {
    return Unsupported(model, "byte_fallback", "only byte-level BPE is supported; use token ids");
  }
  ASSIGN_OR_RETURN(bpe->ignore_merges, model.BoolOr("ignore_merges", false));
  RETURN_IF_ERROR(ReadVocab(model, bpe));
  return ReadMerges(model, bpe);
}

absl::StatusOr<AddedToken> ReadAddedToken(const JsonFields& fields) {
  AddedToken token;
  ASSIGN_OR_RETURN(token.id, fields.Int("id", kIdRange));
  ASSIGN_OR_RETURN(token.content, fields.String("content"));
  if (token.content.empty() || token.content.size() > kAddedContentBytesMax) {
    return fields.Refuse("content", absl::StrCat("give 1 to ", kAddedContentBytesMax, " bytes"));
  }
  ASSIGN_OR_RETURN(token.special, fields.BoolOr("special", false));
  ASSIGN_OR_RETURN(token.normalized, fields.BoolOr("normalized", !token.special));
  ASSIGN_OR_RETURN(token.single_word, fields.BoolOr("single_word", false));
  ASSIGN_OR_RETURN(token.lstrip, fields.BoolOr("lstrip", false));
  ASSIGN_OR_RETURN(token.rstrip, fields.BoolOr("rstrip", false));
  return token;
}

absl::Status ReadAddedTokens(const JsonFields& root, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const boost::json::array* list, root.ArrayOrNull("added_tokens"));
  if (list == nullptr) return absl::OkStatus();
  absl::btree_map<std::string, int32_t> ids;  // of every token known so far
  absl::btree_map<int32_t, std::string> names;
  for (const VocabEntry& entry : spec->bpe.vocab) {
    ids.emplace(entry.token, entry.id);
    names.emplace(entry.id, entry.token);
  }
  std::vector<bool> seen;
  for (size_t i = 0; i < list->size(); ++i) {
    if (!(*list)[i].is_object()) return root.Refuse("added_tokens", "give a list of objects");
    const JsonFields fields((*list)[i].get_object(),
                            absl::StrCat(root.context(), ": added_tokens[", i, "]"));
    ASSIGN_OR_RETURN(AddedToken token, ReadAddedToken(fields));
    const auto by_id = names.emplace(token.id, token.content).first;
    const auto by_name = ids.emplace(token.content, token.id).first;
    if (by_id->second != token.content || by_name->second != token.id) {
      return fields.Refuse(
          "id", absl::StrCat("'", by_id->second, "' has this id and '", by_name->first, "' has id ",
                             by_name->second, "; make them agree"));
    }
    if (seen.size() <= static_cast<size_t>(token.id)) seen.resize(token.id + 1, false);
    if (seen[token.id]) return fields.Refuse("id", "it is listed twice; list it once");
    seen[token.id] = true;
    spec->added.push_back(std::move(token));
  }
  std::sort(spec->added.begin(), spec->added.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  return absl::OkStatus();
}

absl::Status ReadNormalizer(const JsonFields& root, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const boost::json::object* object, root.ObjectOrNull("normalizer"));
  if (object == nullptr) return absl::OkStatus();
  const std::string context = absl::StrCat(root.context(), ": normalizer");
  ASSIGN_OR_RETURN(const auto members, Members(*object, context, "normalizers"));
  for (const boost::json::object* member : members) {
    const JsonFields fields(*member, context);
    ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
    if (type != "NFC") return Unsupported(fields, "type", "only null and NFC are supported");
    spec->nfc = true;
  }
  return absl::OkStatus();
}

// A pattern that matches `text` literally.
std::string Quoted(absl::string_view text) {
  std::string pattern;
  for (char c : text) {
    if (absl::string_view("\\^$.[]|()?*+{}#-").find(c) != absl::string_view::npos) {
      pattern.push_back('\\');
    }
    pattern.push_back(c);
  }
  return pattern;
}

absl::StatusOr<PreTokenizerStep> ReadSplit(const JsonFields& fields) {
  PreTokenizerStep step;
  ASSIGN_OR_RETURN(const boost::json::object* pattern, fields.ObjectOrNull("pattern"));
  if (pattern == nullptr) return fields.Refuse("pattern", "give {\"Regex\": \"...\"}");
  const JsonFields inner(*pattern, absl::StrCat(fields.context(), ".pattern"));
  if (inner.Find("String") != nullptr) {
    ASSIGN_OR_RETURN(const std::string text, inner.String("String"));
    step.pattern = Quoted(text);
  } else {
    ASSIGN_OR_RETURN(step.pattern, inner.String("Regex"));
  }
  if (step.pattern.empty()) return fields.Refuse("pattern", "give a pattern that is not empty");
  ASSIGN_OR_RETURN(const std::string behavior, fields.String("behavior"));
  ASSIGN_OR_RETURN(const bool invert, fields.BoolOr("invert", false));
  step.matches_only = behavior == "Removed" && invert;
  if (behavior != "Isolated" && !step.matches_only) {
    return Unsupported(fields, "behavior", "only Isolated, and Removed with invert, are supported");
  }
  return step;
}

absl::Status ReadPreTokenizer(const JsonFields& root, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const boost::json::object* object, root.ObjectOrNull("pre_tokenizer"));
  if (object == nullptr) return Unsupported(root, "pre_tokenizer", "it must end in ByteLevel");
  const std::string context = absl::StrCat(root.context(), ": pre_tokenizer");
  ASSIGN_OR_RETURN(const auto members, Members(*object, context, "pretokenizers"));
  bool byte_level = false;
  for (const boost::json::object* member : members) {
    const JsonFields fields(*member, context);
    ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
    if (byte_level) return Unsupported(fields, "type", "nothing may follow ByteLevel");
    PreTokenizerStep step;
    if (type == "Split") {
      ASSIGN_OR_RETURN(step, ReadSplit(fields));
    } else if (type == "Digits") {
      ASSIGN_OR_RETURN(const bool individual, fields.BoolOr("individual_digits", false));
      step.pattern = individual ? "\\p{N}" : "\\p{N}+";
    } else if (type == "ByteLevel") {
      byte_level = true;
      ASSIGN_OR_RETURN(step.prefix_space, fields.BoolOr("add_prefix_space", true));
      ASSIGN_OR_RETURN(const bool use_regex, fields.BoolOr("use_regex", true));
      if (use_regex) step.pattern = kGpt2Pattern;
    } else {
      return Unsupported(fields, "type", "only Split, Digits and ByteLevel are supported");
    }
    if (!step.pattern.empty() || step.prefix_space) spec->steps.push_back(std::move(step));
  }
  if (!byte_level) return Unsupported(root, "pre_tokenizer", "it must end in ByteLevel");
  return absl::OkStatus();
}

absl::StatusOr<std::vector<int32_t>> TemplateIds(const JsonFields& fields, absl::string_view name) {
  ASSIGN_OR_RETURN(const boost::json::object* tokens, fields.ObjectOrNull("special_tokens"));
  if (tokens == nullptr) return fields.Refuse("special_tokens", "give the template's tokens");
  const JsonFields entries(*tokens, absl::StrCat(fields.context(), ".special_tokens"));
  ASSIGN_OR_RETURN(const boost::json::object* entry, entries.ObjectOrNull(name));
  if (entry == nullptr) return entries.Refuse(name, "give the token that the template names");
  ASSIGN_OR_RETURN(
      const std::vector<int64_t> ids,
      JsonFields(*entry, absl::StrCat(entries.context(), ".", name)).IntList("ids", kIdRange));
  return std::vector<int32_t>(ids.begin(), ids.end());
}

// "single": tokens before and after the one sequence.
absl::Status ReadTemplate(const JsonFields& fields, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const boost::json::array* single, fields.ArrayOrNull("single"));
  if (single == nullptr) return fields.Refuse("single", "give a list");
  bool text_seen = false;
  for (const boost::json::value& item : *single) {
    const boost::json::object* piece = item.if_object();
    if (piece == nullptr) return fields.Refuse("single", "give a list of objects");
    if (piece->contains("Sequence") && !text_seen) {
      text_seen = true;
      continue;
    }
    const JsonFields entry(*piece, absl::StrCat(fields.context(), ".single"));
    ASSIGN_OR_RETURN(const boost::json::object* token, entry.ObjectOrNull("SpecialToken"));
    if (token == nullptr) return fields.Refuse("single", "give SpecialTokens and one Sequence");
    ASSIGN_OR_RETURN(const std::string name,
                     JsonFields(*token, entry.context() + ".SpecialToken").String("id"));
    ASSIGN_OR_RETURN(const std::vector<int32_t> ids, TemplateIds(fields, name));
    std::vector<int32_t>& side = text_seen ? spec->suffix_ids : spec->prefix_ids;
    side.insert(side.end(), ids.begin(), ids.end());
  }
  if (!text_seen) return fields.Refuse("single", "give one Sequence");
  return absl::OkStatus();
}

absl::Status ReadPostProcessor(const JsonFields& root, TokenizerSpec* spec) {
  ASSIGN_OR_RETURN(const boost::json::object* object, root.ObjectOrNull("post_processor"));
  if (object == nullptr) return absl::OkStatus();
  const std::string context = absl::StrCat(root.context(), ": post_processor");
  ASSIGN_OR_RETURN(const auto members, Members(*object, context, "processors"));
  for (const boost::json::object* member : members) {
    const JsonFields fields(*member, context);
    ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
    if (type == "ByteLevel") continue;  // trims offsets only
    if (type != "TemplateProcessing") {
      return Unsupported(fields, "type", "only ByteLevel and TemplateProcessing are supported");
    }
    RETURN_IF_ERROR(ReadTemplate(fields, spec));
  }
  return absl::OkStatus();
}

absl::Status CheckDecoder(const JsonFields& root) {
  ASSIGN_OR_RETURN(const boost::json::object* object, root.ObjectOrNull("decoder"));
  if (object == nullptr) return Unsupported(root, "decoder", "only ByteLevel is supported");
  const std::string context = absl::StrCat(root.context(), ": decoder");
  ASSIGN_OR_RETURN(const auto members, Members(*object, context, "decoders"));
  for (const boost::json::object* member : members) {
    const JsonFields fields(*member, context);
    ASSIGN_OR_RETURN(const std::string type, fields.String("type"));
    if (type != "ByteLevel") return Unsupported(fields, "type", "only ByteLevel is supported");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<TokenizerSpec> ParseTokenizerJson(absl::string_view json,
                                                 absl::string_view context) {
  ASSIGN_OR_RETURN(const boost::json::value value, ParseJson(json, context));
  if (!value.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(context, ": the top level is ", JsonExcerpt(value), "; give a JSON object"));
  }
  const JsonFields root(value.get_object(), std::string(context));
  TokenizerSpec spec;
  // The kind of tokenizer first: its refusal is clearer than that of a detail.
  RETURN_IF_ERROR(ReadNormalizer(root, &spec));
  RETURN_IF_ERROR(ReadModel(root, &spec.bpe));
  RETURN_IF_ERROR(ReadAddedTokens(root, &spec));
  RETURN_IF_ERROR(ReadPreTokenizer(root, &spec));
  RETURN_IF_ERROR(ReadPostProcessor(root, &spec));
  RETURN_IF_ERROR(CheckDecoder(root));
  return spec;
}

}  // namespace conclave
