// The collectives of a communicator, each by the call of NCCL that does it: queued on its stream, done in its order.
//
//   all_reduce      ncclAllReduce in place
//   reduce_scatter  ncclReduceScatter; in place where `to` is this rank's part of `from`, as NCCL has it
//   all_gather      ncclAllGather; likewise
//   all_to_all      one group of ncclSend and ncclRecv, this rank's own part among them
//   broadcast       ncclBroadcast in place
//
// A communicator that blocks: a call returns once its work is queued, and the first ones wait for the peers to connect.
// Who waits for a rank that never comes is ended by the watchdog (control.h), which has a thread of its own. NCCL finds
// what goes wrong later by itself and keeps it (ncclCommGetAsyncError); every method asks for that first.
//
// Host code only. Compiled as plain C++, as the tests do, NCCL's calls are those of the host's stand-in.
#ifdef __CUDACC__
#include <nccl.h>
#else
#include "tests/cuda_host/nccl.h"
#endif

#include <cstdlib>
#include <cstring>
#include <exception>
#include <string>

#include "base/error.h"
#include "kernels/cuda/status.h"
#include "src/parallel/nccl_communicator.h"

#if NCCL_VERSION_CODE < NCCL_VERSION(2, 18, 1)
#error "Dither needs NCCL 2.18.1 or newer, for ncclCommSplit. Debian/Ubuntu, from NVIDIA's repository: libnccl-dev"
#endif

namespace dither {

namespace {

/// Throws Error "NCCL all_reduce, rank 1 of 4: <NCCL's text>; <its last message>; ..., <file>:61" unless it succeeded.
void check_nccl(ncclResult_t status, const std::string& operation, int line) {
  if (status == ncclSuccess) return;
  const char* detail = ncclGetLastError(nullptr);  // the process's last: NCCL does not look at the communicator
  std::string text = "NCCL " + operation + ": " + ncclGetErrorString(status);
  if (detail != nullptr && *detail != '\0') text.append("; NCCL says: ").append(detail);
  throw Error(text + "; NCCL_DEBUG=WARN in the environment makes it say more, " + __FILE__ + ":" +
              std::to_string(line));
}

/// Sums are formed in these; what is only moved may have any type of the same size, and NCCL has no int16.
ncclDataType_t type_of(DType type) {
  DITHER_ASSERT(type != DType::none);
  switch (type) {
    case DType::fp32:
      return ncclFloat32;
    case DType::int64:
      return ncclInt64;
    default:
      return ncclBfloat16;
  }
}

ncclDataType_t sum_type_of(DType type) {
  DITHER_ASSERT(type != DType::int16);
  return type_of(type);
}

cudaStream_t stream_of(Stream stream) { return static_cast<cudaStream_t>(stream.handle); }

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(ncclComm_t comm, int rank, int size, bool calls_alone = false)
      : Communicator(rank, size, calls_alone), comm_(comm) {}
  ~NcclCommunicator() override;

  std::unique_ptr<Communicator> split(int color, int key) override;
  void abort() override {
    if (comm_ != nullptr) (void)ncclCommAbort(comm_);
    comm_ = nullptr;
  }
  std::string description() const override;

 private:
  void do_all_reduce(View data, int64_t elements, Stream stream) override;
  void do_reduce_scatter(View to, ConstView from, int64_t each, Stream stream) override;
  void do_all_gather(View to, ConstView from, int64_t each, Stream stream) override;
  void do_all_to_all(const AllToAll& exchange, Stream stream) override;
  void do_broadcast(View data, int64_t elements, int root, Stream stream) override;
  void do_copy(void* to, const void* from, int64_t bytes, Stream stream) override;

  ncclResult_t queue_messages(const AllToAll& exchange, cudaStream_t stream);
  void check(ncclResult_t status, const char* operation, int line = __builtin_LINE());
  void check_earlier(const char* operation, int line = __builtin_LINE());

  ncclComm_t comm_;
  const int exceptions_ = std::uncaught_exceptions();
  bool broken_ = false;  // a call has failed
};

/// A destructor that runs because of an error must not wait for peers which the error keeps away: it aborts, which also
/// stops what this rank has queued. The status is of no use there.
NcclCommunicator::~NcclCommunicator() {
  if (comm_ == nullptr) return;  // aborted
  if (broken_ || std::uncaught_exceptions() > exceptions_) {
    (void)ncclCommAbort(comm_);
  } else {
    (void)ncclCommDestroy(comm_);
  }
}

void NcclCommunicator::check(ncclResult_t status, const char* operation, int line) {
  if (status == ncclSuccess) return;
  broken_ = true;
  check_nccl(status, std::string(operation) + ", rank " + std::to_string(rank()) + " of " + std::to_string(size()),
             line);
}

/// Before each call: what became of those that were queued before.
void NcclCommunicator::check_earlier(const char* operation, int line) {
  ncclResult_t earlier = ncclSuccess;
  check(ncclCommGetAsyncError(comm_, &earlier), operation, line);
  check(earlier, (std::string("communication before this ") + operation).c_str(), line);
}

void NcclCommunicator::do_all_reduce(View data, int64_t elements, Stream stream) {
  check_earlier("all_reduce");
  check(ncclAllReduce(data.data, data.data, static_cast<size_t>(elements), sum_type_of(data.type), ncclSum, comm_,
                      stream_of(stream)),
        "all_reduce");
}

void NcclCommunicator::do_reduce_scatter(View to, ConstView from, int64_t each, Stream stream) {
  check_earlier("reduce_scatter");
  check(ncclReduceScatter(from.data, to.data, static_cast<size_t>(each), sum_type_of(to.type), ncclSum, comm_,
                          stream_of(stream)),
        "reduce_scatter");
}

void NcclCommunicator::do_all_gather(View to, ConstView from, int64_t each, Stream stream) {
  check_earlier("all_gather");
  check(ncclAllGather(from.data, to.data, static_cast<size_t>(each), type_of(to.type), comm_, stream_of(stream)),
        "all_gather");
}

void NcclCommunicator::do_all_to_all(const AllToAll& exchange, Stream stream) {
  check_earlier("all_to_all");
  check(ncclGroupStart(), "all_to_all");
  const ncclResult_t queued = queue_messages(exchange, stream_of(stream));
  const ncclResult_t ended = ncclGroupEnd();  // also after a failure: a group that stays open would swallow later calls
  check(queued, "all_to_all");
  check(ended, "all_to_all");
}

/// To and from every rank, until one of them fails.
ncclResult_t NcclCommunicator::queue_messages(const AllToAll& exchange, cudaStream_t stream) {
  const ncclDataType_t type = type_of(exchange.to.type);
  const auto elements = static_cast<size_t>(exchange.elements);
  ncclResult_t status = ncclSuccess;
  for (int to = 0; to < size() && rank() < exchange.senders && status == ncclSuccess; ++to) {
    status = ncclSend(exchange.from.at(exchange.from_offsets[to]).data, elements, type, to, comm_, stream);
  }
  for (int from = 0; from < exchange.senders && status == ncclSuccess; ++from) {
    status = ncclRecv(exchange.to.at(from * exchange.to_stride).data, elements, type, from, comm_, stream);
  }
  return status;
}

void NcclCommunicator::do_broadcast(View data, int64_t elements, int root, Stream stream) {
  check_earlier("broadcast");
  check(ncclBroadcast(data.data, data.data, static_cast<size_t>(elements), type_of(data.type), root, comm_,
                      stream_of(stream)),
        "broadcast");
}

void NcclCommunicator::do_copy(void* to, const void* from, int64_t bytes, Stream stream) {
  check_cuda(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyDefault, stream_of(stream)), "copy");
}

std::unique_ptr<Communicator> NcclCommunicator::split(int color, int key) {
  DITHER_ASSERT(color >= 0);                             // NCCL takes -1 for "none"
  check_cuda(cudaDeviceSynchronize(), "split by NCCL");  // it may wait for ever while collectives are under way
  check_earlier("split");
  ncclComm_t part = nullptr;
  check(ncclCommSplit(comm_, color, key, &part, nullptr), "split");
  int part_rank = 0, part_size = 0;
  check(ncclCommUserRank(part, &part_rank), "split");
  check(ncclCommCount(part, &part_size), "split");
  return std::make_unique<NcclCommunicator>(part, part_rank, part_size);
}

/// Of the library in use, which may be newer than the header: from 2.9 on 2.28.9 is 22809.
std::string NcclCommunicator::description() const {
  int version = 0;
  check_nccl(ncclGetVersion(&version), "version", __LINE__);
  return "NCCL " + std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace

bool built_with_nccl() { return true; }

std::unique_ptr<Communicator> make_nccl_communicator(Control& control, const RankEnvironment& environment) {
  const char* blocking = std::getenv("NCCL_COMM_BLOCKING");
  if (blocking != nullptr && std::strcmp(blocking, "0") == 0) {
    throw Error(
        "NCCL_COMM_BLOCKING=0 makes NCCL's calls return before they are done, which this program does not "
        "expect; unset it");
  }
  int device = 0;
  check_cuda(cudaGetDevice(&device), "the device for NCCL");
  const std::string who = "rank " + std::to_string(control.rank()) + " of " + std::to_string(control.size()) +
                          " (on its node rank " + std::to_string(environment.local_rank) + ", device " +
                          std::to_string(device) + ")";
  ncclUniqueId id = {};
  if (control.rank() == 0) check_nccl(ncclGetUniqueId(&id), "making an id, " + who, __LINE__);
  const std::string text = control.broadcast(std::string(id.internal, sizeof id.internal));
  if (text.size() != sizeof id.internal) {
    throw Error("NCCL's id has " + std::to_string(text.size()) + " bytes, needs " + std::to_string(sizeof id.internal) +
                ": do all ranks run the same program?");
  }
  std::memcpy(id.internal, text.data(), sizeof id.internal);
  ncclComm_t comm = nullptr;
  check_nccl(ncclCommInitRank(&comm, control.size(), id, control.rank()),
             "connecting " + who + ", each on a device of its own", __LINE__);
  return std::make_unique<NcclCommunicator>(comm, control.rank(), control.size(), true);
}

}  // namespace dither
