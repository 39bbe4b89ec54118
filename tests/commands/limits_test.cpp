// What the system, a shell's limits or a hostile path put in the way: each time an error that says what, or none at
// all.
#include <fmt/format.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <cstdio>
#include <string>

#include "src/commands/commands.h"
#include "src/config/config.h"
#include "tests/catch.h"
#include "tests/commands/program.h"

namespace dither::test {

namespace {

using Json = nlohmann::json;

/// `script` in `place`, in which `dither` is the program.
Outcome shell(const Workplace& place, const std::string& script) {
  const std::string line =
      fmt::format("cd '{}' && export PATH='{}':\"$PATH\" && exec 2>&1 && {}", place.path(), DITHER_BINARY_DIR, script);
  std::FILE* pipe = popen(line.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Outcome outcome;
  char part[4096];
  for (size_t read = 0; (read = std::fread(part, 1, sizeof part, pipe)) > 0;) outcome.out.append(part, read);
  const int status = pclose(pipe);
  outcome.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

void require_error(const Outcome& outcome, const std::string& says) {
  INFO(outcome.out << outcome.err << "\nmissing: " << says);
  REQUIRE(outcome.status == 2);
  REQUIRE(has(outcome.out + outcome.err, "error: "));
  REQUIRE(has(outcome.out + outcome.err, says));
}

Json part_of(const Config& config, const char* section) { return Json::parse(to_json(config)).at(section); }

}  // namespace

// Catches: OpenMP's own words and status 1 where a thread is not to be had, a stack that overflows, "CPU memory: 0 MiB
// wanted, 9000 MiB available".
TEST_CASE("too few threads, stacks and address space are errors with the cure") {
  const Workplace place;
  place.prepare_corpus();
  place.write_config("a.json", R"({"device": "cpu"})");
  const std::string train = "dither train a.json --overwrite --set parallel.threads=";
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which take terabytes of addresses
  require_error(shell(place, "ulimit -v 1000000 && " + train + "512"), "512 threads are wanted and the system gives ");
  require_error(shell(place, "ulimit -v 1000000 && " + train + "512"), "ulimit -v is 1000000 KiB");
#endif
  require_error(shell(place, "OMP_STACKSIZE=64k " + train + "2"), "OMP_STACKSIZE gives threads stacks of 64 KiB");
  require_error(shell(place, "ulimit -s 128 && dither plan a.json"), "ulimit -s 1024");
  const Outcome soft = shell(place, "ulimit -S -s 128 && " + train + "2");
  INFO(soft.out);
  REQUIRE(soft.status == 0);
}

// Catches: OMP_NUM_THREADS or the affinity ignored.
TEST_CASE("OMP_NUM_THREADS and the affinity bound the threads") {
  const Workplace place;
  place.write_config("a.json");
  for (const char* bound :
       {"OMP_NUM_THREADS=1", "OMP_THREAD_LIMIT=1", "taskset -c $(taskset -cp $$ | sed 's/.*: //; s/[-,].*//')"}) {
    const Outcome outcome = shell(place, std::string(bound) + " dither plan a.json --device cpu --json");
    INFO(outcome.out);
    REQUIRE(Json::parse(outcome.out).at("inputs").at("cores") == 1);
  }
}

// Catches: a command that waits for the writer of a FIFO, or reads a device to the end of memory.
TEST_CASE("FIFOs and devices are refused wherever a path is given") {
  const Workplace place;
  place.prepare_corpus();
  REQUIRE(mkfifo((place / "fifo").c_str(), 0600) == 0);
  require_error(place.run({"train", "fifo"}), "fifo is a FIFO or pipe, needs a JSON file");
  require_error(place.run({"plan", "/dev/zero"}), "/dev/zero is a device, needs a JSON file");
  place.write_config("a.json", R"({"extends": "fifo"})");
  require_error(place.run({"plan", "a.json"}), "extends fifo, which is a FIFO or pipe");
  place.write_config("t.json", R"({"algorithms": "fifo", "device": "cpu"})");
  require_error(place.run({"train", "t.json"}), "fifo is a FIFO or pipe");
  place.train("b");
  require_error(place.run({"sample", "runs/b", "--tokenizer", "fifo"}), "is a FIFO or pipe, needs a tokenizer.bin");
  require_error(shell(place, "rm runs/b/metrics.jsonl && mkfifo runs/b/metrics.jsonl && dither report runs/b"),
                "metrics.jsonl is a FIFO or pipe");
}

// Catches: gigabytes taken for a model before its file of some KiB is looked at.
TEST_CASE("weights that are not the config's are refused before memory is taken") {
  const Workplace place;
  place.prepare_corpus();
  place.train("a");
  for (const char* command : {"evaluate", "sample"}) {
    const Outcome outcome =
        place.run({command, "runs/a", "--set", "model.hidden=65536", "--set", "model.heads=512", "--set",
                   "model.kv_heads=512", "--set", "model.head_size=128", "--set", "model.ffn=262144"});
    require_error(outcome, "has shape ");
    REQUIRE(!has(outcome.err, "does not fit"));
  }
}

// Catches: nan, infinity and 0 taken for a number, a range printed with 309 digits.
TEST_CASE("options that are numbers take finite ones above 0") {
  const Workplace place;
  place.write_config("a.json");
  place.write_config("s.json", R"({"vary": {"seed": [1, 2]}})");
  for (const std::string bad : {"nan", "inf", "-1", "0", "1e400", "1x", "-nan"}) {
    for (const auto& arguments : {std::vector<std::string>{"plan", "a.json", "--tokens-per-second=" + bad},
                                  std::vector<std::string>{"compare", "s.json", "--memory=" + bad}}) {
      const Outcome outcome = place.run(arguments);
      require_error(outcome, bad + " is no number above 0");
      REQUIRE(outcome.err.size() < 300);
    }
  }
  REQUIRE(place.run({"plan", "a.json", "--tokens-per-second", "1e3"}).status == 0);
}

// Catches: ranks that do nothing in any step, in silence; a warning where only the last round is uneven.
TEST_CASE("ranks without work are warned of") {
  const Workplace place;
  place.write_config("a.json");  // two micro-batches a step
  const Outcome idle = place.run({"plan", "a.json", "--ranks", "5"});
  REQUIRE(idle.status == 0);
  REQUIRE(has(idle.err, "warning: ranks without work: 3 of 5: a step of 128 tokens is 2 micro-batches of 2 x 32"));
  REQUIRE(place.run({"plan", "a.json", "--ranks", "2"}).err.empty());
  REQUIRE(place.run({"plan", "a.json", "--ranks", "3", "--set", "batch.tokens_per_step=256"}).err.empty());
}

// Catches: an escape sequence in a file's name or a value that reaches the terminal, in errors and in warnings.
TEST_CASE("control characters in names are shown") {
  const Workplace place;
  for (const Outcome& outcome : {place.run({"train", "a\x1b[31m\rb.json"}), place.run({"train\x1b[31m"}),
                                 place.run({"plan", "a.json", "--input", "x\x1b[31m=1"})}) {
    REQUIRE(outcome.status == 2);
    REQUIRE(!has(outcome.err, "\x1b"));
    REQUIRE(!has(outcome.err, "\r"));
  }
  REQUIRE(has(place.run({"train", "a\x1b[31m\rb.json"}).err, "a\\x1b[31m\\x0db.json"));
  place.write_config("a.json");
  require_error(place.run({"train", "a.json", "--set", "name=a\x1b[31m"}), "control characters");
  require_error(place.run({"train", "a.json", "--set",
                           "name=a\xc2\x9b"
                           "31m"}),
                "control characters");
}

// Catches: a path in the repository that is looked for in the working directory; a default that is not the file's.
TEST_CASE("bench finds its default config from anywhere, and it is that of configs/gpt2-124m.json") {
  const Workplace place;
  const Outcome outcome = place.run({"bench", "--operation", "nothing"});
  require_error(outcome, "\"nothing\" is not an operation");
  std::vector<std::string> warnings;
  const Config file = load_config(DITHER_SOURCE_DIR "/configs/gpt2-124m.json", {}, warnings);
  const Config own = parse_config(default_bench_config(), "default", {}, warnings);
  for (const char* section : {"model", "batch", "precision", "optimizer"}) {
    REQUIRE(part_of(own, section) == part_of(file, section));
  }
}

}  // namespace dither::test
