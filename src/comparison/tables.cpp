#include "src/comparison/tables.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/numerics/strategy.h"  // strategy_info()
#include "src/config/study.h"           // config_hash(), differing_keys()

namespace dither {

namespace {

std::string cell(double value) { return std::isfinite(value) ? fmt::format("{}", value) : ""; }
std::string cell(int64_t value) { return std::to_string(value); }
std::string cell(uint64_t value) { return std::to_string(value); }

/// A count that is not known where it is 0.
std::string count(int64_t value) { return value > 0 ? cell(value) : ""; }

std::string cell(const std::string& text) {
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (const char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

template <class... Values>
std::string cells(const Values&... values) {
  std::string text;
  ((text += cell(values) + ","), ...);
  text.pop_back();
  return text;
}

using Field = double StepPoint::*;

/// Middle value, or the mean of the two in the middle; NaN of none.
double median(const std::vector<StepPoint>& steps, Field field) {
  std::vector<double> values;
  for (const StepPoint& step : steps) {
    if (std::isfinite(step.*field)) values.push_back(step.*field);
  }
  if (values.empty()) return NAN;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

double sum(const std::vector<StepPoint>& steps, Field field) {
  double total = 0;
  for (const StepPoint& step : steps) total += step.*field;
  return total;
}

/// Mean over the measured steps of the second half: the first steps, from random weights with a rate that rises, are
/// not what a run is like. A value that is not finite makes the mean so; leaving it out would flatter.
double late_mean(const RunRecord& record, Field field) {
  double total = 0;
  int64_t count = 0;
  for (const StepPoint& step : record.steps) {
    if (!step.measured || 2 * step.step <= record.steps_done()) continue;
    total += step.*field;
    ++count;
  }
  return count > 0 ? total / static_cast<double>(count) : NAN;
}

std::string run_row(const RunRecord& r) {
  const Config& c = r.config;
  const EvaluationPoint last = r.evaluations.empty() ? EvaluationPoint{} : r.evaluations.back();
  const int64_t skipped =
      std::count_if(r.steps.begin(), r.steps.end(), [](const StepPoint& step) { return step.skipped; });
  const std::string what =
      cells(c.name, r.folder, config_hash(c), c.seed, r.commit, std::string(name_of(state_of(r))), reason_of(r),
            std::string(strategy_info(c.precision.strategy).name), c.optimizer.learning_rate, c.optimizer.betas[0],
            c.optimizer.betas[1], count(r.parameters), r.bytes_per_parameter);
  const std::string work = cells(c.steps, r.steps_done(), r.steps.empty() ? int64_t{0} : r.steps.back().tokens,
                                 sum(r.steps, &StepPoint::step_seconds), median(r.steps, &StepPoint::step_seconds),
                                 median(r.steps, &StepPoint::tokens_per_second));
  const std::string result = cells(train_loss(r), last.loss, last.bits_per_byte, late_mean(r, &StepPoint::edq),
                                   late_mean(r, &StepPoint::edq_full), late_mean(r, &StepPoint::imprecision),
                                   late_mean(r, &StepPoint::update_to_ulp), skipped);
  const std::string data =
      cells(count(last.targets), count(last.set_targets), count(last.bytes), last.judged, last.shards, last.text,
            r.evaluations.empty() ? r.tokenizer : last.tokenizer, r.shards);
  return what + "," + work + "," + result + "," + data;
}

/// The bin of the steps [begin, end) as a row; `seconds` until its end. Loss and norm are means over its applied steps;
/// of measured steps and evaluations it shows the last one within it.
std::string curve_row(const RunRecord& r, const std::string& hash, size_t begin, size_t end, double seconds) {
  double loss = 0, norm = 0, applied = 0;
  StepPoint measured;
  for (size_t i = begin; i < end; ++i) {
    if (r.steps[i].skipped) continue;
    loss += r.steps[i].loss;
    norm += r.steps[i].gradient_norm;
    ++applied;
    if (r.steps[i].measured) measured = r.steps[i];
  }
  const auto seven = [](double value) { return std::isfinite(value) ? fmt::format("{:.7g}", value) : ""; };
  const StepPoint& last = r.steps[end - 1];
  double validation = NAN, bits_per_byte = NAN;
  for (const EvaluationPoint& evaluation : r.evaluations) {
    if (evaluation.step >= r.steps[begin].step && evaluation.step <= last.step) {
      validation = evaluation.loss;
      bits_per_byte = evaluation.bits_per_byte;
    }
  }
  return cells(r.config.name, hash, r.config.seed, r.commit, last.step, last.tokens, seven(seconds),
               seven(loss / applied), seven(validation), seven(bits_per_byte), seven(measured.edq),
               seven(measured.edq_full), seven(measured.imprecision), seven(measured.update_to_ulp),
               seven(norm / applied), seven(last.learning_rate));
}

}  // namespace

std::string runs_csv(const std::vector<RunRecord>& records) {
  std::vector<Config> configs;
  for (const RunRecord& record : records) configs.push_back(record.config);
  std::vector<DifferingKey> varied = differing_keys(configs);
  varied.erase(std::remove_if(varied.begin(), varied.end(), [](const DifferingKey& key) { return key.path == "seed"; }),
               varied.end());  // it has a column anyway

  std::string text =
      "run,folder,config_hash,seed,commit,state,reason,strategy,learning_rate,beta1,beta2,parameters,"
      "bytes_per_parameter,steps,steps_done,tokens,seconds,seconds_per_step,tokens_per_second,train_loss,"
      "validation_loss,bits_per_byte,edq,edq_full,imprecision,update_to_ulp,skipped_steps,"
      "validation_targets,validation_set_targets,validation_bytes,judged,validation_shards,text,tokenizer,"
      "training_shards";
  for (const DifferingKey& key : varied) text += "," + cell("vary:" + key.path);
  text += '\n';
  for (size_t i = 0; i < records.size(); ++i) {
    text += run_row(records[i]);
    for (const DifferingKey& key : varied) text += "," + cell(key.values[i]);
    text += '\n';
  }
  return text;
}

std::string curves_csv(const std::vector<RunRecord>& records, int64_t points) {
  std::string text =
      "run,config_hash,seed,commit,step,tokens,seconds,loss,validation_loss,bits_per_byte,edq,edq_full,imprecision,"
      "update_to_ulp,gradient_norm,learning_rate\n";
  for (const RunRecord& r : records) {
    const std::string hash = config_hash(r.config);
    const int64_t length = (r.config.steps + points - 1) / points;
    double seconds = 0;
    for (size_t begin = 0, end = 0; begin < r.steps.size(); begin = end) {
      const int64_t bin = (r.steps[begin].step - 1) / length;
      for (; end < r.steps.size() && (r.steps[end].step - 1) / length == bin; ++end)
        seconds += r.steps[end].step_seconds;
      text += curve_row(r, hash, begin, end, seconds) + '\n';
    }
  }
  return text;
}

}  // namespace dither
