// From a file with `vary` to checked runs: each run is the file's config with one choice of values over it.

#include "src/config/study.h"

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "base/error.h"
#include "src/config/computation.h"  // computation_text()
#include "src/config/document.h"     // read_value()
#include "src/config/given.h"        // files, extends, --set
#include "src/config/keys.h"         // the table
#include "src/config/resolve.h"      // resolve()
#include "src/config/run_names.h"    // run_names()

namespace dither {
namespace {

constexpr const char* kNext = "\n       ";  // continues a message under its first line

/// "key=value" that --set reads as the same value: a text keeps its quotes only where it would be taken for JSON.
std::string assignment_text(const Key& key, const nlohmann::json& value) {
  nlohmann::json ignored;
  const bool plain = value.is_string() && !read_value(value.get<std::string>(), "", "", ignored);
  return key.path + "=" + (plain ? value.get<std::string>() : value.dump());
}

std::string joined(const std::vector<std::string>& texts) {
  std::string list;
  for (const std::string& text : texts) list += (list.empty() ? "" : ", ") + text;
  return list;
}

void check_study(const Given& given) {
  if (given.products.empty()) {
    throw Error(given.origin + ": vary is missing, needs " + allowed(*find_key("vary")) + kNext +
                "a file without it is one run: use dither train");
  }
  for (const Product& product : given.products) {
    for (const VariedKey& varied : product) {
      const GivenValue* value = given.find(varied.key->path);
      if (value == nullptr || value->layer < given.assigned_layer) continue;
      throw Error(value->origin + ": " + varied.key->path + " is varied by " + given.vary_origin +
                  ": leave one of them out, the assignment or the key in vary");
    }
  }
}

/// The run that one choice makes; its config still has the study's name and directory.
StudyRun run_of(const Given& study, const Choice& choice, std::vector<std::string>& warnings) {
  StudyRun run;
  Given given = study;
  for (const auto& [key, value] : choice) {
    given.values[key->path] = {value, study.vary_origin, study.assigned_layer};
    run.assignments.push_back(assignment_text(*key, *value));
  }
  try {
    run.config = resolve(given, warnings);
  } catch (const Error& error) {
    throw Error(std::string(error.what()) + kNext + "in the run with " + joined(run.assignments));
  }
  return run;
}

/// The keys of all products, each once, in the order of the table and the seed last.
std::vector<const Key*> varied_keys(const std::vector<Product>& products) {
  std::set<const Key*> varied;
  for (const Product& product : products) {
    for (const VariedKey& one : product) varied.insert(one.key);
  }
  std::vector<const Key*> keys;
  for (const Key& key : key_table()) {
    if (varied.count(&key) != 0 && key.path != "seed") keys.push_back(&key);
  }
  if (varied.count(find_key("seed")) != 0) keys.push_back(find_key("seed"));
  return keys;
}

/// Warnings in the order of their first run; each with the runs that it concerns, by number.
class Warnings {
 public:
  void add(const std::string& warning, size_t run) {
    std::vector<size_t>& runs = runs_[warning];
    if (runs.empty()) order_.push_back(warning);
    if (runs.empty() || runs.back() != run) runs.push_back(run);
  }

  void tell(const Study& study, std::vector<std::string>& warnings) const {
    for (const std::string& warning : order_) {
      const std::vector<size_t>& runs = runs_.at(warning);
      const bool all = runs.size() == study.runs.size();
      warnings.push_back(warning + kNext + "concerns " + (all ? "all " : std::to_string(runs.size()) + " of ") +
                         std::to_string(study.runs.size()) + " runs" +
                         (all ? "" : ", first " + study.runs[runs.front()].name));
    }
  }

 private:
  std::vector<std::string> order_;
  std::map<std::string, std::vector<size_t>> runs_;
};

/// Gives each run its name and its place in the study's folder.
void name_runs(Study& study, const std::vector<const Key*>& varied) {
  std::vector<Config> configs;
  for (const StudyRun& run : study.runs) configs.push_back(run.config);
  const std::vector<std::string> names = run_names(varied, configs);
  for (size_t i = 0; i < names.size(); ++i) {
    StudyRun& run = study.runs[i];
    run.name = run.config.name = names[i];
    run.config.logging.directory = study.folder;
  }
}

}  // namespace

Study load_study(const std::string& path, const std::vector<std::string>& assignments,
                 std::vector<std::string>& warnings) {
  const Given given = gather_file(path, assignments);
  check_study(given);
  Study study;
  Warnings heard;
  std::set<std::string> computations;
  for (const Product& product : given.products) {
    for (const Choice& choice : all_choices(product)) {
      std::vector<std::string> of_run;
      StudyRun run = run_of(given, choice, of_run);
      if (!computations.insert(computation_text(run.config)).second) continue;  // products may overlap
      for (const std::string& warning : of_run) heard.add(warning, study.runs.size());
      study.runs.push_back(std::move(run));
    }
  }
  const Config& first = study.runs.front().config;
  study.name = first.name;
  study.folder = (std::filesystem::path(first.logging.directory) / first.name).string();
  name_runs(study, varied_keys(given.products));
  heard.tell(study, warnings);
  return study;
}

}  // namespace dither
