#include "tests/ranks/reference.h"

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "base/error.h"
#include "src/checkpoint/load.h"
#include "src/training/checkpoints.h"

namespace dither {

namespace {

LoggedStep logged(const StepRecord& r) {
  return {r.loss,
          r.gradient_norm,
          r.clip_factor,
          r.measures.model.edq,
          r.measures.model.edq_full,
          r.measures.model.imprecision,
          r.measures.model.update_to_ulp};
}

std::string key_of(const char* state, uint32_t tensor) { return fmt::format("{} {}", state, tensor); }

std::vector<char> to_host(Engine& engine, ConstView view, int64_t elements) {
  std::vector<char> bytes(static_cast<size_t>(elements * size_of(view.type)));
  engine.backend().copy_to_host(bytes.data(), view.data, static_cast<int64_t>(bytes.size()), engine.stream());
  engine.backend().synchronize(engine.stream());
  return bytes;
}

/// A run with everything that tests ask of it afterwards.
struct ShortRun {
  /// alone: this rank computes by itself, whatever the others do. `from`: a checkpoint to go on from, "" : none.
  ShortRun(const Config& config, int64_t steps, bool alone, const std::string& from = "")
      : shards(config.data.train), engine(config, make_backend(config), world(config, alone)), trainer(engine, shards) {
    engine.on_phase([](const std::string& name) { job().control().phase(name); });
    from.empty() ? engine.initialise() : resume(config, from);
    while (trainer.steps_done() < steps) records.push_back(logged(trainer.step().record));
  }
  void resume(const Config& config, const std::string& from) {
    const Manifest manifest = read_manifest(from);
    verify_shards(from, manifest, ReadFrom::cache);
    std::vector<std::string> warnings;
    const Config saved = parse_config(manifest.config, from, {}, warnings);
    load_state(from, manifest, saved, config, engine.table(), engine.optimizer(), engine.backend(), engine.stream());
    engine.publish_weights();
    trainer.restore(manifest.training, saved);
  }
  void evaluate(const Config& config) {
    Evaluator evaluator(config, nullptr);
    validation_loss = evaluator.run(engine).loss;
  }
  static Engine::MakeWorld world(const Config& config, bool alone) {
    if (alone) return {};
    return [&config](Backend& backend) { return job().communicator(config.parallel, backend, uses_cuda(config)); };
  }

  TokenShards shards;
  Engine engine;
  Trainer trainer;
  std::vector<LoggedStep> records;
  double validation_loss = 0;
};

// Plain bytes: texts with their lengths before them.
void put_text(std::string& out, const void* data, size_t bytes) {
  const auto size = static_cast<uint64_t>(bytes);
  out.append(reinterpret_cast<const char*>(&size), sizeof(size)).append(static_cast<const char*>(data), bytes);
}

std::string take_text(const std::string& in, size_t& at) {
  uint64_t size = 0;
  std::memcpy(&size, in.data() + at, sizeof(size));
  at += sizeof(size) + size;
  return in.substr(at - size, size);
}

std::string packed(const Reference& r) {
  std::string text;
  put_text(text, r.steps.data(), r.steps.size() * sizeof(LoggedStep));
  put_text(text, &r.validation_loss, sizeof(double));
  for (const auto& [key, bytes] : r.tensors) {
    put_text(text, key.data(), key.size());
    put_text(text, bytes.data(), bytes.size());
  }
  return text;
}

Reference unpacked(const std::string& text) {
  Reference r;
  size_t at = 0;
  const std::string steps = take_text(text, at), loss = take_text(text, at);
  r.steps.resize(steps.size() / sizeof(LoggedStep));
  std::memcpy(r.steps.data(), steps.data(), steps.size());
  std::memcpy(&r.validation_loss, loss.data(), sizeof(double));
  while (at < text.size()) {
    const std::string key = take_text(text, at), bytes = take_text(text, at);
    r.tensors[key].assign(bytes.begin(), bytes.end());
  }
  return r;
}

/// The bytes of a parameter's state as a part holds them, at their place in the whole tensor.
void collect(Engine& engine, Reference& reference) {
  for (const StateArray& array : engine.optimizer().state()) {
    for (const Segment& s : array.part->segments) {
      const Parameter& p = engine.table().by_id(s.tensor);
      const auto size = static_cast<size_t>(size_of(array.view.type));
      std::vector<char>& whole = reference.tensors[key_of(array.name, s.tensor)];
      whole.resize(static_cast<size_t>(p.elements()) * size);
      const std::vector<char> bytes = to_host(engine, array.view.at(s.offset), s.count);
      std::memcpy(whole.data() + static_cast<size_t>(s.first) * size, bytes.data(), bytes.size());
    }
  }
}

/// Every element of every state that this rank owns; adds up how many there are.
std::string unlike_state(Engine& engine, const Reference& reference, int64_t& elements) {
  for (const StateArray& array : engine.optimizer().state()) {
    for (const Segment& s : array.part->segments) {
      const auto size = static_cast<size_t>(size_of(array.view.type));
      const std::vector<char>& whole = reference.tensors.at(key_of(array.name, s.tensor));
      const std::vector<char> bytes = to_host(engine, array.view.at(s.offset), s.count);
      elements += s.count;
      if (std::memcmp(whole.data() + static_cast<size_t>(s.first) * size, bytes.data(), bytes.size()) == 0) continue;
      return fmt::format("{} of {} from element {} on differs", array.name, engine.table().by_id(s.tensor).name,
                         s.first);
    }
  }
  return "";
}

/// The weights that forward passes see, by tensor.
std::map<std::string, std::vector<char>> seen_weights(Engine& engine) {
  std::map<std::string, std::vector<char>> weights;
  for (int b = 0; b < static_cast<int>(engine.table().buckets().size()); ++b) {
    const BucketViews& views = engine.parameters().before_forward(b);
    for (const Parameter& p : engine.table().parameters()) {
      if (p.bucket == b) weights[key_of("weight", p.id)] = to_host(engine, views.weight(p.role), p.elements());
    }
    engine.parameters().release(b);
  }
  return weights;
}

/// The steps of a run that began with one of them, up to the last.
std::string unlike_steps(const std::vector<LoggedStep>& steps, const Reference& reference) {
  const size_t before = reference.steps.size() - steps.size();
  for (size_t i = 0; i < steps.size(); ++i) {
    const LoggedStep& alone = reference.steps[before + i];
    if (std::memcmp(&steps[i], &alone, sizeof(LoggedStep)) == 0) continue;
    return fmt::format("step {}: loss {:.17g} norm {:.17g} EDQ {:.17g}, alone {:.17g} {:.17g} {:.17g}", before + i + 1,
                       steps[i].loss, steps[i].gradient_norm, steps[i].edq, alone.loss, alone.gradient_norm, alone.edq);
  }
  return "";
}

std::string unlike_plan(const Config& config, Engine& engine) {
  const Partition& p = engine.partition();
  const int64_t planned = Engine::plan(config, p.rank, p.ranks).total(), taken = engine.backend().allocated_bytes();
  return planned == taken ? "" : fmt::format("memory {} bytes, planned {}", taken, planned);
}

/// Numbers of all ranks, added up.
int64_t sum_of(int64_t mine) {
  int64_t sum = 0;
  for (const std::string& text : job().control().all_gather(std::to_string(mine))) sum += std::stoll(text);
  return sum;
}

}  // namespace

const std::string& corpus() {
  static const std::string path = [] {
    static TemporaryFolder folder;
    const bool writes = job().speaks();
    const std::string mine = writes ? write_shard(folder.path() + "/train.bin", 4000, 61) : "";
    return job().control().broadcast(mine);
  }();
  return path;
}

Reference reference_of(const Config& config, int64_t steps) {
  Reference reference;
  if (job().speaks()) {
    ShortRun run(config, steps, true);
    run.evaluate(config);
    reference.steps = run.records;
    reference.validation_loss = run.validation_loss;
    collect(run.engine, reference);
  }
  return unpacked(job().control().broadcast(packed(reference)));
}

std::string unlike(const Config& config, const Reference& reference, int64_t steps, const std::string& from) {
  ShortRun run(config, steps, false, from);
  run.evaluate(config);
  const Partition& p = run.engine.partition();
  int64_t elements = 0;
  std::string wrong = unlike_steps(run.records, reference);
  if (wrong.empty()) wrong = unlike_state(run.engine, reference, elements);
  for (const auto& [key, bytes] : seen_weights(run.engine)) {
    if (wrong.empty() && bytes != reference.tensors.at(key)) wrong = key + " as forward passes see it differs";
  }
  if (wrong.empty() && run.validation_loss != reference.validation_loss) wrong = "the validation loss differs";
  if (wrong.empty()) wrong = unlike_plan(config, run.engine);
  wrong = complaints(wrong);
  if (!wrong.empty()) return wrong;

  int64_t stored = 0;
  for (const auto& [key, bytes] : reference.tensors) {
    const uint32_t id = static_cast<uint32_t>(std::stoul(key.substr(key.find(' ') + 1)));
    stored += run.engine.table().by_id(id).elements();
  }
  if (sum_of(elements) != stored * p.copies()) wrong += "the ranks' shards do not make up the state\n";
  const int64_t trained = static_cast<int64_t>(run.records.size()) * run.engine.samples_per_step();
  if (sum_of(run.trainer.samples_computed()) != trained) {
    wrong += "samples were computed twice, or not at all\n";
  }
  return wrong;
}

std::string checkpoint_of(const Config& config, int64_t steps, const std::string& folder) {
  ShortRun run(config, steps, false);
  Checkpoints checkpoints(run.engine, job().control(), disk(), folder, "");
  checkpoints.finish(run.trainer.state(), true);
  std::string wrong = complaints("");
  for (const CheckpointEvent& event : checkpoints.take_events()) wrong += event.error;
  if (!wrong.empty()) throw Error(wrong);
  return folder + "/" + checkpoint_name(steps);
}

std::string apart(const Config& config, const Reference& reference, int64_t steps, double bound) {
  ShortRun run(config, steps, false);
  std::string weights, wrong = unlike_plan(config, run.engine);
  for (const auto& [key, bytes] : seen_weights(run.engine)) weights.append(bytes.begin(), bytes.end());
  for (size_t i = 0; i < run.records.size() && wrong.empty(); ++i) {
    const LoggedStep &a = run.records[i], &b = reference.steps[i];
    const double loss = std::abs(a.loss / b.loss - 1), norm = std::abs(a.gradient_norm / b.gradient_norm - 1);
    if (!(loss <= bound && norm <= 5 * bound)) {
      wrong = fmt::format("step {}: loss is off by {:.2g}, norm by {:.2g}; bound {:.2g}", i + 1, loss, norm, bound);
    }
  }
  weights.append(reinterpret_cast<const char*>(run.records.data()), run.records.size() * sizeof(LoggedStep));
  if (weights != job().control().broadcast(weights) && wrong.empty()) {
    wrong = "other weights, losses or norms than rank 0";
  }
  return complaints(wrong);
}

}  // namespace dither
