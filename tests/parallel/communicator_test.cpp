// The collectives of CPU ranks: shared memory among forked processes, MPI under mpirun (tag [mpi]), and the world of
// one.
#include "src/parallel/communicator.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include <chrono>
#include <ctime>
#include <filesystem>
#include <thread>
#include <vector>

#include "base/error.h"
#include "kernels/backend.h"
#include "src/parallel/control.h"
#include "src/parallel/make_communicator.h"
#include "src/parallel/mpi_communicator.h"
#include "src/parallel/mpi_session.h"
#include "src/parallel/shared_memory.h"
#include "src/parallel/shared_memory_communicator.h"
#include "src/parallel/single_rank.h"
#include "tests/catch.h"
#include "tests/parallel/collective_cases.h"
#include "tests/parallel/processes.h"

namespace dither {
namespace {

using Catch::Matchers::ContainsSubstring;

using Body = std::function<void(Communicator&, Backend&, Complaints&)>;

/// `ranks` processes with a CPU backend of one thread and a communicator over shared memory. host_memory false: its
/// data goes the way of a device's.
std::string run_connected(int ranks, const Body& body, bool host_memory = true) {
  const std::string name = unique_test_name();
  return run_ranks(ranks, [&](int rank, Complaints& complaints) {
    const auto backend = make_cpu_backend(1);
    const auto communicator = make_shared_memory_communicator(name, rank, ranks, *backend, host_memory);
    body(*communicator, *backend, complaints);
  });
}

double processor_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

/// What a wish comes to, or the error's text. A world of `ranks`, `local` of them on this node (0: nobody knows).
std::string chosen(Transport wanted, int ranks, int local, bool mpi_launcher, bool cuda = false, bool with_mpi = true) {
  RankEnvironment environment;
  environment.ranks = ranks;
  environment.local_ranks = local;
  environment.mpi = mpi_launcher;
  environment.launcher = mpi_launcher ? "mpirun" : "environment";
  try {
    const Transport transport = chosen_transport(wanted, environment, cuda, with_mpi);
    constexpr const char* names[] = {"auto", "nccl", "mpi", "host", "none"};
    return names[static_cast<int>(transport)];
  } catch (const Error& error) {
    return error.what();
  }
}

}  // namespace

// Catches: a sum in another order or rounded between terms, a slice that ends early or late, a chunk at a wrong offset,
// an output written beyond its end, an input that the collective destroys, a buffer written while others read it.
TEST_CASE("shared memory: every collective gives what a plain loop over all ranks gives, bit for bit") {
  const int ranks = GENERATE(2, 3, 4);
  REQUIRE(run_connected(ranks, [](Communicator& communicator, Backend& backend, Complaints& complaints) {
            check_collectives(communicator, backend, complaints);
          }) == "");
}

// Catches: a group in the order of the parent's ranks, groups that share one object, a child that uses its parent's
// rounds.
TEST_CASE("shared memory: groups and the communicator they came from work in turn") {
  const int ranks = GENERATE(2, 3, 4);
  REQUIRE(run_connected(ranks, [](Communicator& communicator, Backend& backend, Complaints& complaints) {
            check_split(communicator, backend, complaints);
          }) == "");
}

// Catches: sums read before the copy from the device has been waited for, results that stay in staging memory, staging
// memory that is used again too early.
TEST_CASE("shared memory: data of a device, whose copies come late, gives the same bits") {
  const std::string name = unique_test_name();
  const bool device = cuda_devices() > 0;
  REQUIRE(run_ranks(3, [&](int rank, Complaints& complaints) {
            const auto backend = device ? make_cuda_backend(0) : make_cpu_backend(1);
            const auto communicator = make_shared_memory_communicator(name, rank, 3, *backend, false);
            check_collectives(*communicator, *backend, complaints, 200000);
            check_split(*communicator, *backend, complaints);
          }) == "");
}

// Catches: rounding after each term. 256 + 1 is a tie in BF16 and goes to 256, and so again; 256 + 1 + 1 is a BF16.
TEST_CASE("a BF16 sum is formed in FP32 and rounded once") {
  REQUIRE(run_connected(3, [](Communicator& communicator, Backend& backend, Complaints& complaints) {
            const Stream stream = backend.stream();
            std::vector<Bf16> data(20000, round_nearest(communicator.rank() == 0 ? 256.0f : 1.0f));
            communicator.all_reduce({data.data(), DType::bf16}, 20000, stream);
            complaints.expect(to_float(data[0]) == 258.0f && to_float(data[19999]) == 258.0f, "all_reduce of 20,000");
            data[0] = round_nearest(communicator.rank() == 0 ? 256.0f : 1.0f);
            communicator.all_reduce({data.data(), DType::bf16}, 1, stream);
            complaints.expect(to_float(data[0]) == 258.0f, "all_reduce of one");
          }) == "");
}

// Catches: a barrier that spins. The slow rank is 0.3 s behind, of which a rank asleep costs next to nothing.
TEST_CASE("a rank that waits for a slow one does not keep its core busy") {
  REQUIRE(run_connected(2, [](Communicator& communicator, Backend& backend, Complaints& complaints) {
            float one = 1;
            communicator.all_reduce({&one, DType::fp32}, 1, backend.stream());
            if (communicator.rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(300));
            const double before = processor_seconds();
            communicator.all_reduce({&one, DType::fp32}, 1, backend.stream());
            const double used = processor_seconds() - before;
            complaints.expect(used < 0.1, "used " + std::to_string(used) + " s of processor time");
            complaints.expect(one == 4.0f, "sum");
          }) == "");
}

// Catches: bytes counted for the whole world, for received ones, or in elements; a call counted that did nothing.
TEST_CASE("traffic counts calls, the least bytes that leave a rank, and seconds") {
  REQUIRE(run_connected(4, [](Communicator& communicator, Backend& backend, Complaints& complaints) {
            const Stream stream = backend.stream();
            std::vector<float> data(400), more(400);
            const std::vector<int64_t> offsets = {0, 10, 20, 30};
            auto expect = [&, before = int64_t{0}](int64_t bytes, const char* what) mutable {
              const int64_t left = communicator.traffic().bytes - before;
              complaints.expect(left == bytes, std::string(what) + ": " + std::to_string(left));
              before += left;
            };
            const View all{data.data(), DType::fp32}, other{more.data(), DType::fp32};
            communicator.all_reduce(all, 400, stream);
            expect(2 * 1600 * 3 / 4, "all_reduce");
            communicator.reduce_scatter(other, all, 100, stream);
            expect(3 * 400, "reduce_scatter");
            communicator.all_gather(all, other, 100, stream);
            expect(3 * 400, "all_gather");
            communicator.broadcast(all, 400, 1, stream);
            expect(1600 * 3 / 4, "broadcast");
            communicator.all_to_all({other, 10, all, offsets.data(), 10, 2}, stream);
            expect(communicator.rank() < 2 ? 3 * 40 : 0, "all_to_all");
            communicator.all_reduce(all, 0, stream);
            expect(0, "nothing");
            complaints.expect(communicator.traffic().calls == 5, "calls");
            complaints.expect(communicator.traffic().seconds > 0, "seconds");
          }) == "");
}

// Catches: a foreign object taken for ours, by its name alone or by its size; a wait without end; a rank that maps less
// than it then writes.
TEST_CASE("shared memory of a wrong size or token is refused, and a missing one after a time") {
  const std::string name = unique_test_name();
  const auto attach = [&] { SharedMemory(name, 1, 2, 4096, 0.05); };
  CHECK_THAT(error_of(attach), ContainsSubstring("there is no such object") && ContainsSubstring("/" + name));

  const int file = shm_open(("/" + name).c_str(), O_CREAT | O_EXCL | O_RDWR, 0600);
  REQUIRE(file >= 0);
  REQUIRE(ftruncate(file, 100) == 0);
  CHECK_THAT(error_of(attach), ContainsSubstring("it has 100 bytes, needs 8192"));
  REQUIRE(ftruncate(file, 8192) == 0);
  CHECK_THAT(error_of(attach), ContainsSubstring("its token is 0000000000000000"));
  const uint64_t token = 0x1234;
  REQUIRE(pwrite(file, &token, sizeof token, 0) == sizeof token);
  CHECK_THAT(error_of(attach), ContainsSubstring("its token is 0000000000001234, needs"));
  CHECK_THAT(error_of([&] { SharedMemory(name, 0, 2, 4096, 0.05); }), ContainsSubstring("shm_open: File exists"));
  REQUIRE(close(file) == 0);
  REQUIRE(shm_unlink(("/" + name).c_str()) == 0);

  // Alone, rank 0 gives up and takes its object away.
  CHECK_THAT(error_of([&] { SharedMemory(name, 0, 2, 4096, 0.05); }), ContainsSubstring("1 of 2 ranks attached"));
  CHECK(shm_open(("/" + name).c_str(), O_RDWR, 0600) < 0);
}

// Catches: memory promised but not there, which ends in SIGBUS at the first write; an object that stays.
TEST_CASE("shared memory that does not fit is an error with a cure") {
  const std::string name = unique_test_name();
  const std::string text = error_of([&] { SharedMemory(name, 0, 2, int64_t{1} << 50, 0.05); });
  CHECK_THAT(text, ContainsSubstring("/dev/shm has no room for 1073741824.0 MiB") && ContainsSubstring("--shm-size"));
  CHECK(shm_open(("/" + name).c_str(), O_RDWR, 0600) < 0);
}

// Catches: the bare words of shm_open, advice that depends on why.
TEST_CASE("a system without /dev/shm, or with one that cannot be written, is an error with a cure") {
  const bool empty = GENERATE(true, false);  // a /dev without shm; a shm that is read-only
  const std::string complaints = run_ranks(1, [&](int, Complaints& found) {
    // A view of the file systems for this process alone.
    const int flags = getuid() == 0 ? CLONE_NEWNS : CLONE_NEWNS | CLONE_NEWUSER;
    if (unshare(flags) != 0 || mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount("tmpfs", empty ? "/dev" : "/dev/shm", "tmpfs", empty ? 0 : MS_RDONLY, nullptr) != 0) {
      found.expect(false, "no mount");
      return;
    }
    const std::string text = error_of([&] { SharedMemory(unique_test_name(), 0, 2, 4096, 0.05); });
    found.expect(text.find("mount -t tmpfs") != std::string::npos && text.find("--shm-size") != std::string::npos,
                 text);
  });
  if (complaints.find("no mount") != std::string::npos) {
    WARN("this user may mount nothing, not even for one process");
    return;
  }
  REQUIRE(complaints.empty());
}

// Catches: an object that outlives its processes, of the world or of a group.
TEST_CASE("once all ranks have attached their shared memory has no name") {
  const std::string name = unique_test_name();
  REQUIRE(run_ranks(2, [&](int rank, Complaints& complaints) {
            const auto backend = make_cpu_backend(1);
            const auto world = make_shared_memory_communicator(name, rank, 2, *backend, true);
            const auto group = world->split(0, rank);
            int64_t one = 1;
            group->all_reduce({&one, DType::int64}, 1, {});
            // Rank 0 takes the name away before its constructor returns, and it has taken part since.
            complaints.expect(shm_open(("/" + name).c_str(), O_RDWR, 0600) < 0, "the world has a name");
            complaints.expect(shm_open(("/" + name + ".0.0").c_str(), O_RDWR, 0600) < 0, "the group has a name");
          }) == "");
}

// Catches: a result that stays where it was, a copy where nothing has to move.
TEST_CASE("a world of one moves results to their place and changes nothing else") {
  REQUIRE(run_ranks(1, [](int, Complaints& complaints) {
            const auto backend = make_cpu_backend(1);
            const auto world = make_single_rank(*backend);
            complaints.expect(world->rank() == 0 && world->size() == 1, "rank and size");
            check_collectives(*world, *backend, complaints);
            complaints.expect(world->traffic().bytes == 0 && world->traffic().calls > 0, "traffic");
            complaints.expect(world->split(3, 7)->size() == 1, "split");
          }) == "");
}

// Catches: MPI without its launcher, shared memory between nodes, a wish that is quietly replaced, one rank that needs
// a transport.
TEST_CASE("the transport is the one asked for, or the best there is, or an error with its cure") {
  const auto automatic = Transport::automatic;
  CHECK(chosen(automatic, 1, 1, false) == "none");
  CHECK(chosen(automatic, 1, 1, true, true) == "none");
  CHECK(chosen(automatic, 4, 4, true) == "mpi");
  CHECK(chosen(automatic, 4, 2, true) == "mpi");
  CHECK(chosen(automatic, 4, 4, true, false, false) == "host");  // built without MPI
  CHECK(chosen(automatic, 4, 4, false) == "host");
  CHECK(chosen(automatic, 4, 0, false) == "host");
  CHECK(chosen(automatic, 4, 4, true, true) == "nccl");
  CHECK(chosen(Transport::host, 2, 2, true, true) == "host");  // ranks that share a GPU
  CHECK(chosen(Transport::mpi, 2, 1, true, true) == "mpi");
  CHECK(chosen(Transport::mpi, 1, 1, false) == "none");
  CHECK(chosen(Transport::host, 1, 1, false) == "none");
  CHECK(chosen(Transport::nccl, 1, 1, false, true) == "nccl");

  CHECK_THAT(chosen(automatic, 4, 2, false), ContainsSubstring("there are 4 ranks, 2 of them on this node") &&
                                                 ContainsSubstring("the launcher (environment) is not one of MPI"));
  CHECK_THAT(chosen(automatic, 4, 2, true, false, false), ContainsSubstring("install libopenmpi-dev"));
  CHECK_THAT(chosen(Transport::mpi, 4, 4, false), ContainsSubstring("\"mpi\", but the launcher (environment) is not"));
  CHECK_THAT(chosen(Transport::mpi, 4, 4, true, false, false), ContainsSubstring("built without MPI"));
  CHECK_THAT(chosen(Transport::host, 4, 2, true), ContainsSubstring("of 4 ranks only 2 are on this node"));
  CHECK_THAT(chosen(Transport::none, 4, 4, true), ContainsSubstring("\"none\", but there are 4 ranks"));
  CHECK_THAT(chosen(Transport::nccl, 4, 4, true), ContainsSubstring("needs device \"cuda\""));
}

// Catches: a name that ranks do not agree on, a transport that is not the chosen one.
TEST_CASE("ranks that meet through Control get their communicator from it") {
  const std::string meeting = "/dev/shm/" + unique_test_name();
  REQUIRE(run_ranks(2, [&](int rank, Complaints& complaints) {
            RankEnvironment environment;
            environment.rank = environment.local_rank = rank;
            environment.ranks = environment.local_ranks = 2;
            environment.launcher = "environment";
            environment.rendezvous = meeting;
            Control control(environment, 20);
            const auto backend = make_cpu_backend(1);
            const auto world = make_communicator(Transport::automatic, environment, control, *backend, false);
            complaints.expect(world->description() == "shared memory of this node", world->description());
            int64_t sum = rank + 1;
            world->all_reduce({&sum, DType::int64}, 1, backend->stream());
            complaints.expect(world->rank() == rank && sum == 3, "sum " + std::to_string(sum));
          }) == "");
  std::filesystem::remove(meeting);
}

// Run by CTest under mpirun, with several ranks; see tests/CMakeLists.txt. Catches what the test of shared memory
// catches, in the rounds of MPI; a message longer than a broadcast's first call; a group freed after the session.
TEST_CASE("MPI: every collective and every group gives what a plain loop gives, bit for bit", "[.][mpi]") {
  if (!built_with_mpi()) return;
  MpiSession session;
  Complaints complaints;
  const std::string text(100000, 'x');
  complaints.expect(session.broadcast(session.rank() == 0 ? text : "other") == text, "broadcast of a text");
  complaints.expect(session.broadcast(session.rank() == 0 ? "" : "other").empty(), "broadcast of no text");
  complaints.expect(session.local_rank() == session.rank() && session.local_size() == session.size(), "local ranks");
  complaints.expect(session.size() > 1, "mpirun started one rank");
  const auto backend = make_cpu_backend(1);
  for (const bool host_memory : {true, false}) {
    const auto world = make_mpi_communicator(*backend, host_memory);
    complaints.expect(world->rank() == session.rank() && world->size() == session.size(), "rank and size");
    complaints.expect(world->description().find("MPI (") == 0, world->description());
    check_collectives(*world, *backend, complaints);
    check_split(*world, *backend, complaints);
  }
  REQUIRE(complaints.text() == "");
}

}  // namespace dither
