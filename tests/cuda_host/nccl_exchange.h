// How the ranks of the stand-in for NCCL reach each other: an object of shared memory a communicator, with a channel
// from every rank to every rank. All there is goes through exchange(): messages one by one, and a collective as a
// message from everybody to everybody, which also says what the sender takes the collective to be.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/cuda_host/nccl.h"

struct NcclHostShared;

/// One rank's end of a communicator. What it has queued shares it.
struct NcclHostComm {
  std::string name;
  int rank = 0, size = 0;
  NcclHostShared* shared = nullptr;
  cudaEvent_t last = nullptr;                             // after the latest work
  ncclResult_t error = ncclSuccess;                       // the asynchronous one
  int splits = 0;                                         // so far
  bool gone = false;                                      // destroyed or aborted
  std::shared_ptr<NcclHostComm> self;                     // the program's share
  std::shared_ptr<int> graphs = std::make_shared<int>();  // shared with work that is recorded in one

  NcclHostComm() = default;
  ~NcclHostComm();
  NcclHostComm(const NcclHostComm&) = delete;
  NcclHostComm& operator=(const NcclHostComm&) = delete;
  /// The first failure is kept, and every peer learns that there is one.
  void fail(ncclResult_t result, const std::string& why);
};

namespace dither::cuda_host {

enum class Kind : uint32_t { message, all_reduce, reduce_scatter, all_gather, broadcast, split };

/// What a rank takes a call to be; its peers must take it to be the same.
struct Call {
  Kind kind;
  ncclDataType_t type;
  uint64_t count;  // as the call says it
  int32_t root;    // -1: none
  friend bool operator==(const Call&, const Call&) = default;
};
std::string text_of(const Call& call);

/// A message under way: from this rank if `from` is set, else to it.
struct Transfer {
  int peer;
  Call call;
  size_t bytes;
  const char* from;
  char* to;
  size_t moved = 0;
  bool begun = false, done = false;
};

/// Keeps the text for ncclGetLastError, and returns `result`.
ncclResult_t refuse(ncclResult_t result, const std::string& why);
const char* last_error();

/// The object `name`, made by the rank that comes first; returns when `size` ranks are there.
ncclResult_t attach(const std::string& name, int size, int rank, ncclComm_t* comm);

/// Returns when all are done, or false when the communicator is broken: calls do not match, a peer has failed or
/// aborted, or does nothing for a minute.
bool exchange(NcclHostComm& comm, std::vector<Transfer> transfers);

using Parts = std::vector<std::vector<char>>;  // [rank] what it gave
/// Every rank gives `bytes` to all, or with a root that rank alone, the others an empty message; false: broken.
bool gather(NcclHostComm& comm, const Call& call, const void* mine, size_t bytes, Parts& parts);

}  // namespace dither::cuda_host
