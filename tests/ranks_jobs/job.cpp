// Starting, watching and ending the jobs of job.h.
#include "tests/ranks_jobs/job.h"

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstring>
#include <filesystem>
#include <functional>
#include <thread>

#include "tests/catch.h"

namespace dither::test {

namespace fs = std::filesystem;

namespace {

constexpr const char* kProgram = DITHER_BINARY_DIR "/dither";
constexpr const char* kRunRanks = DITHER_SOURCE_DIR "/scripts/run_ranks.sh";
constexpr double kStartSeconds = 60;  // for a job to get going on a busy machine

// The minutes are there to be cut short; a learning rate that stays, so that a run of n steps is the beginning of all.
constexpr const char* kLong = R"({
  "steps": 1000000,
  "optimizer": { "schedule": { "kind": "constant" } },
  "parallel": { "threads": 1, "timeout_seconds": 60 },
  "logging": { "measure_every_steps": 0 }
})";

// The process is noted under its final name as a whole.
constexpr const char* kRankScript = R"(rank=${DITHER_RANK:-${OMPI_COMM_WORLD_RANK:-$PMI_RANK}}
echo $$ >"pid.$rank.new" && mv "pid.$rank.new" "pid.$rank"
if [ -f "rank.$rank" ]; then . "./rank.$rank"; fi
exec "$@"
)";

bool comes_true(double seconds, const std::function<bool()>& condition) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(seconds);
  while (!condition()) {
    if (std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

/// What a launcher around the tests has set is not for the jobs. mpirun refuses root and more ranks than cores unless
/// told (Open MPI 4 and 5 have a variable each); ranks of one machine need no network, of which Open MPI may complain.
void set_environment() {
  for (const char* name : {"DITHER_RANK", "DITHER_RANKS", "DITHER_LOCAL_RANK", "DITHER_LOCAL_RANKS", "DITHER_ADDRESS",
                           "DITHER_RENDEZVOUS", "DITHER_CONNECT_SECONDS", "MASTER_ADDR", "MASTER_PORT"}) {
    unsetenv(name);
  }
  setenv("OMP_WAIT_POLICY", "passive", 1);
  setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 1);
  setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 1);
  setenv("OMPI_MCA_rmaps_base_oversubscribe", "1", 1);
  setenv("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe", 1);
  setenv("OMPI_MCA_btl", "^tcp", 1);
}

/// Whether the process is there and is not one that only waits for its parent.
bool runs(pid_t process) {
  const std::string status = read_whole("/proc/" + std::to_string(process) + "/stat");
  const size_t name_end = status.rfind(')');
  return name_end != std::string::npos && status.compare(name_end, 4, ") Z ", 0, 4) != 0;
}

}  // namespace

std::vector<std::string> launchers() {
  if (std::string(DITHER_MPIEXEC).empty()) return {"environment"};
  return {"environment", "mpirun"};
}

JobPlace::JobPlace() {
  prepare_corpus();
  write_config("c.json", kLong);
  write_file(*this / "rank.sh", kRankScript);
}

void JobPlace::prepare_rank(int rank, const std::string& commands) const {
  write_file(*this / ("rank." + std::to_string(rank)), commands + "\n");
}

void JobPlace::copy_corpus() const {
  fs::create_directories(*this / "other");
  fs::copy(*this / "data", *this / "other/data", fs::copy_options::recursive);
}

bool JobPlace::has_run_folder() const { return fs::exists(*this / "runs"); }

Job::Job(const JobPlace& place, const std::string& launcher, int ranks, const std::vector<std::string>& arguments)
    : place_(place) {
  std::vector<std::string> command = {kRunRanks};
  if (launcher == "mpirun") command = {DITHER_MPIEXEC, "-np"};
  for (const std::string& word : {std::to_string(ranks), std::string("bash"), place / "rank.sh", std::string(kProgram),
                                  std::string("train"), place / "c.json"}) {
    command.push_back(word);
  }
  command.insert(command.end(), arguments.begin(), arguments.end());
  start(command);
}

Job::Job(const JobPlace& place, const std::vector<std::string>& command) : place_(place) { start(command); }

void Job::start(const std::vector<std::string>& command) {
  const std::string folder = place_.path(), out = place_ / "out.txt", err = place_ / "err.txt";
  std::vector<char*> words;
  for (const std::string& word : command) words.push_back(const_cast<char*>(word.c_str()));
  words.push_back(nullptr);
  launcher_ = fork();
  REQUIRE(launcher_ >= 0);
  if (launcher_ > 0) return;
  set_environment();
  const int out_file = open(out.c_str(), O_CREAT | O_TRUNC | O_WRONLY, 0600);
  const int err_file = open(err.c_str(), O_CREAT | O_TRUNC | O_WRONLY | O_APPEND, 0600);
  if (setsid() >= 0 && chdir(folder.c_str()) == 0 && dup2(out_file, STDOUT_FILENO) >= 0 &&
      dup2(err_file, STDERR_FILENO) >= 0) {
    execv(words[0], words.data());
  }
  _exit(127);
}

Job::~Job() {
  for (int rank = 0; fs::exists(place_ / ("pid." + std::to_string(rank))); ++rank) {
    if (!is_gone(rank)) kill(process_of(rank), SIGKILL);
  }
  if (launcher_ < 0) return;
  kill(-launcher_, SIGKILL);
  waitpid(launcher_, nullptr, 0);
}

void Job::await_training() const {
  const bool came = comes_true(kStartSeconds, [&] { return has(read_whole(place_.metrics()), "\"step\":3,"); });
  INFO(errors());
  REQUIRE(came);
}

std::string Job::errors() const { return read_whole(place_ / "err.txt"); }

void Job::await_error(const std::string& text, double seconds) const {
  const bool came = comes_true(seconds, [&] { return has(errors(), text); });
  INFO(errors());
  REQUIRE(came);
}

pid_t Job::process_of(int rank) const {
  const std::string path = place_ / ("pid." + std::to_string(rank));
  REQUIRE(comes_true(kStartSeconds, [&] { return fs::exists(path); }));
  return static_cast<pid_t>(std::stol(read_whole(path)));
}

void Job::send_rank(int rank, int signal) const { REQUIRE(kill(process_of(rank), signal) == 0); }
void Job::send_launcher(int signal) const { REQUIRE(kill(launcher_, signal) == 0); }
void Job::send_terminal(int signal) const { REQUIRE(kill(-launcher_, signal) == 0); }

bool Job::is_gone(int rank, double within_seconds) const {
  const pid_t process = process_of(rank);
  return comes_true(within_seconds, [&] { return !runs(process); });
}

Outcome Job::wait(double seconds) {
  int status = 0;
  const bool ended = comes_true(seconds, [&] { return waitpid(launcher_, &status, WNOHANG) == launcher_; });
  INFO(errors());
  REQUIRE(ended);
  launcher_ = -1;
  return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_whole(place_ / "out.txt"), errors()};
}

std::string name_of(int rank, pid_t process) {
  char host[256] = "";
  REQUIRE(gethostname(host, sizeof host - 1) == 0);
  return "rank " + std::to_string(rank) + " (" + host + ", pid " + std::to_string(process) + ")";
}

std::string tensors_of(const std::string& path) {
  const std::string file = read_whole(path);
  uint64_t header_bytes = 0;
  REQUIRE(file.size() > sizeof header_bytes);
  std::memcpy(&header_bytes, file.data(), sizeof header_bytes);
  nlohmann::json header = nlohmann::json::parse(file.substr(sizeof header_bytes, header_bytes));
  header.erase("__metadata__");
  REQUIRE(!header.empty());
  return header.dump() + file.substr(sizeof header_bytes + header_bytes);
}

}  // namespace dither::test
