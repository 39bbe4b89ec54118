// Training on from a run that is complete, or with sequences of another length: what jumps, what is counted on, and
// what the same command does when it is started again.
#include <cmath>
#include <filesystem>

#include "src/checkpoint/checkpoint_folder.h"
#include "tests/catch.h"
#include "tests/commands/saved_runs.h"

namespace dither::test {

namespace fs = std::filesystem;

namespace {

const std::string kLast = "runs/whole/checkpoints/step-00000006";

/// The learning rate of a run's step.
double rate(const SavedRuns& place, const std::string& name, int64_t step) {
  for (const auto& event : place.all_events(name, "step")) {
    if (event.at("step") == step) return event.at("learning_rate");
  }
  FAIL("no step " << step);
  return 0;
}

/// The words after `key` in a text, up to a blank, comma or semicolon.
std::string value_after(const std::string& text, const std::string& key) {
  const size_t begin = text.find(key);
  REQUIRE(begin != std::string::npos);
  return text.substr(begin, text.find_first_of(" ,;\n", begin) - begin);
}

}  // namespace

// Catches: a stretched cosine whose rate jumps without a word, a warning that names no rate, advice that jumps itself,
// a warning where a schedule goes on or begins anew on purpose.
TEST_CASE("an extension that multiplies the learning rate is warned of, and the advice of a complete run does not") {
  const SavedRuns place;
  place.train("whole");
  const std::string advice = place.train("whole");
  INFO(advice);
  REQUIRE(has(advice, "to train on: a larger steps, checkpoint.resume=" + kLast));

  const std::string jump = place.train("jump", {"steps=12", "checkpoint.resume=" + kLast});
  INFO(jump);
  REQUIRE(has(jump,
              "warning: THE LEARNING RATE JUMPS by a factor of 4.3: 2.000e-04 at step 6, 8.671e-04 at step 7 "
              "(steps 6 there, 12 here)"));
  REQUIRE(has(jump, "optimizer.schedule.start_step=6 and optimizer.schedule.warmup_steps=10"));

  const std::string out = place.train("advised", {"steps=30", value_after(advice, "checkpoint.resume="),
                                                  value_after(advice, "optimizer.schedule.start_step="),
                                                  value_after(advice, "optimizer.schedule.warmup_steps=")});
  REQUIRE(!has(out, "JUMPS"));
  REQUIRE(rate(place, "advised", 7) == Approx(2e-4));
  REQUIRE(rate(place, "advised", 16) == Approx(2e-3));
  REQUIRE(rate(place, "advised", 30) == Approx(2e-4));

  place.copy_killed("advised", "again", 12);  // an interruption is no change of schedule
  REQUIRE(
      !has(place.train("again", {"steps=30", "optimizer.schedule.start_step=6", "optimizer.schedule.warmup_steps=10"}),
           "JUMPS"));
  REQUIRE((place.tensors("again") == place.tensors("advised")));
  const std::string early = place.refusal("early", {"steps=30", "optimizer.schedule.start_step=6"});
  REQUIRE(has(early, "optimizer.schedule.start_step is 6, but this run begins at step 1"));
}

// Catches: advice that names a checkpoint within the decay, or one that is gone.
TEST_CASE("a wsd run is extended from before its decay without a jump") {
  const SavedRuns place(R"({"steps": 10, "optimizer": {"schedule": {"kind": "wsd", "decay_fraction": 0.4}}})");
  place.train("whole");
  const std::string advice = place.train("whole");
  INFO(advice);
  const std::string before = "checkpoint.resume=runs/whole/checkpoints/step-00000006";
  REQUIRE(has(advice, "from before the decay: a larger steps, another name and " + before));
  REQUIRE(!has(place.train("branch", {"steps=12", before}), "JUMPS"));
  const std::string late = place.train("late", {"steps=30", "checkpoint.resume=runs/whole/checkpoints/step-00000010"});
  REQUIRE(has(late, "JUMPS by a factor of 10: 2.000e-04 at step 10, 2.000e-03 at step 11"));
  REQUIRE(has(late, "or a checkpoint of step 6 or earlier, before the decay"));
}

// Catches: a chain of jobs that ends in an error at its second link, or begins again and loses what the first has done;
// a command that goes on from what another one has written.
TEST_CASE("a command that extends its own run goes on from what it has written since") {
  const SavedRuns place;
  place.train("whole");
  const Settings extension = {"steps=10", "checkpoint.resume=" + kLast};
  place.train("whole", extension);
  const std::string tensors = place.tensors("whole"), state = place.state("whole", 10);

  place.copy_killed("whole", "copy", 8);
  fs::remove_all(place.folder("whole"));
  fs::rename(place.folder("copy"), place.folder("whole"));
  const std::string out = place.train("whole", extension);
  INFO(out);
  REQUIRE(has(out, "resuming from runs/whole/checkpoints/step-00000008"));
  REQUIRE((place.tensors("whole") == tensors));
  REQUIRE((place.state("whole", 10) == state));
  REQUIRE(has(place.train("whole", extension), "is complete, all 10 steps are done"));

  for (const Settings& other : {Settings{"steps=12", extension[1]}, Settings{"steps=10", "seed=5", extension[1]},
                                Settings{"steps=10", "checkpoint.resume=runs/whole/checkpoints/step-00000004"}}) {
    const std::string error = place.refusal("whole", other);
    INFO(error);
    REQUIRE(has(error,
                " is not this run's newest, which is runs/whole/checkpoints/step-00000010, and that was not "
                "written by this command"));
  }
}

// Catches: tokens that are today's sequence length times all samples, a place in the data that leaps to another share
// of the epoch, checkpoints of version 1 that are refused or counted otherwise.
TEST_CASE("tokens and the place in the data are carried over a change of the sequence length") {
  const SavedRuns place;
  place.train("whole");
  const Settings shorter = {"steps=8", "checkpoint.resume=runs/whole", "model.sequence_length=16",
                            "batch.tokens_per_step=64"};
  const std::string out = place.train("shorter", shorter);
  INFO(out);
  REQUIRE(has(out, "from sample 48, seed"));  // 24 samples of 32 tokens are 48 of 16
  REQUIRE(place.last_event("shorter", "step").at("tokens") == 6 * 128 + 2 * 64);

  Manifest manifest = read_manifest(place / kLast);
  REQUIRE(manifest.training.tokens == 6 * 128);
  manifest.training.tokens = -1;
  write_file(place / (kLast + "/manifest.json"), to_text(manifest));
  REQUIRE(has(to_text(manifest), "\"version\": 1,"));
  const std::string show = place.output_of({"checkpoint", "show", kLast});
  REQUIRE(has(show, "24 samples, 768 tokens"));
  place.train("old", shorter);
  REQUIRE(place.last_event("old", "step").at("tokens") == 6 * 128 + 2 * 64);
  REQUIRE((place.tensors("old") == place.tensors("shorter")));
}

}  // namespace dither::test
