// The calls of the stand-in for NCCL: what is wrong with one by itself is found at once, the rest is given to its
// stream.
#include "tests/cuda_host/nccl.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "kernels/numerics/bf16.h"
#include "tests/cuda_host/nccl_exchange.h"

namespace {

using namespace dither::cuda_host;
using dither::Bf16;
using Comm = NcclHostComm;

size_t size_of(ncclDataType_t type) {
  return type == ncclBfloat16 ? 2 : type == ncclFloat32 ? 4 : type == ncclInt64 ? 8 : 0;
}

Bf16 add(Bf16 a, Bf16 b) { return dither::round_nearest(to_float(a) + to_float(b)); }
float add(float a, float b) { return a + b; }
int64_t add(int64_t a, int64_t b) { return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b)); }

/// to[i] <- the sum of all parts' element begin + i, along the ring that ends at rank `owner`.
template <class T>
void ring_sum(const Parts& parts, size_t begin, size_t count, size_t owner, void* to) {
  const size_t size = parts.size();
  T* sum = static_cast<T*>(to);
  std::memcpy(to, parts[(owner + 1) % size].data() + begin * sizeof(T), count * sizeof(T));
  for (size_t hop = 2; hop <= size; ++hop) {
    const T* part = reinterpret_cast<const T*>(parts[(owner + hop) % size].data()) + begin;
    for (size_t i = 0; i < count; ++i) sum[i] = add(sum[i], part[i]);
  }
}

void ring_sum(const Parts& parts, const Call& call, size_t begin, size_t count, size_t owner, void* to) {
  if (call.type == ncclBfloat16) ring_sum<Bf16>(parts, begin, count, owner, to);
  if (call.type == ncclFloat32) ring_sum<float>(parts, begin, count, owner, to);
  if (call.type == ncclInt64) ring_sum<int64_t>(parts, begin, count, owner, to);
}

/// A collective, when its stream comes to it.
void run(Comm& comm, const Call& call, const void* from, size_t bytes, char* to) {
  Parts parts;
  if (comm.gone || comm.error != ncclSuccess || !gather(comm, call, from, bytes, parts)) return;
  const size_t count = call.count, wide = size_of(call.type), ranks = parts.size();
  if (call.kind == Kind::all_reduce) {
    const size_t share = (count + ranks - 1) / ranks;
    for (size_t owner = 0; owner < ranks; ++owner) {
      const size_t begin = std::min(count, owner * share), end = std::min(count, begin + share);
      ring_sum(parts, call, begin, end - begin, owner, to + begin * wide);
    }
  } else if (call.kind == Kind::reduce_scatter) {
    const auto rank = static_cast<size_t>(comm.rank);
    ring_sum(parts, call, rank * count, count, rank, to);
  } else {  // what came is put in the order of ranks; in a broadcast, all but one is empty
    for (const std::vector<char>& part : parts) to = std::copy(part.begin(), part.end(), to);
  }
}

/// Whether the latest work was recorded in a graph instead of queued.
bool recorded(const Comm& comm) {
  float unused = 0;
  return cudaEventElapsedTime(&unused, comm.last, comm.last) == cudaErrorCapturedEvent;
}

/// Gives work to the stream, behind what the communicator has been given before. Where one of the two is recorded in a
/// graph and the other is not, their order is the program's affair: the calls about it fail, and that is all.
template <class Work>
ncclResult_t queue(ncclComm_t comm, cudaStream_t stream, Work work) {
  if (cudaStreamWaitEvent(stream, comm->last, 0) == cudaErrorInvalidResourceHandle) {
    return refuse(ncclUnhandledCudaError, "there is no such stream");
  }
  (void)cudaEventRecord(comm->last, stream);
  const std::shared_ptr<int> held = recorded(*comm) ? comm->graphs : nullptr;
  enqueue(stream, [held, work = std::move(work)] { work(); });
  (void)cudaEventRecord(comm->last, stream);
  return ncclSuccess;
}

struct Group {
  int depth = 0;
  ncclResult_t error = ncclSuccess;
  ncclComm_t comm = nullptr;
  cudaStream_t stream = nullptr;
  std::vector<Transfer> transfers;
};
Group g_group;

/// What is wrong with a call by itself.
ncclResult_t check(ncclComm_t comm, ncclDataType_t type, int peer) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  if (comm->error != ncclSuccess) return comm->error;
  if (size_of(type) == 0) return refuse(ncclInvalidArgument, "the host has no data type " + std::to_string(type));
  if (peer < 0 || peer >= comm->size) return refuse(ncclInvalidArgument, "there is no rank " + std::to_string(peer));
  return ncclSuccess;
}

/// `offset`: where, in the larger of both buffers, the other one is in place.
ncclResult_t collective(const Call& call, const void* from, size_t given, void* to, size_t taken, size_t offset,
                        ncclComm_t comm, cudaStream_t stream) {
  if (g_group.depth > 0) return g_group.error = refuse(ncclInvalidUsage, "the host has no collectives in groups");
  if (from == nullptr || to == nullptr) return refuse(ncclInvalidArgument, "a buffer is null");
  const char* begin = static_cast<const char*>(from);
  char* out = static_cast<char*>(to);
  const bool in_place = given >= taken ? out == begin + offset : begin == out + offset;
  if (!in_place && begin < out + taken && out < begin + given) {
    return refuse(ncclInvalidArgument, "buffers overlap, but not in place: " + text_of(call));
  }
  return queue(comm, stream, [=, shared = comm->self] { run(*shared, call, from, given, out); });
}

ncclResult_t message(const void* from, void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                     cudaStream_t stream) {
  ncclResult_t result = check(comm, type, peer);
  if (result == ncclSuccess && from == nullptr && to == nullptr) result = refuse(ncclInvalidArgument, "null buffer");
  if (result == ncclSuccess && g_group.comm != nullptr && (g_group.comm != comm || g_group.stream != stream)) {
    result = refuse(ncclInvalidUsage, "on the host, a group has one communicator and one stream");
  }
  if (result != ncclSuccess) {
    if (g_group.depth > 0) g_group.error = result;
    return result;
  }
  (void)ncclGroupStart();  // by itself: a group of one
  g_group.comm = comm;
  g_group.stream = stream;
  g_group.transfers.push_back({peer,
                               {Kind::message, type, count, -1},
                               count * size_of(type),
                               static_cast<const char*>(from),
                               static_cast<char*>(to)});
  return ncclGroupEnd();
}

/// The handle is no more; queued work may still hold the rest. Where a graph does, NCCL would wait for its end, which
/// would be for ever.
void release(ncclComm_t comm) {
  comm->gone = true;
  (void)cudaEventDestroy(std::exchange(comm->last, nullptr));
  const std::shared_ptr<Comm> share = std::move(comm->self);
  if (share->graphs.use_count() == 1) return;
  std::fputs("stand-in for NCCL: a communicator is destroyed before the graphs that hold its work\n", stderr);
  std::abort();
}

}  // namespace

const char* ncclGetErrorString(ncclResult_t result) {
  switch (result) {
    case ncclSuccess:
      return "no error";
    case ncclUnhandledCudaError:
      return "unhandled cuda error (run with NCCL_DEBUG=INFO for details)";
    case ncclSystemError:
      return "unhandled system error (run with NCCL_DEBUG=INFO for details)";
    case ncclInternalError:
      return "internal error";
    case ncclInvalidArgument:
      return "invalid argument (run with NCCL_DEBUG=WARN for details)";
    case ncclInvalidUsage:
      return "invalid usage (run with NCCL_DEBUG=WARN for details)";
    case ncclRemoteError:
      return "remote process exited or there was a network error";
  }
  return "unknown result code";
}

const char* ncclGetLastError(ncclComm_t) { return last_error(); }

ncclResult_t ncclGetVersion(int* version) {
  *version = NCCL_VERSION_CODE;
  return ncclSuccess;
}

/// Random bytes, zeros among them: the id is not text.
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  std::random_device random;
  for (char& byte : id->internal) byte = static_cast<char>(random());
  id->internal[1] = '\0';
  return ncclSuccess;
}

/// The object's name depends on every byte of the id.
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank) {
  uint64_t hash = 0xCBF29CE484222325u;  // FNV-1a
  for (const char byte : id.internal) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001B3u;
  return attach("/dither-nccl-" + std::to_string(hash), size, rank, comm);
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* part, ncclConfig_t*) {
  *part = nullptr;
  if (const ncclResult_t bad = check(comm, ncclInt64, 0); bad != ncclSuccess) return bad;
  if (color < 0 && color != NCCL_SPLIT_NOCOLOR) return refuse(ncclInvalidArgument, "color " + std::to_string(color));
  float unused = 0;
  if (cudaEventElapsedTime(&unused, comm->last, comm->last) == cudaErrorNotReady) {
    return refuse(ncclInvalidUsage, "ncclCommSplit while work is under way: it may never return");
  }
  const std::array<int32_t, 2> mine = {color, key};
  Parts parts;
  if (!gather(*comm, {Kind::split, ncclInt64, 1, -1}, mine.data(), sizeof mine, parts)) return comm->error;
  const int number = comm->splits++;
  if (color == NCCL_SPLIT_NOCOLOR) return ncclSuccess;
  int size = 0, rank = 0;
  for (int other = 0; other < comm->size; ++other) {
    std::array<int32_t, 2> theirs;
    std::memcpy(theirs.data(), parts[static_cast<size_t>(other)].data(), sizeof theirs);
    if (theirs[0] != color) continue;
    ++size;
    if (std::pair(theirs[1], other) < std::pair(key, comm->rank)) ++rank;
  }
  return attach(comm->name + "." + std::to_string(number) + "." + std::to_string(color), size, rank, part);
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  if (!recorded(*comm)) (void)cudaEventSynchronize(comm->last);
  release(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  comm->fail(ncclInvalidUsage, "aborted");
  release(comm);
  return ncclSuccess;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  *error = comm->error;
  return ncclSuccess;
}

ncclResult_t ncclCommCount(ncclComm_t comm, int* size) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  *size = comm->size;
  return ncclSuccess;
}

ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank) {
  if (comm == nullptr) return refuse(ncclInvalidArgument, "the communicator is null");
  *rank = comm->rank;
  return ncclSuccess;
}

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t, ncclComm_t comm,
                           cudaStream_t stream) {
  if (const ncclResult_t bad = check(comm, type, 0); bad != ncclSuccess) return bad;
  const size_t bytes = count * size_of(type);
  return collective({Kind::all_reduce, type, count, -1}, from, bytes, to, bytes, 0, comm, stream);
}

ncclResult_t ncclReduceScatter(const void* from, void* to, size_t each, ncclDataType_t type, ncclRedOp_t,
                               ncclComm_t comm, cudaStream_t stream) {
  if (const ncclResult_t bad = check(comm, type, 0); bad != ncclSuccess) return bad;
  const size_t bytes = each * size_of(type), ranks = static_cast<size_t>(comm->size);
  return collective({Kind::reduce_scatter, type, each, -1}, from, ranks * bytes, to, bytes,
                    static_cast<size_t>(comm->rank) * bytes, comm, stream);
}

ncclResult_t ncclAllGather(const void* from, void* to, size_t each, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
  if (const ncclResult_t bad = check(comm, type, 0); bad != ncclSuccess) return bad;
  const size_t bytes = each * size_of(type), ranks = static_cast<size_t>(comm->size);
  return collective({Kind::all_gather, type, each, -1}, from, bytes, to, ranks * bytes,
                    static_cast<size_t>(comm->rank) * bytes, comm, stream);
}

ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream) {
  if (const ncclResult_t bad = check(comm, type, root); bad != ncclSuccess) return bad;
  const size_t bytes = count * size_of(type);
  return collective({Kind::broadcast, type, count, root}, from, bytes, to, bytes, 0, comm, stream);
}

ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
  return message(from, nullptr, count, type, peer, comm, stream);
}
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
  return message(nullptr, to, count, type, peer, comm, stream);
}

ncclResult_t ncclGroupStart() {
  ++g_group.depth;
  return ncclSuccess;
}

ncclResult_t ncclGroupEnd() {
  if (g_group.depth == 0) return refuse(ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
  if (--g_group.depth > 0) return ncclSuccess;
  Group group = std::exchange(g_group, {});
  if (group.error != ncclSuccess || group.transfers.empty()) return group.error;
  return queue(group.comm, group.stream, [shared = group.comm->self, transfers = std::move(group.transfers)] {
    if (!shared->gone && shared->error == ncclSuccess) (void)exchange(*shared, transfers);
  });
}
