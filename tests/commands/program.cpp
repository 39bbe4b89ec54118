#include "tests/commands/program.h"

#include <sys/wait.h>
#include <unistd.h>
#include <csignal>
#include <sstream>

#include "tests/catch.h"

namespace dither::test {

namespace {

constexpr const char* kProgram = DITHER_BINARY_DIR "/dither";

std::string content(std::FILE* file) {
  std::string text;
  std::rewind(file);
  char part[4096];
  for (size_t read = 0; (read = std::fread(part, 1, sizeof part, file)) > 0;) text.append(part, read);
  return text;
}

constexpr const char* kConfig = R"({
  "steps": 2,
  "model": { "architecture": "llama", "layers": 1, "hidden": 64, "heads": 2, "kv_heads": 1, "ffn": 96,
             "vocabulary": 257, "sequence_length": 32 },
  "data": { "train": "data/train_*.bin", "validation": "data/val_*.bin" },
  "batch": { "tokens_per_step": 128, "micro_batch_size": 2 },
  "optimizer": { "learning_rate": 2e-3 },
  "logging": { "measure_every_steps": 1 }
})";

}  // namespace

Program::Program(const std::string& folder, const std::vector<std::string>& arguments)
    : out_(std::tmpfile()), err_(std::tmpfile()) {
  REQUIRE((out_ != nullptr && err_ != nullptr));
  std::vector<char*> words = {const_cast<char*>(kProgram)};
  for (const std::string& argument : arguments) words.push_back(const_cast<char*>(argument.c_str()));
  words.push_back(nullptr);
  process_ = fork();
  REQUIRE(process_ >= 0);
  if (process_ > 0) return;
  if (chdir(folder.c_str()) == 0 && dup2(fileno(out_), STDOUT_FILENO) >= 0 && dup2(fileno(err_), STDERR_FILENO) >= 0) {
    execv(kProgram, words.data());
  }
  _exit(127);
}

Program::~Program() {
  if (process_ > 0) {
    kill(process_, SIGKILL);
    waitpid(process_, nullptr, 0);
  }
  std::fclose(out_);
  std::fclose(err_);
}

void Program::send(int signal) const { REQUIRE(kill(process_, signal) == 0); }

Outcome Program::wait() {
  int status = 0;
  REQUIRE(waitpid(process_, &status, 0) == process_);
  process_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), content(out_), content(err_)};
}

std::string Workplace::output_of(const std::vector<std::string>& arguments) const {
  const Outcome outcome = run(arguments);
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  return outcome.out;
}

void Workplace::prepare_corpus() const {
  std::string text;
  for (int i = 0; i < 160; ++i)
    text += "In verse " + std::to_string(i) + " the quick brown fox jumps over a lazy dog.\n";
  write_file(*this / "text.txt", text);
  output_of({"tokenize", "--text", "text.txt", "--output", "data"});
}

void Workplace::write_config(const std::string& name, const std::string& patch) const {
  nlohmann::json config = nlohmann::json::parse(kConfig);
  config.merge_patch(nlohmann::json::parse(patch));
  write_file(*this / name, config.dump(2));
}

void Workplace::train(const std::string& name, const std::string& patch) const {
  write_config(name + ".json", patch);
  output_of({"train", name + ".json"});
}

std::vector<nlohmann::json> Workplace::events(const std::string& name) const {
  std::istringstream lines(read_whole(*this / ("runs/" + name + "/metrics.jsonl")));
  std::vector<nlohmann::json> events;
  for (std::string line; std::getline(lines, line);) events.push_back(nlohmann::json::parse(line));
  return events;
}

}  // namespace dither::test
