// Reading is strict: what a later program has added, what somebody has edited, and what a disk has damaged must be
// heard, and not half understood.
#include "src/checkpoint/manifest.h"

#include <fmt/format.h>
#include <fmt/ranges.h>  // fmt::join

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <set>

#include "base/checksum.h"
#include "base/error.h"

namespace dither {

namespace {

using Json = nlohmann::json;             // as read: keys are looked up fast
using Ordered = nlohmann::ordered_json;  // as written

constexpr int kDeepest = 32;                // of nested JSON; a config has four levels
constexpr int64_t kMostSteps = 4294967295;  // as the config has it
constexpr int64_t kMostRanks = int64_t{1} << 20;
constexpr size_t kWidestWindow = 65536;
constexpr int64_t kMost = int64_t{1} << 62;  // of counts that nothing else bounds

// The last line but one and the last: the checksum of all that stands before them.
constexpr std::string_view kTrailerBegin = "\"xxh3\": \"", kTrailerEnd = "\"\n}\n";
constexpr int64_t kVersionWithTokens = 2;  // the first that has the key "tokens"
constexpr size_t kDigits = 16;
constexpr size_t kTrailerBytes = kTrailerBegin.size() + kDigits + kTrailerEnd.size();

/// The part of a text that may stand in a message.
std::string shown(const std::string& text) {
  constexpr size_t kLongest = 60;
  return Json(text.size() > kLongest ? text.substr(0, kLongest) + "..." : text)
      .dump(-1, ' ', true, Json::error_handler_t::replace);
}

/// One object of the file: its keys are asked for by name, and all of them must have been.
class Reader {
 public:
  Reader(const Json& object, std::string where, const std::string& origin)
      : object_(object), where_(std::move(where)), origin_(origin) {
    if (!object_.is_object()) fail(where_ + " is no object");
  }

  [[noreturn]] void fail(const std::string& what) const { throw Error(origin_ + ": " + what); }

  const Json& at(const char* key) {
    known_.insert(key);
    const auto found = object_.find(key);
    if (found == object_.end()) fail(fmt::format("{} has no \"{}\"", where_, key));
    return *found;
  }
  int64_t integer(const char* key, int64_t least, int64_t most) { return integer(at(key), key, least, most); }
  int64_t integer(const Json& value, const std::string& key, int64_t least, int64_t most) const {
    const bool fits = value.is_number_integer() &&
                      (!value.is_number_unsigned() || value.get<uint64_t>() <= static_cast<uint64_t>(most)) &&
                      value.get<int64_t>() >= least && value.get<int64_t>() <= most;
    if (!fits) {
      fail(fmt::format("{}: {} is {}, needs an integer from {} to {}", where_, key, shown_value(value), least, most));
    }
    return value.get<int64_t>();
  }
  std::string text(const char* key) {
    const Json& value = at(key);
    if (!value.is_string()) fail(fmt::format("{}: {} is {}, needs a text", where_, key, shown_value(value)));
    return value.get<std::string>();
  }
  uint64_t checksum(const char* key) {
    const std::string digits = text(key);
    if (digits.size() != kDigits || digits.find_first_not_of("0123456789abcdef") != std::string::npos) {
      fail(fmt::format("{}: {} is {}, needs 16 hexadecimal digits", where_, key, shown(digits)));
    }
    return std::stoull(digits, nullptr, 16);
  }
  std::vector<double> window(const char* key) {
    const Json& values = at(key);
    if (!values.is_array() || values.size() > kWidestWindow) {
      fail(fmt::format("{}: {} is no list of at most {} numbers", where_, key, kWidestWindow));
    }
    std::vector<double> window;
    for (const Json& value : values) {
      if (!value.is_number() || !std::isfinite(value.get<double>())) {
        fail(fmt::format("{}: {} holds {}, needs finite numbers", where_, key, shown_value(value)));
      }
      window.push_back(value.get<double>());
    }
    return window;
  }
  /// After the last key.
  void demand_no_more() const {
    for (const auto& [key, value] : object_.items()) {
      if (known_.count(key) == 0) fail(fmt::format("{} has the unknown key {}", where_, shown(key)));
    }
  }

 private:
  static std::string shown_value(const Json& value) {
    if (value.is_structured()) return "a list or an object";
    return value.is_string() ? shown(value.get<std::string>()) : value.dump();
  }

  const Json& object_;
  const std::string where_;
  const std::string& origin_;
  std::set<std::string> known_;
};

/// The text before the trailer, whose checksum must hold.
std::string_view checked_body(std::string_view text, const std::string& origin) {
  const auto damaged = [&origin](const std::string& how) -> Error {
    return Error(fmt::format("{}: {}: the file is damaged", origin, how));
  };
  if (text.size() < kTrailerBytes) throw damaged(fmt::format("it has {} bytes", text.size()));
  const std::string_view trailer = text.substr(text.size() - kTrailerBytes);
  if (trailer.substr(0, kTrailerBegin.size()) != kTrailerBegin ||
      trailer.substr(kTrailerBegin.size() + kDigits) != kTrailerEnd) {
    throw damaged("it does not end in its checksum");
  }
  const std::string_view body = text.substr(0, text.size() - kTrailerBytes),
                         said = trailer.substr(kTrailerBegin.size(), kDigits);
  const std::string found = checksum_text(checksum_of(body.data(), body.size()));
  if (found != said) {
    throw Error(fmt::format("{}: its XXH3 is {}, its last line says {}: the file is damaged", origin, found,
                            shown(std::string(said))));
  }
  return body;
}

/// What the JSON library takes in silence is an error here: a byte order mark, text behind a zero byte, a key twice.
Json parsed(std::string_view text, const std::string& origin) {
  if (text[0] != '{' || text.find('\0') != std::string_view::npos) {
    throw Error(origin + ": it does not begin with { or holds a zero byte");
  }
  std::vector<std::set<std::string>> keys;  // of the objects that are open, from the outermost
  const auto strictly = [&](int depth, Json::parse_event_t event, Json& value) {
    if (depth > kDeepest) throw Error(fmt::format("{}: lists and objects nest more than {} deep", origin, kDeepest));
    if (event == Json::parse_event_t::object_start) keys.emplace_back();
    if (event == Json::parse_event_t::object_end) keys.pop_back();
    if (event == Json::parse_event_t::key && !keys.back().insert(value.get<std::string>()).second) {
      throw Error(fmt::format("{}: {} stands twice in the same object", origin, shown(value.get<std::string>())));
    }
    return true;
  };
  try {
    return Json::parse(text.begin(), text.end(), strictly);
  } catch (const Json::exception& e) {
    throw Error(fmt::format("{}: not valid JSON: {}", origin, e.what()));
  }
}

StateRange range_of(const std::string& tensor, const Json& value, const Reader& shard) {
  StateRange range;
  const size_t slash = tensor.find('/');
  range.state = tensor.substr(0, slash);
  if (slash != std::string::npos) range.parameter = tensor.substr(slash + 1);
  if (range.parameter.empty() || std::find(kStateNames.begin(), kStateNames.end(), range.state) == kStateNames.end()) {
    shard.fail(fmt::format("the range {} does not begin with one of {}, \"/\" and a parameter's name", shown(tensor),
                           fmt::join(kStateNames, ", ")));
  }
  if (!value.is_array() || value.size() != 2)
    shard.fail(fmt::format("the range of {} is not [begin,end]", shown(tensor)));
  range.begin = shard.integer(value[0], "the begin of " + shown(tensor), 0, kMost);
  range.end = shard.integer(value[1], "the end of " + shown(tensor), range.begin + 1, kMost);
  return range;
}

ShardRecord shard_of(const Json& value, const std::string& origin) {
  Reader shard(value, "a shard", origin);
  ShardRecord record;
  record.file = shard.text("file");
  const bool plain = !record.file.empty() && record.file[0] != '.' && record.file.find('/') == std::string::npos &&
                     record.file.find('\0') == std::string::npos;
  if (!plain) shard.fail(fmt::format("a shard's file is {}, needs a name in the same folder", shown(record.file)));
  record.bytes = shard.integer("bytes", 0, kMost);
  record.checksum = shard.checksum("xxh3");
  const Json& ranges = shard.at("ranges");
  if (!ranges.is_object()) shard.fail("a shard's ranges are no object");
  for (const auto& [tensor, range] : ranges.items()) record.ranges.push_back(range_of(tensor, range, shard));
  shard.demand_no_more();
  return record;
}

TrainingState training_of(Reader& manifest, int64_t version, const std::string& origin) {
  TrainingState state;
  state.step = manifest.integer("step", 0, kMostSteps);
  state.samples = manifest.integer("samples", 0, kMost);
  state.tokens = version >= kVersionWithTokens ? manifest.integer("tokens", 0, kMost) : -1;
  Reader guards(manifest.at("guards"), "\"guards\"", origin);
  state.losses = guards.window("losses");
  state.norms = guards.window("norms");
  state.skipped_steps = guards.integer("skipped_steps", 0, state.step);
  state.skipped_in_a_row = guards.integer("skipped_in_a_row", 0, state.skipped_steps);
  guards.demand_no_more();
  return state;
}

Ordered json_of(const ShardRecord& shard) {
  Ordered ranges = Ordered::object();
  // Behind the others at once: [] would look for the key among all that are there.
  auto& entries = ranges.get_ref<Ordered::object_t&>();
  for (const StateRange& range : shard.ranges) entries.emplace_back(range.tensor(), Ordered{range.begin, range.end});
  return {{"file", shard.file}, {"bytes", shard.bytes}, {"xxh3", checksum_text(shard.checksum)}, {"ranges", ranges}};
}

}  // namespace

std::string to_text(const DataIdentity& identity) {
  return identity.shards + (identity.tokenizer.empty() ? "" : " " + identity.tokenizer);
}

DataIdentity parse_data_identity(const std::string& data) {
  const size_t space = data.find(' ');
  return {data.substr(0, space), space == std::string::npos ? "" : data.substr(space + 1)};
}

std::string to_text(const ShardRecord& shard) { return json_of(shard).dump(); }

ShardRecord parse_shard_record(const std::string& text) {
  const std::string origin = "a shard's record";
  return shard_of(parsed(text, origin), origin);
}

std::string to_text(const Manifest& m) {
  const TrainingState& t = m.training;
  const Ordered guards = {{"losses", t.losses},
                          {"norms", t.norms},
                          {"skipped_steps", t.skipped_steps},
                          {"skipped_in_a_row", t.skipped_in_a_row}};
  const bool counts_tokens = t.tokens >= 0;  // else what was read was of version 1, and stays so
  const std::vector<std::pair<const char*, Ordered>> keys = {
      {"format", kCheckpointFormat},
      {"version", counts_tokens ? kCheckpointVersion : kVersionWithTokens - 1},
      {"step", t.step},
      {"samples", t.samples},
      {"tokens", t.tokens},
      {"guards", guards},
      {"ranks", m.ranks},
      {"commit", m.commit},
      {"arithmetic", m.arithmetic},
      {"data", m.data},
      {"config", Ordered::parse(m.config)},
      {"algorithms", m.algorithms.empty() ? Ordered(nullptr) : Ordered::parse(m.algorithms)}};
  std::string text = "{\n";
  for (const auto& [key, value] : keys) {
    if (key == std::string_view("tokens") && !counts_tokens) continue;
    text += fmt::format("\"{}\": {},\n", key, value.dump(-1, ' ', false, Ordered::error_handler_t::replace));
  }
  std::vector<std::string> shards;
  for (const ShardRecord& shard : m.shards) shards.push_back(json_of(shard).dump());
  text += fmt::format("\"shards\": [\n{}\n],\n", fmt::join(shards, ",\n"));
  const std::string checksum = checksum_text(checksum_of(text.data(), text.size()));
  return text.append(kTrailerBegin).append(checksum).append(kTrailerEnd);
}

// The version first, so that a file of a later one is not called damaged for what it has more.
Manifest parse_manifest(std::string_view text, const std::string& origin) {
  checked_body(text, origin);
  const Json json = parsed(text, origin);
  Reader file(json, "the file", origin);
  const std::string format = file.text("format");
  if (format != kCheckpointFormat)
    file.fail(fmt::format("its format is {}, needs \"{}\"", shown(format), kCheckpointFormat));
  const int64_t version = file.integer("version", 1, kMost);
  if (version > kCheckpointVersion) {
    file.fail(
        fmt::format("version {} of the checkpoint format; this program reads up to {}\n       cure: a newer dither",
                    version, kCheckpointVersion));
  }
  Manifest m;
  m.training = training_of(file, version, origin);
  m.ranks = file.integer("ranks", 1, kMostRanks);
  m.commit = file.text("commit");
  m.arithmetic = file.text("arithmetic");
  m.data = file.text("data");
  const Json& config = file.at("config");
  if (!config.is_object()) file.fail("\"config\" is no object");
  m.config = config.dump();
  const Json& algorithms = file.at("algorithms");
  if (!algorithms.is_null() && !algorithms.is_object()) file.fail("\"algorithms\" is neither an object nor null");
  if (!algorithms.is_null()) m.algorithms = algorithms.dump();
  const Json& shards = file.at("shards");
  if (!shards.is_array() || shards.empty()) file.fail("\"shards\" is no list, or an empty one");
  std::set<std::string> names;
  for (const Json& shard : shards) {
    m.shards.push_back(shard_of(shard, origin));
    if (!names.insert(m.shards.back().file).second)
      file.fail("two shards have the file " + shown(m.shards.back().file));
  }
  file.at("xxh3");
  file.demand_no_more();
  return m;
}

}  // namespace dither
