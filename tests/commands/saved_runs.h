// What the tests of checkpoints share: runs of the program that save, are killed, damaged and started again, and all
// that they have left.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/commands/program.h"

namespace dither::test {

using Settings = std::vector<std::string>;  // "key=value", each for a --set
using Steps = std::vector<int64_t>;

/// Runs of c.json: the tiny model for six steps, a checkpoint behind every second one, all of which stay.
class SavedRuns : public Workplace {
 public:
  explicit SavedRuns(const std::string& patch = "{}");

  /// `dither train` for a run of that name.
  static std::vector<std::string> words(const std::string& name, const Settings& settings = {});
  Outcome attempt(const std::string& name, const Settings& settings = {}) const;
  /// The output of a run that must succeed.
  std::string train(const std::string& name, const Settings& settings = {}) const;
  /// The message of one that must be refused.
  std::string refusal(const std::string& name, const Settings& settings = {}) const;
  /// Starts a run, ends it by SIGTERM as soon as `ready`, and gives the step that it ended with.
  int64_t stop(const std::string& name, const std::function<bool()>& ready) const;
  /// Starts a run of so many steps and kills it between its first checkpoint and its end; the last step that it did.
  int64_t kill_in_mid_run(const std::string& name, int64_t steps) const;
  /// All checkpoints of a run, which must be good.
  void verify(const std::string& name) const;

  std::string folder(const std::string& name) const { return *this / ("runs/" + name); }
  std::string checkpoint(const std::string& name, int64_t step) const;
  std::string shard(const std::string& name, int64_t step) const;
  Steps checkpoints(const std::string& name) const;
  void copy_run(const std::string& from, const std::string& to) const;
  /// The folder of `from` as if that had been killed behind its checkpoint of `step` (0: before any).
  void copy_killed(const std::string& from, const std::string& to, int64_t step) const;

  /// The events of a kind ("": all) in metrics.jsonl as it is; a line that a kill has cut is none.
  std::vector<nlohmann::json> all_events(const std::string& name, const std::string& kind = "") const;
  /// The last of them, which must be there.
  nlohmann::json last_event(const std::string& name, const std::string& kind) const;
  /// What a run computed behind step `after`, as docs/metrics.md has it read: without steps that were undone, and
  /// without times.
  std::string history(const std::string& name, int64_t after = 0) const;
  /// Steps done since the run was started last.
  Steps last_steps(const std::string& name) const;
  int64_t first_step(const std::string& name) const;  // } of these, 0: none
  int64_t last_step(const std::string& name) const;   // }
  /// Steps whose checkpoint was written, and those where that failed.
  Steps written(const std::string& name) const;
  Steps failed(const std::string& name) const;
  /// Everything in a checkpoint that a run goes on with.
  std::string state(const std::string& name, int64_t step) const;
  /// The weights without the header, which holds the config with the run's name.
  std::string tensors(const std::string& name) const;
  /// Every file of a run with its bytes, but for the lock.
  std::map<std::string, std::string> content(const std::string& name) const;
};

/// Waits for what another process does; fails the test if that takes longer than a busy machine explains.
void await(const std::function<bool()>& condition);

}  // namespace dither::test
