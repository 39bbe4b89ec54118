// The control star as ranks see it: how they meet, or learn why they do not, and what messages bring.
#include "src/parallel/control.h"

#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <fstream>

#include "base/error.h"
#include "src/parallel/sockets.h"
#include "tests/catch.h"
#include "tests/parallel/star_processes.h"

namespace dither::test {
namespace {

using Catch::Matchers::ContainsSubstring;

constexpr double kConnectSeconds = 8;  // long where all come; a test of one that does not come says less

/// A text whose every part differs from every other, so that a piece lost, doubled or moved shows.
std::string long_text(int rank, size_t bytes) {
  std::string text(bytes, ' ');
  uint32_t state = static_cast<uint32_t>(rank) + 1;
  for (char& c : text) c = static_cast<char>((state = state * 1664525 + 1013904223) >> 24);
  return text;
}

std::string file_content(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

void write_file(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

int free_port() { return star::port_of(star::listen_at({"127.0.0.1", 0})); }

int open_descriptors() {
  int count = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) ++count;
  return count;
}

/// Begins, passes a barrier and ends.
void meet_and_part(const RankEnvironment& environment, Shared&) { Control(environment, kConnectSeconds).barrier(); }

void require_good(StarProcesses& processes, int process) {
  const Ended ended = processes.wait(process);
  INFO("process " << process << ": " << ended.error);
  REQUIRE(ended.status == 0);
  REQUIRE(ended.error.empty());
}

}  // namespace

// Catches: texts by arrival instead of by rank, a text cut where the kernel's
// buffers are full, an empty text that counts
// as not arrived, a second message that is taken for the first, rank 0's own text forgotten.
TEST_CASE("every rank gets every rank's text whatever its size and in whatever order ranks arrive") {
  const int ranks = GENERATE(2, 3, 4);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(ranks, folder, [](const RankEnvironment& environment, Shared&) {
    Control control(environment, kConnectSeconds);
    expect(control.rank() == environment.rank && control.size() == environment.ranks, "rank or size");
    for (int round = 0; round < 4; ++round) {
      const int late = round % 2 == 0 ? environment.rank : environment.ranks - environment.rank;
      sleep_seconds(0.01 * late);
      const auto size = [&](int rank) {
        return (rank + round) % 3 == 1 ? size_t{3} << 20 : (rank + round) % 3 * size_t{9};
      };
      const std::vector<std::string> texts = control.all_gather(long_text(environment.rank, size(environment.rank)));
      expect(texts.size() == static_cast<size_t>(environment.ranks), "number of texts");
      for (int rank = 0; rank < environment.ranks; ++rank) {
        expect(texts[static_cast<size_t>(rank)] == long_text(rank, size(rank)), "a text of all_gather");
      }
      const std::string mine = environment.rank == 0 ? long_text(round, size(0)) : "not this one";
      expect(control.broadcast(mine) == long_text(round, size(0)), "the text of broadcast");
    }
    // More than the kernel's buffers hold at both ends, to ranks that are not reading yet.
    if (environment.rank != 0) sleep_seconds(0.05);
    const size_t long_size = (environment.ranks == 2 ? size_t{16} : size_t{1}) << 20;
    expect(control.broadcast(environment.rank == 0 ? long_text(5, long_size) : "") == long_text(5, long_size),
           "a long text");
  });
  for (int rank = 0; rank < ranks; ++rank) require_good(processes, rank);
  REQUIRE_FALSE(std::filesystem::exists(folder / "meeting"));
}

// Catches: a barrier that lets go when rank 0 alone, or anybody else alone, is there.
TEST_CASE("nobody passes a barrier before all are there") {
  const int late = GENERATE(0, 1);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, [late](const RankEnvironment& environment, Shared& shared) {
    Control control(environment, kConnectSeconds);
    if (environment.rank == late) {
      sleep_seconds(0.1);
      shared.signal = 1;
    }
    control.barrier();
    expect(shared.signal == 1, "a rank passed before the last came");
  });
  for (int rank = 0; rank < 3; ++rank) require_good(processes, rank);
}

TEST_CASE("a world of one opens no socket and needs no place to meet") {
  const int before = open_descriptors();
  Control control(RankEnvironment{});
  control.watch(1);
  control.phase("step 1");
  control.barrier();
  REQUIRE(control.all_gather("mine") == std::vector<std::string>{"mine"});
  REQUIRE(control.broadcast("mine") == "mine");
  control.fail("nobody hears it");
  REQUIRE(open_descriptors() == before);
}

TEST_CASE("ranks meet at a given address, whoever comes first, over IPv4 and over IPv6") {
  const std::string host = GENERATE("127.0.0.1", "localhost", "::1");
  std::string why_not;
  try {
    star::listen_at({host, 0});
  } catch (const Error&) {
    WARN("this machine has no " << host);
    return;
  }
  StarProcesses processes;
  const int port = free_port();
  for (const int rank : {2, 0, 1}) {
    RankEnvironment environment = local_rank(rank, 3);
    environment.address = star::to_string({host, port});
    processes.start(environment, meet_and_part);
    sleep_seconds(0.02);
  }
  for (int process = 0; process < 3; ++process) require_good(processes, process);
}

// Catches: an address that is shared only where all ranks are on this node, and one that only this node reaches.
TEST_CASE("ranks meet at the address that rank 0 shares through a broadcast") {
  const int local_ranks = GENERATE(0, 2);  // not known: the address is one that other nodes reach
  StarProcesses processes;
  for (int rank = 0; rank < 2; ++rank) {
    RankEnvironment environment = local_rank(rank, 2);
    environment.local_ranks = local_ranks;
    processes.start(environment, [](const RankEnvironment& own, Shared& shared) {
      const Control::Share share = [&](const std::string& of_rank_0) {
        if (own.rank == 0) {
          of_rank_0.copy(shared.text, sizeof shared.text);
          shared.text_size = static_cast<int>(of_rank_0.size());
        }
        while (shared.text_size < 0) sleep_seconds(0.001);
        return std::string(shared.text, static_cast<size_t>(shared.text_size.load()));
      };
      Control(own, kConnectSeconds, share).barrier();
    });
  }
  for (int rank = 0; rank < 2; ++rank) require_good(processes, rank);
  const std::string shared(processes.shared().text, static_cast<size_t>(processes.shared().text_size.load()));
  if (local_ranks == 2) REQUIRE_THAT(shared, ContainsSubstring(" 127.0.0.1:"));
}

TEST_CASE("a rank 0 that cannot listen tells so through the broadcast") {
  const Control::Share share = [](const std::string&) { return std::string("!no port is free"); };
  REQUIRE_THROWS_WITH(Control(local_rank(1, 2), 1, share), ContainsSubstring("rank 0 failed: no port is free"));
}

TEST_CASE("without a place to meet the message says how to name one") {
  REQUIRE_THROWS_WITH(Control(local_rank(1, 2), 1), ContainsSubstring("DITHER_ADDRESS") && ContainsSubstring("mpirun"));
}

// Catches: ranks counted instead of named, a rank that came and waits for ever, a file that is left behind.
TEST_CASE("all who came name the ranks that did not come in time") {
  const Folder folder;
  StarProcesses processes;
  for (const int rank : {0, 2}) {
    RankEnvironment environment = local_rank(rank, 4);
    environment.rendezvous = folder / "meeting";
    processes.start(environment, [](const RankEnvironment& own, Shared&) { Control(own, 0.3); });
  }
  for (int process = 0; process < 2; ++process) {
    const Ended ended = processes.wait(process);
    REQUIRE(ended.status == 2);
    REQUIRE_THAT(ended.error, ContainsSubstring("ranks 1, 3 of 4 did not come to rank 0 at 127.0.0.1:"));
    REQUIRE_THAT(ended.error, ContainsSubstring("within 0.3 s"));
  }
  REQUIRE_FALSE(std::filesystem::exists(folder / "meeting"));
}

TEST_CASE("a rank that finds no rank 0 says where it looked and what it found there") {
  RankEnvironment environment = local_rank(1, 2);
  environment.address = star::to_string({"127.0.0.1", free_port()});
  REQUIRE_THROWS_WITH(
      Control(environment, 0.2),
      ContainsSubstring("rank 1 found no rank 0 at " + environment.address) && ContainsSubstring("Connection refused"));
}

// Catches: the first file that is found being the last that is read; a job that takes in another job's rank; a rank 0
// that is asked by another job's rank and takes that for a failure of its own.
TEST_CASE("a rendezvous file of another run leads nowhere, even where a rank 0 listens") {
  const bool somebody_listens = GENERATE(false, true);
  const Folder folder, other_folder;
  StarProcesses processes;
  std::string place = "00000000000000ab 127.0.0.1:" + std::to_string(free_port()) + "\n";
  if (somebody_listens) {
    RankEnvironment other = local_rank(0, 2);
    other.rendezvous = other_folder / "meeting";
    processes.start(other, [](const RankEnvironment& own, Shared&) { Control(own, 0.5); });
    while (file_content(other.rendezvous).empty()) sleep_seconds(0.005);
    place = "00000000000000ab" + file_content(other.rendezvous).substr(16);
  }
  write_file(folder / "meeting", place);
  std::vector<int> ours;
  for (const int rank : {1, 0}) {
    RankEnvironment environment = local_rank(rank, 2);
    environment.rendezvous = folder / "meeting";
    ours.push_back(processes.start(environment, meet_and_part));
    sleep_seconds(0.1);  // rank 1 reads the old file first
  }
  for (const int process : ours) require_good(processes, process);
  if (somebody_listens) REQUIRE_THAT(processes.wait(0).error, ContainsSubstring("rank 1 of 2 did not come"));
}

// Catches: a stranger that stops the reception, that counts as a rank, or whose silence is waited for.
TEST_CASE("strangers at rank 0's port hold up nobody") {
  StarProcesses processes;
  RankEnvironment environment = local_rank(0, 2);
  const int port = free_port();
  environment.address = star::to_string({"127.0.0.1", port});
  processes.start(environment, meet_and_part);
  std::string why_not;
  std::vector<star::Descriptor> strangers;
  // Nothing at all; HTTP; the right magic and nonsense; the right magic, `hello` and too little behind it.
  for (const std::string& words :
       {std::string(), std::string("GET / HTTP/1.1\r\n\r\n"), std::string("DtS1nonsense and more"),
        std::string("DtS1\0\0\0\0\4\0\0\0\0\0\0\0\1\0\0\0", 20)}) {
    star::Descriptor stranger;
    for (int i = 0; i < 200 && !stranger.is_open(); ++i) {
      stranger = star::connect_to({"127.0.0.1", port}, star::Deadline::in(1), why_not);
      if (!stranger.is_open()) sleep_seconds(0.01);
    }
    REQUIRE(stranger.is_open());
    REQUIRE(send(stranger.number(), words.data(), words.size(), MSG_NOSIGNAL) == static_cast<ssize_t>(words.size()));
    strangers.push_back(std::move(stranger));
  }
  environment.rank = 1;
  processes.start(environment, meet_and_part);
  for (int process = 0; process < 2; ++process) require_good(processes, process);
}

// Catches: memory taken for a message as long as a stranger says or sends, a job that such bytes end.
TEST_CASE("a stranger's long message is cut off, and the job begins") {
  StarProcesses processes;
  RankEnvironment environment = local_rank(0, 2);
  const int port = free_port();
  environment.address = star::to_string({"127.0.0.1", port});
  processes.start(environment, meet_and_part);
  std::string why_not;
  star::Descriptor stranger;
  for (int i = 0; i < 200 && !stranger.is_open(); ++i) {
    stranger = star::connect_to({"127.0.0.1", port}, star::Deadline::in(1), why_not);
    if (!stranger.is_open()) sleep_seconds(0.01);
  }
  REQUIRE(stranger.is_open());
  std::string bytes("DtS1\0\0\0\0\0\0\0\x20\0\0\0\0", 16);  // `hello` of 512 MiB
  bytes.resize(1 << 20, 'x');
  size_t sent = 0;
  bool cut_off = false;
  const star::Deadline deadline = star::Deadline::in(5);
  while (!cut_off && sent < (size_t{64} << 20) && !deadline.passed()) {
    const ssize_t count = send(stranger.number(), bytes.data() + sent % bytes.size(),
                               bytes.size() - sent % bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (count > 0) sent += static_cast<size_t>(count);
    cut_off = count < 0 && (errno == EPIPE || errno == ECONNRESET);
    if (count < 0) sleep_seconds(0.001);
  }
  REQUIRE(cut_off);
  environment.rank = 1;
  processes.start(environment, meet_and_part);
  for (int process = 0; process < 2; ++process) require_good(processes, process);
}

// Catches: a process admitted without the number that only this job's ranks were told.
TEST_CASE("where a file tells the job's number, a process that does not know it is no rank") {
  const Folder folder;
  StarProcesses processes;
  RankEnvironment environment = local_rank(0, 2);
  environment.rendezvous = folder / "meeting";
  processes.start(environment, meet_and_part);
  while (file_content(environment.rendezvous).empty()) sleep_seconds(0.01);
  const std::string place = file_content(environment.rendezvous);
  RankEnvironment guesser = local_rank(1, 2);
  guesser.address = place.substr(17, place.size() - 18);  // knows where, not which job
  processes.start(guesser, [](const RankEnvironment& own, Shared&) { Control(own, 0.5).barrier(); });
  const Ended refused = processes.wait(1);
  REQUIRE(refused.status == 2);
  REQUIRE_THAT(refused.error, ContainsSubstring("the rank 0 of another job listens there"));
  environment.rank = 1;
  processes.start(environment, meet_and_part);
  for (const int process : {0, 2}) require_good(processes, process);
}

TEST_CASE("a second process of the same rank is refused by name, and the job goes on without it") {
  const Folder folder;
  StarProcesses processes;
  for (const int rank : {0, 1, 1, 2}) {
    RankEnvironment environment = local_rank(rank, 3);
    environment.rendezvous = folder / "meeting";
    if (rank == 2) {
      const Ended refused = processes.wait(2);
      REQUIRE(refused.status == 2);
      REQUIRE_THAT(refused.error, ContainsSubstring(processes.name(1) + " is already there"));
    }
    processes.start(environment, meet_and_part);
    sleep_seconds(0.06);  // the first of both is there first
  }
  for (const int process : {0, 1, 3}) require_good(processes, process);
}

TEST_CASE("a rank of a job of another size is refused") {
  StarProcesses processes;
  const std::string address = star::to_string({"127.0.0.1", free_port()});
  for (const RankEnvironment& rank : {local_rank(0, 2), local_rank(1, 3), local_rank(1, 2)}) {
    RankEnvironment environment = rank;
    environment.address = address;
    processes.start(environment, meet_and_part);
    if (environment.ranks != 3) continue;
    const Ended refused = processes.wait(1);
    REQUIRE(refused.status == 2);
    REQUIRE_THAT(refused.error,
                 ContainsSubstring("rank 0 waits for ranks 1 to 1 of 2") && ContainsSubstring("one of 3"));
  }
  for (const int process : {0, 2}) require_good(processes, process);
}

// Catches: a closed connection that is waited for until the deadline; rank 0's name where a third rank died.
TEST_CASE("before the watchdog runs a dead rank is named to all who wait for a message") {
  const int dead = GENERATE(0, 1, 2);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, [dead](const RankEnvironment& environment, Shared& shared) {
    Control control(environment, kConnectSeconds);
    shared.ready++;
    if (environment.rank == dead) sleep_seconds(60);
    control.all_gather("I am here");
  });
  processes.await_ready(3);
  processes.send(dead, SIGKILL);
  for (int rank = 0; rank < 3; ++rank) {
    const Ended ended = processes.wait(rank);
    if (rank == dead) continue;
    INFO(ended.error);
    REQUIRE(ended.status == 2);
    REQUIRE(ended.seconds < 2 + kExitSeconds);
    REQUIRE_THAT(ended.error,
                 ContainsSubstring("caught: " + processes.name(dead).substr(0, 7)) && ContainsSubstring(" is gone"));
  }
}

TEST_CASE("before the watchdog runs a rank's failure reaches all who wait for a message") {
  const int failing = GENERATE(0, 1, 2);
  const Folder folder;
  StarProcesses processes;
  processes.start_all(3, folder, [failing](const RankEnvironment& environment, Shared&) {
    Control control(environment, kConnectSeconds);
    control.barrier();
    if (environment.rank == failing) {
      control.fail("its configuration is another");
      control.fail("and once more, which changes nothing");
      throw Error("its configuration is another");
    }
    control.all_gather("I am here");
  });
  for (int rank = 0; rank < 3; ++rank) {
    const Ended ended = processes.wait(rank);
    INFO("rank " << rank << ": " << ended.error);
    REQUIRE(ended.status == 2);
    REQUIRE(ended.seconds < 2 + kExitSeconds);
    const std::string who = "rank " + std::to_string(failing) + " failed: ";
    REQUIRE_THAT(ended.error,
                 ContainsSubstring((rank == failing ? "caught: " : "caught: " + who) + "its configuration"));
  }
}

TEST_CASE("before the watchdog runs a rank that says nothing is named when the time is up") {
  const Folder folder;
  StarProcesses processes;
  processes.start_all(2, folder, [](const RankEnvironment& environment, Shared&) {
    Control control(environment, 0.3);
    if (environment.rank == 1) sleep_seconds(0.5);
    control.barrier();
  });
  const Ended ended = processes.wait(0);
  REQUIRE(ended.status == 2);
  REQUIRE_THAT(ended.error, ContainsSubstring("rank 1 (") && ContainsSubstring("says nothing for 0.3 s"));
  REQUIRE(processes.wait(1).status == 2);
}

TEST_CASE("ranks that call different operations are told so") {
  const Folder folder;
  StarProcesses processes;
  processes.start_all(2, folder, [](const RankEnvironment& environment, Shared&) {
    Control control(environment, kConnectSeconds);
    environment.rank == 0 ? control.barrier() : static_cast<void>(control.all_gather("text"));
  });
  REQUIRE_THAT(processes.wait(0).error, ContainsSubstring("calls another operation"));
  REQUIRE(processes.wait(1).status == 2);
}

}  // namespace dither::test
