// A study: one config file whose key `vary` gives lists of values for other keys, and the runs that follow from it.
//
//   { "extends": "../quickstart.json", "vary": { "precision.strategy": ["bf16", "bf16_sr"], "seed": [1, 2] } }
//
// makes four runs, the product of the lists. `vary` may also be a list of such objects: the runs of all their products,
// each computation once. Also here: when two configs compute the same, which is what makes runs comparable.
#pragma once

#include <string>
#include <vector>

#include "src/config/config.h"  // Config

namespace dither {

struct StudyRun {
  std::string name;                      // legal as a folder's name, unique in the study: "bf16_sr,lr=0.002,seed=1"
  std::vector<std::string> assignments;  // what `vary` gave this run, as for --set: "precision.strategy=bf16_sr"
  Config config;                         // complete; its name is the run's, its logging.directory the study's folder
};

struct Study {
  std::string name;
  std::string folder;  // <logging.directory>/<name>: each run's folder lies in it
  std::vector<StudyRun> runs;
};

/// Reads a file with `vary` (its own, or that of the nearest file that it extends) and checks every run as
/// load_config() does. `assignments` hold for all runs; one of a varied key is an error.
///
/// Order: products as the file lists them; within one, keys in the order of the table, seed last; the last varies
/// fastest. Names: the values of those varied keys that differ within the study, in the same order. Both follow from
/// the file. `warnings` receives each warning of the runs once, with how many runs it concerns. Throws Error as
/// load_config() does, with the run's values; also where `vary` is missing or asks for too many runs.
Study load_study(const std::string& path, const std::vector<std::string>& assignments,
                 std::vector<std::string>& warnings);

/// 16 hexadecimal digits of the keys that decide what is computed, apart from the seed: runs of one arm share them.
/// Left out: name, device, algorithms, where and by what ranks compute, and all of checkpoint, logging and sampling.
std::string config_hash(const Config& config);

struct DifferingKey {
  std::string path;
  std::vector<std::string> values;  // one a config, as JSON; texts without quotes
};

/// The keys in which the configs differ, in the order of the table: those of config_hash(), and the seed.
std::vector<DifferingKey> differing_keys(const std::vector<Config>& configs);

/// "" if both compute the same, the seed included; else "optimizer.learning_rate 0.002 here, 0.001 there".
std::string first_difference(const Config& a, const Config& b);

}  // namespace dither
