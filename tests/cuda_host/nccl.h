// The part of NCCL that the communicator uses, on the host: between processes, over shared memory. Names, values and
// meaning are NCCL's (nccl.h of 2.28); what it leaves open is chosen so that a program which relies on it fails:
//
//   late      work is given to the streams of cuda_runtime.h: it runs, and reads its buffers, when somebody waits
//   order     a communicator's work is done in the order of its calls, whichever stream it was given to
//   groups    messages of a group are one piece of work, given to the stream by ncclGroupEnd, all under way at once;
//             one outside of a group keeps its stream until the peer has taken it
//   sums      along a ring that begins behind the rank whose part an element is, in the type of the data: BF16 is
//             rounded at each hop. So they differ from sums in the order of ranks
//   graphs    a communicator must outlive those that hold its work: NCCL would wait for them, here the program ends
//   in place  exactly as nccl.h says; a buffer that overlaps otherwise is ncclInvalidArgument
//   failures  calls that do not match between ranks, and a peer that aborted, are asynchronous errors: the stream
//             goes on, the result is missing, ncclCommGetAsyncError and later calls say so. So is a minute's silence
#pragma once

#include <cstddef>

#include "tests/cuda_host/cuda_runtime.h"

#define NCCL_VERSION(X, Y, Z) ((X)*10000 + (Y)*100 + (Z))  // as it is since 2.9
#define NCCL_VERSION_CODE NCCL_VERSION(2, 28, 9)
#define NCCL_UNIQUE_ID_BYTES 128
#define NCCL_SPLIT_NOCOLOR (-1)

struct NcclHostComm;
using ncclComm_t = NcclHostComm*;
struct ncclUniqueId {
  char internal[NCCL_UNIQUE_ID_BYTES];
};
struct ncclConfig_t;  // communicators of the defaults alone are made here

enum ncclResult_t {
  ncclSuccess = 0,
  ncclUnhandledCudaError = 1,
  ncclSystemError = 2,
  ncclInternalError = 3,
  ncclInvalidArgument = 4,
  ncclInvalidUsage = 5,
  ncclRemoteError = 6,
};
enum ncclDataType_t { ncclInt64 = 4, ncclFloat32 = 7, ncclBfloat16 = 9 };
enum ncclRedOp_t { ncclSum = 0 };

const char* ncclGetErrorString(ncclResult_t result);
/// Of this process; the communicator is not looked at.
const char* ncclGetLastError(ncclComm_t comm);
ncclResult_t ncclGetVersion(int* version);

ncclResult_t ncclGetUniqueId(ncclUniqueId* id);
/// Returns when all ranks are there.
ncclResult_t ncclCommInitRank(ncclComm_t* comm, int size, ncclUniqueId id, int rank);
/// All ranks call it, while nothing is under way.
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* part, ncclConfig_t* config);
/// Waits for what is under way.
ncclResult_t ncclCommDestroy(ncclComm_t comm);
/// Drops it, and wakes the peers.
ncclResult_t ncclCommAbort(ncclComm_t comm);
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* error);
ncclResult_t ncclCommCount(ncclComm_t comm, int* size);
ncclResult_t ncclCommUserRank(ncclComm_t comm, int* rank);

ncclResult_t ncclAllReduce(const void* from, void* to, size_t count, ncclDataType_t type, ncclRedOp_t op,
                           ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclReduceScatter(const void* from, void* to, size_t each, ncclDataType_t type, ncclRedOp_t op,
                               ncclComm_t comm, cudaStream_t stream);
ncclResult_t ncclAllGather(const void* from, void* to, size_t each, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream);
ncclResult_t ncclBroadcast(const void* from, void* to, size_t count, ncclDataType_t type, int root, ncclComm_t comm,
                           cudaStream_t stream);
ncclResult_t ncclSend(const void* from, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream);
ncclResult_t ncclRecv(void* to, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream);
/// Of sends and receives of one communicator and one stream.
ncclResult_t ncclGroupStart();
ncclResult_t ncclGroupEnd();
