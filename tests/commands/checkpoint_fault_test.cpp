// Checkpoints that were damaged, and disks that do not take them: what whole runs of the program make of it.
#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <system_error>

#include "src/checkpoint/checkpoint_folder.h"
#include "tests/catch.h"
#include "tests/commands/saved_runs.h"

namespace dither::test {

namespace fs = std::filesystem;
using Json = nlohmann::json;

namespace {

void flip_bit(const std::string& path, size_t byte) {
  std::string bytes = read_whole(path);
  bytes.at(byte) = static_cast<char>(bytes[byte] ^ 4);
  write_file(path, bytes);
}

/// One kind of damage to a checkpoint: how it is done, and what is said of it behind the file's path.
struct Damage {
  std::string file;
  std::string says;
  std::function<void(const std::string& path)> inflict;
};

std::vector<Damage> damages(const SavedRuns& place) {
  const std::string rank = shard_name(0);
  return {
      {rank, ": its XXH3 is ", [](const std::string& path) { flip_bit(path, fs::file_size(path) - 1); }},
      {rank, ": it has ", [](const std::string& path) { fs::resize_file(path, fs::file_size(path) - 1); }},
      {rank, ": cannot be opened: No such file or directory", [](const std::string& path) { fs::remove(path); }},
      {kManifestName, ": its XXH3 is ", [](const std::string& path) { flip_bit(path, 300); }},
      {kManifestName, ": it is of step 2; its folder has been renamed",
       [&place](const std::string& path) {
         fs::copy_file(place.checkpoint("whole", 2) + "/" + kManifestName, path, fs::copy_options::overwrite_existing);
       }},
      {"", "blocks.0.",  // a manifest of a model whose tensors the shard has not
       [&place](const std::string& path) {
         Manifest manifest = read_manifest(place.checkpoint("whole", 4));
         Json config = Json::parse(manifest.config);
         config["model"]["ffn"] = 64;
         manifest.config = config.dump();
         write_file(path + kManifestName, to_text(manifest));
       }},
  };
}

/// Runs a command of the shell in the folder of the test, with the program as $1; its status.
Outcome shell(const SavedRuns& place, const std::string& commands) {
  write_file(place / "commands.sh", "cd '" + place.path() + "'\n" + commands);
  const std::string line = "sh '" + place / "commands.sh" + "' '" DITHER_BINARY_DIR "/dither' >'" + place / "out.txt" +
                           "' 2>'" + place / "err.txt" + "'";
  const int status = std::system(line.c_str());
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128, read_whole(place / "out.txt"), read_whole(place / "err.txt")};
}

/// What went wrong with the first checkpoint that could not be written; "": none.
std::string first_reason(const SavedRuns& place, const std::string& name) {
  for (const Json& event : place.all_events(name, "checkpoint")) {
    if (event.contains("error")) return event.at("error");
  }
  return "";
}

}  // namespace

// Catches: a damage that nobody sees, one that ends the run although there is a good checkpoint, a message without file
// or reason, a damaged checkpoint that stays where its step is reached again.
TEST_CASE("auto passes over a damaged checkpoint with file and reason, and replaces it when its step comes again") {
  const SavedRuns place;
  place.train("whole");
  const std::string newest = "runs/a/checkpoints/step-00000004";
  for (const Damage& damage : damages(place)) {
    place.copy_killed("whole", "a", 4);
    const std::string file = newest + (damage.file.empty() ? "" : "/" + damage.file);
    damage.inflict(place / (newest + "/" + damage.file));
    const std::string out = place.train("a");
    INFO(file << damage.says << "\n" << out);
    const size_t warning = out.find("warning: " + file);
    REQUIRE(warning != std::string::npos);
    const std::string line = out.substr(warning, out.find('\n', warning) - warning);
    REQUIRE(has(line, damage.says));
    REQUIRE(has(out, "; resuming from step-00000002 instead\n"));
    REQUIRE(has(read_whole(place.folder("a") + "/log.txt"), line));
    REQUIRE(place.first_step("a") == 3);
    REQUIRE(place.checkpoints("a") == Steps{2, 4, 6});
    place.verify("a");
    REQUIRE((place.state("a", 4) == place.state("whole", 4)));
    REQUIRE((place.tensors("a") == place.tensors("whole")));
  }
}

// Catches: a run that begins again over checkpoints which somebody could have mended, an error that names one of them.
TEST_CASE("where every checkpoint is damaged the run ends, names each, and touches nothing") {
  const SavedRuns place;
  place.train("whole");
  place.copy_killed("whole", "a", 6);
  fs::remove(place.shard("a", 2));
  flip_bit(place.checkpoint("a", 4) + "/" + kManifestName, 100);
  fs::resize_file(place.shard("a", 6), 1000);
  const auto before = place.content("a");
  const std::string error = place.refusal("a");
  INFO(error);
  REQUIRE(has(error, "error: runs/a: none of its 3 checkpoints is good\n"));
  REQUIRE(
      has(error, "\n       runs/a/checkpoints/step-00000002/rank-00000.safetensors: cannot be opened: No such file"));
  REQUIRE(has(error, "\n       runs/a/checkpoints/step-00000004/manifest.json: its XXH3 is"));
  REQUIRE(has(error, "\n       runs/a/checkpoints/step-00000006/rank-00000.safetensors: it has 1000 bytes, manifest"));
  REQUIRE(has(error, "\n       cures: restore one, --set name=... for another run, --overwrite\n"));
  REQUIRE((place.content("a") == before));

  const std::string named = place.refusal("a", {"checkpoint.resume=runs/a/checkpoints/step-00000006"});
  REQUIRE(has(named, "error: runs/a/checkpoints/step-00000006/rank-00000.safetensors: it has 1000 bytes"));
}

// Catches: a retention that counts a damaged checkpoint of a later step as the newest, so that the good ones go.
TEST_CASE("old checkpoints go by number and by multiples, and a damaged later one costs none of the good ones") {
  const SavedRuns place;
  place.train("whole", {"checkpoint.keep_last=1", "checkpoint.keep_every=4"});
  REQUIRE(place.checkpoints("whole") == Steps{4, 6});
  place.train("two", {"checkpoint.keep_last=2"});
  REQUIRE(place.checkpoints("two") == Steps{4, 6});

  place.copy_killed("whole", "a", 4);
  fs::copy(place.checkpoint("a", 4), place.checkpoint("a", 100));  // of another step than its name says
  const std::string out = place.train("a", {"checkpoint.keep_last=1"});
  REQUIRE(has(out, "resuming from step-00000004 instead"));
  REQUIRE(place.checkpoints("a") == Steps{6, 100});
  place.output_of({"checkpoint", "verify", "runs/a/checkpoints/step-00000006"});
}

// Catches: a run that ends because a checkpoint does not fit, one that says nothing, an old checkpoint that goes
// without a new one, a failure after which no attempt is made.
TEST_CASE("a limit of file sizes that checkpoints meet and weights do not costs the checkpoints alone") {
  const SavedRuns place;
  place.train("whole");
  place.copy_killed("whole", "a", 2);
  const rlim_t weights = fs::file_size(place.folder("whole") + "/weights.safetensors");
  const rlim_t shard = fs::file_size(place.shard("whole", 6));
  REQUIRE(weights < shard / 2);
  rlimit before{};
  REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
  const rlimit limit{shard / 2, before.rlim_max};
  REQUIRE(setrlimit(RLIMIT_FSIZE, &limit) == 0);
  Program program(place.path(), SavedRuns::words("a", {"checkpoint.keep_last=1"}));  // inherits it
  REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
  const Outcome outcome = program.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 2);
  REQUIRE(
      has(outcome.err, "error: the state after step 6 is not saved, only its weights are, in runs/a/weights.safet"));
  REQUIRE((place.tensors("a") == place.tensors("whole")));
  REQUIRE(place.checkpoints("a") == Steps{2});
  place.verify("a");
  const std::string reason = "step-00000004.partial/rank-00000.safetensors: cannot be written: File too large";
  REQUIRE(
      has(read_whole(place.folder("a") + "/log.txt"), "warning: checkpoint of step 4: runs/a/checkpoints/" + reason));
  const Steps failed = place.failed("a");
  REQUIRE((failed.size() >= 2 && failed[0] == 4 && failed[1] == 6));
  REQUIRE(has(first_reason(place, "a"), reason));

  place.train("a", {"checkpoint.keep_last=1"});  // the cause is gone
  REQUIRE(place.first_step("a") == 3);
  REQUIRE(place.checkpoints("a") == Steps{6});
  place.verify("a");
  REQUIRE((place.tensors("a") == place.tensors("whole")));
}

// Catches: a writer that trusts its folder to be there, one that gives up after the first failure, an event that calls
// written what is gone.
TEST_CASE("a folder of checkpoints that is replaced by a file or removed costs what is written meanwhile") {
  const SavedRuns place(R"({"steps": 4000000000, "checkpoint": {"every_steps": 10, "keep_last": 3},
                            "evaluation": {"every_steps": 0}, "logging": {"measure_every_steps": 0}})");
  const std::string folder = place.folder("a") + "/checkpoints", aside = place / "aside";
  Program program(place.path(), SavedRuns::words("a"));
  const auto await_more = [&place](Steps (SavedRuns::*steps)(const std::string&) const) {
    const size_t before = (place.*steps)("a").size();
    await([&] { return (place.*steps)("a").size() > before; });
  };
  const auto remove = [](const std::string& path) {
    std::error_code ignored;  // the run writes there: files come and go
    fs::remove_all(path, ignored);
  };
  await([&] { return place.written("a").size() >= 2; });

  fs::rename(folder, aside);
  while (!std::ofstream(folder)) remove(folder);  // the run may have made it anew
  await_more(&SavedRuns::failed);
  await_more(&SavedRuns::failed);
  std::error_code failed;
  do {
    remove(folder);
    fs::rename(aside, folder, failed);
  } while (failed);
  await_more(&SavedRuns::written);
  remove(folder);
  await_more(&SavedRuns::written);
  await_more(&SavedRuns::written);
  program.send(SIGTERM);
  const Outcome outcome = program.wait();
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  REQUIRE(has(read_whole(place.folder("a") + "/log.txt"), "older checkpoints stay, training goes on"));
  REQUIRE(has(first_reason(place, "a"), "runs/a/checkpoints"));
  const Steps kept = place.checkpoints("a");
  REQUIRE((!kept.empty() && kept.back() == place.last_event("a", "end").at("step")));
  place.verify("a");
}

// Catches: space that is counted wrongly or not at all, a full disk that ends the run, an older checkpoint that goes to
// make room. The file system is there for the commands alone.
TEST_CASE("a full disk costs checkpoints, and the next one is written when there is room again") {
  const SavedRuns place;
  place.train("whole");
  const char* may_mount = "mkdir -p small && mount -t tmpfs -o size=16m none small";
  std::string unshare = "unshare -m";
  if (shell(place, unshare + " sh -c '" + may_mount + "'").status != 0) unshare = "unshare -rm";
  if (shell(place, unshare + " sh -c '" + may_mount + "'").status != 0) {
    std::fprintf(stderr, "no small file system here: the limit of file sizes stands for it\n");
    return;
  }
  // A checkpoint needs 0.4 MiB and one to spare; 1.2 MiB are left in the first run, and enough in the second.
  write_file(place / "inside.sh", std::string(may_mount) + R"( || exit 9
train="$1 train c.json --set name=a --set logging.directory=small --set checkpoint.retry_seconds=0"
mkdir small/a && cp -r runs/a/. small/a
free=$(df --output=avail -k small | tail -n 1)
dd if=/dev/zero of=small/filler bs=1k count=$((free - 1200)) status=none || exit 8
$train
[ $? = 2 ] || exit 7
"$1" checkpoint verify small/a || exit 6
echo "kept:" $(ls small/a/checkpoints)
rm small/filler
rm small/a/weights.safetensors
$train || exit 5
"$1" checkpoint verify small/a || exit 4
cp -r small/a runs/after
)");
  place.copy_killed("whole", "a", 4);
  const Outcome outcome = shell(place, unshare + " sh inside.sh \"$1\"");
  INFO(outcome.out << outcome.err);
  REQUIRE(outcome.status == 0);
  const Steps failed = place.failed("after");
  REQUIRE((!failed.empty() && failed.front() == 6));
  REQUIRE(has(first_reason(place, "after"), "MiB are free, a checkpoint needs 1.4 MiB"));
  REQUIRE(has(outcome.out, "kept: step-00000002 step-00000004\n"));
  REQUIRE(place.checkpoints("after") == Steps{2, 4, 6});
  REQUIRE((place.tensors("after") == place.tensors("whole")));
}

}  // namespace dither::test
