#include <capnp/message.h>
#include <capnp/serialize.h>
#include <kj/exception.h>

#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "comm/codec/codec.h"
#include "comm/codec/field_check.h"
#include "comm/codec/read_model.h"
#include "comm/codec/read_step.h"
#include "comm/schema/control.capnp.h"

namespace conclave {
namespace {

// Envelope, message, plan, list, element: 16 is ample.
constexpr int kNestingMax = 16;

// Each part of a frame is read once. Twice its size leaves room for list tags, and still bounds
// what a frame whose pointers share one target can make us read.
constexpr uint64_t TraversalWords(size_t frame_words) { return 2 * frame_words + 64; }

constexpr int32_t kStatusCodeMax = static_cast<int32_t>(absl::StatusCode::kUnauthenticated);

absl::string_view View(capnp::Text::Reader text) { return {text.begin(), text.size()}; }

std::string ReadBytes(absl::string_view field, capnp::Data::Reader data, FieldCheck& check) {
  return check.Text(field, {reinterpret_cast<const char*>(data.begin()), data.size()},
                    kTextBytesMax);
}

std::string ReadReason(absl::string_view field, capnp::Text::Reader text, FieldCheck& check) {
  return check.Text(field, View(text), kTextBytesMax);
}

Hello ReadHello(schema::Hello::Reader in, FieldCheck& check) {
  Hello out;
  out.name = check.Text("hello.name", View(in.getName()), kNameBytesMax);
  out.node = check.Text("hello.node", View(in.getNode()), kNameBytesMax);
  out.device = check.Text("hello.device", View(in.getDevice()), kNameBytesMax);
  out.memory_bytes = check.Int64("hello.memoryBytes", in.getMemoryBytes());
  out.threads = check.Int32("hello.threads", in.getThreads());
  out.process = check.Int64("hello.process", in.getProcess());
  out.version = check.Text("hello.version", View(in.getVersion()), kNameBytesMax);
  return out;
}

Heartbeat ReadHeartbeat(schema::Heartbeat::Reader in, FieldCheck& check) {
  Heartbeat out;
  out.progress = in.getProgress();
  out.last_step = StepId{in.getLastStep()};
  out.steps_queued = check.Int32("heartbeat.stepsQueued", in.getStepsQueued());
  return out;
}

Prepared ReadPrepared(schema::Prepared::Reader in, FieldCheck& check) {
  Prepared out;
  out.fabric_address = ReadBytes("prepared.fabricAddress", in.getFabricAddress(), check);
  out.weight_bytes = check.Int64("prepared.weightBytes", in.getWeightBytes());
  out.checkpoint_bytes_read =
      check.Int64("prepared.checkpointBytesRead", in.getCheckpointBytesRead());
  out.checkpoint_bytes_share =
      check.Int64("prepared.checkpointBytesShare", in.getCheckpointBytesShare());
  out.load_us = check.Int64("prepared.loadUs", in.getLoadUs());
  out.kv_pages = check.Int32("prepared.kvPages", in.getKvPages());
  return out;
}

Fault ReadFault(schema::Fault::Reader in, FieldCheck& check) {
  Fault out;
  out.step = StepId{in.getStep()};
  out.code = check.Int32("fault.code", in.getCode(), {0, kStatusCodeMax});
  out.message = ReadReason("fault.message", in.getMessage(), check);
  return out;
}

Commit ReadCommit(schema::Commit::Reader in, FieldCheck& check) {
  Commit out;
  const auto addresses = in.getFabricAddresses();
  const size_t count = check.Count("commit.fabricAddresses", addresses.size(), kRanksMax);
  for (size_t i = 0; i < count && check.ok(); ++i) {
    out.fabric_addresses.push_back(ReadBytes("commit.fabricAddresses", addresses[i], check));
  }
  const auto nodes = in.getNodes();
  check.Require(nodes.size() == addresses.size(), "commit.nodes",
                absl::StrCat(nodes.size(), " nodes for ", addresses.size(), " addresses"));
  for (size_t i = 0; i < count && check.ok(); ++i) {
    out.nodes.push_back(check.Text("commit.nodes", View(nodes[i]), kNameBytesMax));
  }
  return out;
}

Message ReadMessage(schema::Envelope::Message::Reader in, FieldCheck& check) {
  using Wire = schema::Envelope::Message;
  switch (in.which()) {
    case Wire::HELLO:
      return ReadHello(in.getHello(), check);
    case Wire::HEARTBEAT:
      return ReadHeartbeat(in.getHeartbeat(), check);
    case Wire::PREPARED:
      return ReadPrepared(in.getPrepared(), check);
    case Wire::READY:
      return Ready{};
    case Wire::STEP_DONE:
      return StepDone{ReadStepResult(in.getStepDone(), check)};
    case Wire::LOGITS:
      return ReadLogits(in.getLogits(), check);
    case Wire::FAULT:
      return ReadFault(in.getFault(), check);
    case Wire::GOODBYE:
      return Goodbye{ReadReason("goodbye.reason", in.getGoodbye(), check)};
    case Wire::ASSIGN:
      return ReadAssign(in.getAssign(), check);
    case Wire::COMMIT:
      return ReadCommit(in.getCommit(), check);
    case Wire::STEP:
      return Step{ReadStepPlan(in.getStep(), check)};
    case Wire::ABORT:
      return Abort{ReadReason("abort.reason", in.getAbort(), check)};
    case Wire::SHUTDOWN:
      return Shutdown{ReadReason("shutdown.reason", in.getShutdown(), check)};
  }
  check.Refuse("message", absl::StrCat("kind ", static_cast<uint16_t>(in.which()),
                                       " is not known; upgrade this process"));
  return Ready{};
}

// Throws kj::Exception on malformed pointers.
absl::StatusOr<Envelope> ReadFrame(kj::ArrayPtr<const capnp::word> words) {
  capnp::ReaderOptions options;
  options.traversalLimitInWords = TraversalWords(words.size());
  options.nestingLimit = kNestingMax;
  capnp::FlatArrayMessageReader reader(words, options);
  const auto root = reader.getRoot<schema::Envelope>();
  if (root.getProtocol() != kProtocolVersion) {
    return absl::InvalidArgumentError(absl::StrCat(
        "frame: protocol: the peer speaks version ", root.getProtocol(), ", this process version ",
        kProtocolVersion, "; run the same release of conclave everywhere"));
  }
  FieldCheck check;
  Envelope out;
  out.epoch = Epoch{root.getEpoch()};
  out.worker = WorkerId{root.getWorker()};
  out.sequence = root.getSequence();
  out.message = ReadMessage(root.getMessage(), check);
  if (!check.ok()) return check.status();
  return out;
}

}  // namespace

absl::StatusOr<Envelope> Decode(absl::string_view frame) {
  if (frame.size() > kFrameBytesMax) {
    return absl::InvalidArgumentError(absl::StrCat(
        "frame: size: ", frame.size(), " bytes; at most ", kFrameBytesMax, " are allowed"));
  }
  if (frame.empty() || frame.size() % sizeof(capnp::word) != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "frame: size: ", frame.size(), " bytes are not a whole number of 8-byte words"));
  }
  // Cap'n Proto reads words in place: a frame that lies askew is copied.
  std::vector<capnp::word> aligned;
  const size_t word_count = frame.size() / sizeof(capnp::word);
  const auto* words = reinterpret_cast<const capnp::word*>(frame.data());
  if (reinterpret_cast<uintptr_t>(frame.data()) % alignof(uint64_t) != 0) {
    aligned.resize(word_count);
    std::memcpy(static_cast<void*>(aligned.data()), frame.data(), frame.size());
    words = aligned.data();
  }
  try {
    return ReadFrame(kj::arrayPtr(words, word_count));
  } catch (const kj::Exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("frame: structure: malformed message of ",
                                                   frame.size(), " bytes (",
                                                   e.getDescription().cStr(), ")"));
  }
}

}  // namespace conclave
