// The stand-in for NCCL itself (tests/cuda_host/nccl.h), where the communicator does not show it: messages outside of
// groups, the order of adding, what is refused.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <functional>
#include <vector>

#include "kernels/numerics/bf16.h"
#include "tests/catch.h"
#include "tests/cuda_host/nccl.h"
#include "tests/parallel/processes.h"

namespace dither {
namespace {

using Numbers = std::vector<float>;

struct Rank {
  int rank, size;
  ncclComm_t comm;
  cudaStream_t stream;
  Complaints& complaints;

  void expect(ncclResult_t found, ncclResult_t expected, const std::string& what) const {
    complaints.expect(found == expected, what + ": " + ncclGetErrorString(found) + "; " + ncclGetLastError(comm));
  }
  void succeed(ncclResult_t found, const std::string& what) const { expect(found, ncclSuccess, what); }
  void wait() const { complaints.expect(cudaStreamSynchronize(stream) == cudaSuccess, "waiting for the stream"); }
  ncclResult_t later_error() const {
    ncclResult_t error = ncclSuccess;
    succeed(ncclCommGetAsyncError(comm, &error), "asking for an error");
    return error;
  }
};

/// Ranks with a communicator and a stream, and no more; nothing must be left of them.
std::string run_stand_in(int ranks, const std::function<void(const Rank&)>& body) {
  ncclUniqueId id;
  if (ncclGetUniqueId(&id) != ncclSuccess) return "no id";
  return run_ranks(ranks, [&](int rank, Complaints& complaints) {
    Rank self = {rank, ranks, nullptr, nullptr, complaints};
    self.succeed(ncclCommInitRank(&self.comm, ranks, id, rank), "meeting");
    complaints.expect(cudaStreamCreateWithFlags(&self.stream, cudaStreamNonBlocking) == cudaSuccess, "a stream");
    if (!complaints.text().empty()) return;
    body(self);
    self.succeed(ncclCommDestroy(self.comm), "destruction");
    complaints.expect(cudaStreamDestroy(self.stream) == cudaSuccess, "the stream's destruction");
    complaints.expect(cuda_host::live_objects() == 0, "something is left");
  });
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

// Catches: rounding once, in FP32, the order of ranks, one order for all elements.
TEST_CASE("BF16 sums are rounded at each hop of a ring that ends at the owner of the element") {
  const auto body = [](const Rank& rank) {
    // 256 + 1 is 256 in BF16 (a tie, to even), 1 + 1 + 256 is 258. Element i belongs to rank i, and rank i + 1
    // is where its sum begins: of 256, 1, 1 at ranks 0, 1, 2 those of elements 0 and 1 end or go on with 256.
    const Bf16 mine = round_nearest(rank.rank == 0 ? 256.0f : 1.0f);
    const float expected[] = {258, 256, 256};
    std::vector<Bf16> all(3, mine), parts(3, mine);
    Bf16 part;
    rank.succeed(ncclAllReduce(all.data(), all.data(), 3, ncclBfloat16, ncclSum, rank.comm, rank.stream), "all-reduce");
    rank.succeed(ncclReduceScatter(parts.data(), &part, 1, ncclBfloat16, ncclSum, rank.comm, rank.stream),
                 "reduce-scatter");
    rank.wait();
    for (size_t i = 0; i < 3; ++i) {
      rank.complaints.expect(to_float(all[i]) == expected[i],
                             "sum " + std::to_string(i) + " is " + std::to_string(to_float(all[i])));
    }
    rank.complaints.expect(to_float(part) == expected[rank.rank], "the part is " + std::to_string(to_float(part)));
  };
  REQUIRE(run_stand_in(3, body) == "");
}

// Catches: a send that is done once its bytes have left.
TEST_CASE("a message outside of a group keeps its stream until the peer takes it") {
  const auto body = [](const Rank& rank) {
    const int peer = 1 - rank.rank;
    double came = 0, word = 1;
    if (rank.rank == 0) {
      rank.succeed(ncclSend(&word, 1, ncclInt64, peer, rank.comm, rank.stream), "sending");
      rank.wait();
      const double done = now();
      rank.succeed(ncclRecv(&came, 1, ncclInt64, peer, rank.comm, rank.stream), "receiving");
      rank.wait();
      rank.complaints.expect(done >= came, "done before the peer came");
    } else {
      usleep(100'000);
      came = now();
      rank.succeed(ncclRecv(&word, 1, ncclInt64, peer, rank.comm, rank.stream), "receiving");
      rank.succeed(ncclSend(&came, 1, ncclInt64, peer, rank.comm, rank.stream), "sending");
      rank.wait();
    }
  };
  REQUIRE(run_stand_in(2, body) == "");
}

// Catches: messages of a group one after another (every rank would wait for a peer that sends), several to one peer in
// another order, windows mixed up, work given to the stream before the group ends.
TEST_CASE("the messages of a group are under way at once, those between two ranks in order") {
  const auto body = [](const Rank& rank) {
    constexpr size_t kLong = 30'000;  // FP32 numbers: several windows
    const auto number = [](int from, int to, int piece) { return static_cast<float>(100 * from + 10 * to + piece); };
    std::vector<Numbers> sent, received;
    rank.succeed(ncclGroupStart(), "a group");
    rank.succeed(ncclGroupStart(), "a group within it");
    for (int peer = 0; peer < rank.size; ++peer) {
      for (int piece = 0; piece < 2; ++piece) {
        const size_t count = piece == 0 ? kLong : 1;
        sent.push_back(Numbers(count, number(rank.rank, peer, piece)));
        received.push_back(Numbers(count));
        rank.succeed(ncclSend(sent.back().data(), count, ncclFloat32, peer, rank.comm, rank.stream), "sending");
        rank.succeed(ncclRecv(received.back().data(), count, ncclFloat32, peer, rank.comm, rank.stream), "receiving");
      }
    }
    rank.succeed(ncclGroupEnd(), "the end of the group within");
    rank.wait();
    rank.complaints.expect(received[0] == Numbers(kLong), "before the group ended");
    rank.succeed(ncclGroupEnd(), "the end");
    rank.wait();
    for (int peer = 0; peer < rank.size; ++peer) {
      rank.complaints.expect(received[2 * peer] == Numbers(kLong, number(peer, rank.rank, 0)), "a long message");
      rank.complaints.expect(received[2 * peer + 1] == Numbers(1, number(peer, rank.rank, 1)), "a short one");
    }
  };
  REQUIRE(run_stand_in(3, body) == "");
}

// Catches: buffers that overlap taken for in place, in place refused, a group that runs in spite of a wrong call.
TEST_CASE("what is wrong with a call by itself is refused at once, and does no harm to the communicator") {
  const auto body = [](const Rank& rank) {
    Numbers memory(16, 1.0f);
    float* data = memory.data();
    const size_t other = rank.rank == 0 ? 1 : 0;  // the other rank's place
    const auto refused = [&](ncclResult_t found, const std::string& what) {
      rank.expect(found, ncclInvalidArgument, what);
    };
    refused(ncclAllReduce(data, data + 1, 4, ncclFloat32, ncclSum, rank.comm, rank.stream), "all-reduce, shifted");
    refused(ncclAllReduce(data + 1, data, 4, ncclFloat32, ncclSum, rank.comm, rank.stream), "all-reduce, back");
    refused(ncclBroadcast(data, data + 3, 4, ncclFloat32, 0, rank.comm, rank.stream), "broadcast, shifted");
    refused(ncclReduceScatter(data, data + 2 * other, 2, ncclFloat32, ncclSum, rank.comm, rank.stream),
            "reduce-scatter into the other's place");
    refused(ncclAllGather(data + 2 * other, data, 2, ncclFloat32, rank.comm, rank.stream),
            "all-gather from the other's place");
    refused(ncclAllReduce(nullptr, data, 4, ncclFloat32, ncclSum, rank.comm, rank.stream), "a null buffer");
    refused(ncclAllReduce(data, data, 4, ncclDataType_t(3), ncclSum, rank.comm, rank.stream), "a strange type");
    refused(ncclBroadcast(data, data, 4, ncclFloat32, 2, rank.comm, rank.stream), "a root that is not there");
    refused(ncclAllReduce(data, data, 4, ncclFloat32, ncclSum, nullptr, rank.stream), "no communicator");
    rank.expect(ncclGroupEnd(), ncclInvalidUsage, "the end of no group");

    rank.succeed(ncclGroupStart(), "a group");
    rank.succeed(ncclSend(data, 1, ncclFloat32, 1 - rank.rank, rank.comm, rank.stream), "sending");
    refused(ncclRecv(data + 1, 1, ncclFloat32, 7, rank.comm, rank.stream), "a peer that is not there");
    refused(ncclGroupEnd(), "the end of a wrong group");

    const auto place = static_cast<size_t>(rank.rank);
    rank.succeed(ncclAllReduce(data, data, 4, ncclFloat32, ncclSum, rank.comm, rank.stream), "all-reduce");
    rank.succeed(ncclReduceScatter(data, data + 2 * place, 2, ncclFloat32, ncclSum, rank.comm, rank.stream),
                 "reduce-scatter");
    rank.succeed(ncclAllGather(data + 2 * place, data, 2, ncclFloat32, rank.comm, rank.stream), "all-gather");
    rank.wait();
    rank.succeed(rank.later_error(), "a later error");
    rank.complaints.expect(Numbers(data, data + 5) == Numbers({4, 4, 4, 4, 1}), "the sums in place");
  };
  REQUIRE(run_stand_in(2, body) == "");
}

// Catches: a split that waits for ever, as NCCL's may; ranks with no color in a group.
TEST_CASE("a split while work is under way is refused, and a rank may be left out") {
  const auto body = [](const Rank& rank) {
    float one = 1;
    ncclComm_t part = rank.comm;
    rank.succeed(ncclAllReduce(&one, &one, 1, ncclFloat32, ncclSum, rank.comm, rank.stream), "all-reduce");
    rank.expect(ncclCommSplit(rank.comm, 0, 0, &part, nullptr), ncclInvalidUsage, "an early split");
    rank.wait();
    const int color = rank.rank == 1 ? NCCL_SPLIT_NOCOLOR : 4;
    rank.succeed(ncclCommSplit(rank.comm, color, 0, &part, nullptr), "split");
    rank.complaints.expect((part == nullptr) == (rank.rank == 1), "who is left out");
    if (part == nullptr) return;
    int size = 0, place = -1;
    rank.succeed(ncclCommCount(part, &size), "size");
    rank.succeed(ncclCommUserRank(part, &place), "rank");
    rank.complaints.expect(size == 2 && place == rank.rank / 2, "equal keys: by rank");
    rank.succeed(ncclCommDestroy(part), "destruction");
  };
  REQUIRE(run_stand_in(3, body) == "");
}

// Catches: processes that take the same place, or wait for different numbers of ranks, for ever.
TEST_CASE("two ranks of the same number, and ranks that disagree on how many they are, are refused") {
  ncclUniqueId id;
  REQUIRE(ncclGetUniqueId(&id) == ncclSuccess);
  int twice[2], counted[2];  // pipes: the second of two ranks 0 has been refused; so has who says three ranks
  REQUIRE(pipe(twice) == 0);
  REQUIRE(pipe(counted) == 0);
  const std::string text = run_ranks(4, [&](int process, Complaints& complaints) {
    char byte = 0;
    const auto say = [&](int file) { complaints.expect(write(file, &byte, 1) == 1, "writing"); };
    const auto hear = [&](int file) { complaints.expect(read(file, &byte, 1) == 1, "reading"); };
    const auto meet = [&](int size, int rank) {
      ncclComm_t comm = nullptr;
      const ncclResult_t result = ncclCommInitRank(&comm, size, id, rank);
      complaints.expect(result == ncclSuccess, std::to_string(result) + " " + ncclGetLastError(nullptr));
      return result == ncclSuccess && ncclCommDestroy(comm) == ncclSuccess;
    };
    if (process < 2 && !meet(2, 0)) say(twice[1]);
    if (process == 2) {
      hear(twice[0]);
      complaints.expect(!meet(3, 1), "a third rank");
      say(counted[1]);
    }
    if (process == 3) {
      hear(counted[0]);
      complaints.expect(meet(2, 1), "no meeting");
    }
  });
  for (const int file : {twice[0], twice[1], counted[0], counted[1]}) REQUIRE(close(file) == 0);
  const std::string others = "rank 2: 4 another rank says 2 ranks\n";
  REQUIRE(
      (text == "rank 0: 4 there are two ranks 0\n" + others || text == "rank 1: 4 there are two ranks 0\n" + others));
}

// Catches: a program that would hang at its end, in ncclCommDestroy, because it destroys its graphs last.
TEST_CASE("a communicator that is destroyed before a graph with its work ends the program") {
  const auto destroy = [](const Rank& rank, bool graph_first) {
    float one = 1;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    rank.complaints.expect(cudaStreamBeginCapture(rank.stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess,
                           "begin");
    rank.succeed(ncclAllReduce(&one, &one, 1, ncclFloat32, ncclSum, rank.comm, rank.stream), "all-reduce");
    rank.complaints.expect(cudaStreamEndCapture(rank.stream, &graph) == cudaSuccess, "end");
    rank.complaints.expect(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    rank.complaints.expect(cudaGraphDestroy(graph) == cudaSuccess, "graph");
    rank.complaints.expect(cudaGraphLaunch(exec, rank.stream) == cudaSuccess, "launch");
    rank.wait();
    rank.complaints.expect(one == 2, "the sum");
    if (graph_first) rank.complaints.expect(cudaGraphExecDestroy(exec) == cudaSuccess, "graph");
  };
  REQUIRE(run_stand_in(2, [&](const Rank& rank) { destroy(rank, true); }) == "");
  const std::string text = run_stand_in(2, [&](const Rank& rank) {
    (void)std::signal(SIGABRT, SIG_DFL);  // not the test program's handler
    destroy(rank, false);
  });
  REQUIRE_THAT(text, Catch::Matchers::ContainsSubstring("rank 0: killed by Aborted"));
}

}  // namespace dither
