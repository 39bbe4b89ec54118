// Waiting is on a futex which every step that changes something wakes: ranks may be many more than cores.
#include "tests/cuda_host/nccl_exchange.h"

#include <fcntl.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <utility>

namespace {

using namespace dither::cuda_host;
using Clock = std::chrono::steady_clock;
using Comm = NcclHostComm;

constexpr int kMostRanks = 8;                         // tests have up to four
constexpr int64_t kWindowBytes = 16 << 10;            // 64 of them: 1 MiB a communicator, for a small /dev/shm
constexpr auto kPatience = std::chrono::seconds(60);  // without any step of a peer
constexpr timespec kNap = {.tv_sec = 0, .tv_nsec = 100'000'000};  // the longest sleep before a look at the clock

struct Channel {
  std::atomic<uint32_t> full;  // 1: the receiver's turn
  Call call;
  char window[kWindowBytes];
};

}  // namespace

/// All zero at first, as new memory is.
struct NcclHostShared {
  std::atomic<uint32_t> pulse;  // counts steps; the futex
  std::atomic<int32_t> size;    // 0: nobody has said
  std::atomic<int32_t> attached;
  std::atomic<int32_t> broken_by;  // 1 + the rank that failed or aborted
  std::array<std::atomic<int32_t>, kMostRanks> present;
  Channel channels[kMostRanks][kMostRanks];  // [from][to]
};
static_assert(std::atomic<uint32_t>::is_always_lock_free && std::atomic<int32_t>::is_always_lock_free);

namespace {

std::string g_last_error;

void wake(NcclHostShared& shared) {
  shared.pulse.fetch_add(1);
  (void)syscall(SYS_futex, &shared.pulse, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);  // fails for bad addresses alone
}

/// Until somebody wakes, unless that has happened since `pulse` was read. Too short a sleep does no harm.
void sleep(NcclHostShared& shared, uint32_t pulse) {
  (void)syscall(SYS_futex, &shared.pulse, FUTEX_WAIT, pulse, &kNap, nullptr, 0);
}

}  // namespace

NcclHostComm::~NcclHostComm() {
  if (shared != nullptr) (void)munmap(shared, sizeof(NcclHostShared));
}

void NcclHostComm::fail(ncclResult_t result, const std::string& why) {
  if (error != ncclSuccess) return;
  error = refuse(result, why);
  int32_t nobody = 0;
  shared->broken_by.compare_exchange_strong(nobody, rank + 1);
  wake(*shared);
}

namespace dither::cuda_host {

std::string text_of(const Call& call) {
  constexpr const char* names[] = {"ncclSend or ncclRecv", "ncclAllReduce", "ncclReduceScatter",
                                   "ncclAllGather",        "ncclBroadcast", "ncclCommSplit"};
  return std::string(names[static_cast<int>(call.kind)]) + " (count " + std::to_string(call.count) + ", type " +
         std::to_string(call.type) + ", root " + std::to_string(call.root) + ")";
}

ncclResult_t refuse(ncclResult_t result, const std::string& why) {
  g_last_error = why;
  return result;
}

const char* last_error() { return g_last_error.c_str(); }

namespace {

/// Does what can be done without waiting; whether that was anything.
bool step_send(const Comm& comm, Transfer& message) {
  Channel& channel = comm.shared->channels[comm.rank][message.peer];
  if (channel.full.load(std::memory_order_acquire) != 0) return false;
  if (message.begun && message.moved == message.bytes) {  // the peer has taken the last of it
    return message.done = true;
  }
  const size_t piece = std::min<size_t>(kWindowBytes, message.bytes - message.moved);
  channel.call = message.call;
  if (piece > 0) std::memcpy(channel.window, message.from + message.moved, piece);
  message.moved += piece;
  message.begun = true;
  channel.full.store(1, std::memory_order_release);
  return true;
}

bool step_receive(Comm& comm, Transfer& message) {
  Channel& channel = comm.shared->channels[message.peer][comm.rank];
  if (channel.full.load(std::memory_order_acquire) == 0) return false;
  if (!(channel.call == message.call)) {
    comm.fail(ncclInvalidUsage, "rank " + std::to_string(comm.rank) + " called " + text_of(message.call) + ", rank " +
                                    std::to_string(message.peer) + " " + text_of(channel.call));
    return true;
  }
  const size_t piece = std::min<size_t>(kWindowBytes, message.bytes - message.moved);
  if (piece > 0) std::memcpy(message.to + message.moved, channel.window, piece);
  message.moved += piece;
  message.done = message.moved == message.bytes;
  channel.full.store(0, std::memory_order_release);
  return true;
}

/// Steps of all that may go on: of several messages to or from one peer, the first that is not done.
bool sweep(Comm& comm, std::vector<Transfer>& transfers) {
  bool stepped = false;
  bool taken[2][kMostRanks] = {};
  for (Transfer& transfer : transfers) {
    bool& busy = taken[transfer.from != nullptr ? 0 : 1][transfer.peer];
    if (transfer.done || std::exchange(busy, true)) continue;
    stepped |= transfer.from != nullptr ? step_send(comm, transfer) : step_receive(comm, transfer);
  }
  return stepped;
}

}  // namespace

bool exchange(Comm& comm, std::vector<Transfer> transfers) {
  Clock::time_point patience = Clock::now() + kPatience;
  while (true) {
    const uint32_t pulse = comm.shared->pulse.load();
    const bool stepped = sweep(comm, transfers);
    if (const int by = comm.shared->broken_by.load(); by != 0) {
      comm.fail(ncclRemoteError, "rank " + std::to_string(by - 1) + " has failed or aborted");
      return false;
    }
    const auto left = std::find_if(transfers.begin(), transfers.end(), [](const Transfer& t) { return !t.done; });
    if (stepped) {
      wake(*comm.shared);
      patience = Clock::now() + kPatience;
    }
    if (left == transfers.end()) return true;
    if (Clock::now() > patience) {
      comm.fail(ncclRemoteError, "rank " + std::to_string(left->peer) + " does not come to " + text_of(left->call));
      return false;
    }
    if (!stepped) sleep(*comm.shared, pulse);
  }
}

bool gather(Comm& comm, const Call& call, const void* mine, size_t bytes, Parts& parts) {
  const auto gives = [&](int rank) { return call.root < 0 || rank == call.root ? bytes : 0; };
  const char* own = static_cast<const char*>(mine);
  parts.resize(static_cast<size_t>(comm.size));
  std::vector<Transfer> transfers;
  for (int peer = 0; peer < comm.size; ++peer) {
    std::vector<char>& part = parts[static_cast<size_t>(peer)];
    part.resize(gives(peer));
    if (peer == comm.rank) {
      if (!part.empty()) std::memcpy(part.data(), own, part.size());
      continue;
    }
    transfers.push_back({peer, call, gives(comm.rank), own, nullptr});
    transfers.push_back({peer, call, gives(peer), nullptr, part.data()});
  }
  return exchange(comm, std::move(transfers));
}

ncclResult_t attach(const std::string& name, int size, int rank, ncclComm_t* comm) {
  *comm = nullptr;
  if (size < 1 || size > kMostRanks || rank < 0 || rank >= size) {
    return refuse(ncclInvalidArgument, "rank " + std::to_string(rank) + " of " + std::to_string(size) + ", at most " +
                                           std::to_string(kMostRanks) + " on the host");
  }
  const int file = shm_open(name.c_str(), O_CREAT | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (file < 0) return refuse(ncclSystemError, "shm_open: " + std::string(std::strerror(errno)));
  const int full = posix_fallocate(file, 0, sizeof(NcclHostShared));  // now, not by a signal at the first write
  void* memory =
      full != 0 ? MAP_FAILED : mmap(nullptr, sizeof(NcclHostShared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  const int failure = full != 0 ? full : errno;
  (void)close(file);
  if (memory == MAP_FAILED) {
    (void)shm_unlink(name.c_str());
    return refuse(ncclSystemError, "shared memory: " + std::string(std::strerror(failure)));
  }
  auto made = std::make_shared<NcclHostComm>();
  made->name = name;
  made->rank = rank;
  made->size = size;
  made->shared = static_cast<NcclHostShared*>(memory);
  NcclHostShared& shared = *made->shared;
  int32_t said = 0;
  if (!shared.size.compare_exchange_strong(said, size) && said != size) {
    return refuse(ncclInvalidArgument, "another rank says " + std::to_string(said) + " ranks");
  }
  if (shared.present[static_cast<size_t>(rank)].exchange(1) != 0) {
    return refuse(ncclInvalidArgument, "there are two ranks " + std::to_string(rank));
  }
  shared.attached.fetch_add(1);
  wake(shared);
  const Clock::time_point patience = Clock::now() + kPatience;
  for (uint32_t pulse = shared.pulse.load(); shared.attached.load() < size; pulse = shared.pulse.load()) {
    if (Clock::now() > patience) {
      (void)shm_unlink(name.c_str());
      return refuse(ncclSystemError,
                    "only " + std::to_string(shared.attached.load()) + " of " + std::to_string(size) + " ranks came");
    }
    sleep(shared, pulse);
  }
  (void)shm_unlink(name.c_str());  // by whoever is first: the others fail, and need not know
  if (cudaEventCreate(&made->last) != cudaSuccess) return refuse(ncclUnhandledCudaError, "cudaEventCreate");
  *comm = made.get();
  made->self = std::move(made);
  return ncclSuccess;
}

}  // namespace dither::cuda_host
