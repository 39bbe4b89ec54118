// What the tests of the command line share: the built program run in a fresh folder, with a small corpus and config.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/data/files.h"  // TemporaryFolder, write_file(), read_whole(), shard_bytes(), has()

namespace dither::test {

/// What a run of the program left: 0..255 its exit status, 128 + n: ended by signal n.
struct Outcome {
  int status = -1;
  std::string out, err;
};

/// A run of `dither` that has begun; the destructor kills it if nobody waited for its end.
class Program {
 public:
  Program(const std::string& folder, const std::vector<std::string>& arguments);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  void send(int signal) const;
  Outcome wait();

 private:
  pid_t process_ = -1;
  std::FILE *out_, *err_;
};

/// A fresh folder to run the program in, gone at the end of the test.
class Workplace {
 public:
  Outcome run(const std::vector<std::string>& arguments) const { return Program(path(), arguments).wait(); }
  /// The same, for a run that must succeed.
  std::string output_of(const std::vector<std::string>& arguments) const;

  /// data/: about 8,000 tokens of plain sentences for training, some 400 for validation, and tokenizer.bin.
  void prepare_corpus() const;
  /// Writes `name`: a Llama of one layer, two steps on data/, with a JSON merge patch over it.
  void write_config(const std::string& name, const std::string& patch = "{}") const;
  /// Runs `dither train` with the config of that patch, whose "name" becomes the run's.
  void train(const std::string& name, const std::string& patch = "{}") const;

  /// The events of a run's metrics.jsonl.
  std::vector<nlohmann::json> events(const std::string& name) const;
  std::string weights(const std::string& name) const {
    return read_whole(*this / ("runs/" + name + "/weights.safetensors"));
  }

  std::string operator/(const std::string& name) const { return folder_ / name; }
  std::string path() const { return folder_.path(); }

 private:
  TemporaryFolder folder_;
};

}  // namespace dither::test
