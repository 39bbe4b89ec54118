// Shared memory and its barrier: see shared_memory.h.
//
//   offset 0      Header: token, count of attached processes, the barrier's two words
//   offset 4096   the callers' memory
#include "src/parallel/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/futex.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>
#include <thread>

#include "base/error.h"

namespace dither {

namespace {

constexpr int64_t kPage = 4096;

// Looks at the barrier before going to sleep, the core offered to others between two looks: some 20 microseconds, about
// what falling asleep and being woken costs. Ranks in step meet within that; for a slow one nobody burns a core.
constexpr int kLooks = 50;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// Whether `ready` came true before the deadline, asked every half millisecond.
template <class Ready>
bool wait_until(double deadline, const Ready& ready) {
  while (!ready()) {
    if (now() > deadline) return false;
    std::this_thread::sleep_for(std::chrono::microseconds(500));
  }
  return true;
}

/// FNV-1a of what all ranks must agree on; never 0, which an object has before it is complete.
uint64_t token_of(const std::string& name, int size, int64_t bytes) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : fmt::format("dither {} {} {}", name, size, bytes)) {
    hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  }
  return hash | 1;
}

struct File {
  int number = -1;
  ~File() {
    if (number >= 0) close(number);
  }
};

/// Takes a name away.
struct Name {
  std::string path;
  ~Name() {
    if (!path.empty()) shm_unlink(path.c_str());
  }
};

long futex(std::atomic<uint32_t>& word, int operation, uint32_t value) {
  return syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), operation, value, nullptr, nullptr, 0);
}

[[noreturn]] void fail(const std::string& path, const char* operation, int error) {
  throw Error(fmt::format("shared memory {}: {}: {}", path, operation, std::strerror(error)));
}

[[noreturn]] void fail_to_create(const std::string& path, int error) {
  if (error == EEXIST || error == EMFILE || error == ENFILE || error == ENOMEM) fail(path, "shm_open", error);
  throw Error(fmt::format(
      "shared memory {}: nothing can be made in /dev/shm ({}), where the ranks of a node exchange their data\n"
      "       cures: as root `mkdir -p /dev/shm && mount -t tmpfs -o mode=1777,size=1g tmpfs /dev/shm`; a "
      "container's: `docker run --shm-size=1g`; or parallel.transport \"mpi\" under mpirun",
      path, std::strerror(error)));
}

}  // namespace

struct SharedMemory::Header {
  std::atomic<uint64_t> token;  // token_of(), written last
  std::atomic<uint32_t> attached;
  alignas(64) std::atomic<uint32_t> arrived;  // at the barrier, since its last opening
  alignas(64) std::atomic<uint32_t> openings;
  static_assert(std::atomic<uint64_t>::is_always_lock_free && std::atomic<uint32_t>::is_always_lock_free &&
                sizeof(std::atomic<uint32_t>) == sizeof(uint32_t));
};

SharedMemory::SharedMemory(const std::string& name, int rank, int size, int64_t bytes, double seconds)
    : size_(size), total_bytes_(kPage + bytes), token_(token_of(name, size, bytes)) {
  static_assert(sizeof(Header) <= kPage);
  DITHER_ASSERT(rank >= 0 && rank < size && bytes >= 0 && !name.empty() && name.find('/') == std::string::npos);
  const std::string path = "/" + name;
  const double deadline = now() + seconds;
  Name registered;  // rank 0 takes it away when all have attached or some do not come
  if (rank == 0) {
    create(path);
    registered.path = path;
  } else {
    attach(path, deadline);
  }
  try {
    header_->attached.fetch_add(1);
    if (!wait_until(deadline, [&] { return header_->attached.load() >= static_cast<uint32_t>(size_); })) {
      throw Error(
          fmt::format("shared memory {}: {} of {} ranks attached within {} s; this transport connects the processes of "
                      "ONE node that "
                      "share /dev/shm: use MPI between nodes, and start all ranks in one container",
                      path, header_->attached.load(), size_, seconds));
    }
    registered.path = path;  // and so does whoever sees it first: an error of another rank may end rank 0 right now
  } catch (...) {
    munmap(header_, static_cast<size_t>(total_bytes_));
    throw;
  }
}

SharedMemory::~SharedMemory() { munmap(header_, static_cast<size_t>(total_bytes_)); }

void SharedMemory::create(const std::string& path) {
  File file{shm_open(path.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR)};
  if (file.number < 0) fail_to_create(path, errno);
  Name until_complete{path};
  int failed = EINTR;
  while (failed == EINTR) failed = posix_fallocate(file.number, 0, total_bytes_);
  if (failed == ENOSPC || failed == ENOMEM) {
    throw Error(fmt::format(
        "shared memory {}: /dev/shm has no room for {:.1f} MiB ({}); give it more, as `docker run --shm-size=1g` and "
        "`mount -o remount,size=1g /dev/shm` do, remove what others left there, or use MPI",
        path, static_cast<double>(total_bytes_) / (1 << 20), std::strerror(failed)));
  }
  if (failed != 0) fail(path, "posix_fallocate", failed);
  map(file.number);
  header_->token.store(token_);
  until_complete.path.clear();
}

void SharedMemory::attach(const std::string& path, double deadline) {
  std::string found = "there is no such object";
  File file;
  const bool there = wait_until(deadline, [&] {
    if (file.number < 0) file.number = shm_open(path.c_str(), O_RDWR | O_CLOEXEC, 0);
    if (file.number < 0 && errno != ENOENT) fail(path, "shm_open", errno);
    if (file.number < 0) return false;
    struct stat status {};
    if (fstat(file.number, &status) != 0) fail(path, "fstat", errno);
    found = fmt::format("it has {} bytes, needs {}", status.st_size, total_bytes_);
    return status.st_size == total_bytes_;
  });
  if (there) {
    map(file.number);
    if (wait_until(deadline, [&] { return header_->token.load() != 0; }) && header_->token.load() == token_) return;
    found = fmt::format("its token is {:016x}, needs {:016x}", header_->token.load(), token_);
    munmap(header_, static_cast<size_t>(total_bytes_));
  }
  throw Error(fmt::format(
      "shared memory {}: not what rank 0 of these ranks makes: {}; are all ranks of the same program and on one node, "
      "with one /dev/shm?",
      path, found));
}

void SharedMemory::map(int file) {
  void* memory = mmap(nullptr, static_cast<size_t>(total_bytes_), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory == MAP_FAILED)
    throw Error(fmt::format("shared memory: mmap of {} bytes: {}", total_bytes_, std::strerror(errno)));
  header_ = static_cast<Header*>(memory);  // all zero, as a new object's pages are: its first values
}

std::byte* SharedMemory::memory() const { return reinterpret_cast<std::byte*>(header_) + kPage; }

void SharedMemory::barrier() {
  const uint32_t before = header_->openings.load();
  if (header_->arrived.fetch_add(1) + 1 == static_cast<uint32_t>(size_)) {
    header_->arrived.store(0);
    header_->openings.store(before + 1);
    if (futex(header_->openings, FUTEX_WAKE, INT_MAX) < 0) fail("barrier", "FUTEX_WAKE", errno);
    return;
  }
  for (int look = 0; look < kLooks; ++look) {
    if (header_->openings.load() != before) return;
    std::this_thread::yield();
  }
  while (header_->openings.load() == before) {
    const long answer = futex(header_->openings, FUTEX_WAIT, before);
    if (answer < 0 && errno != EAGAIN && errno != EINTR) fail("barrier", "FUTEX_WAIT", errno);
  }
}

}  // namespace dither
