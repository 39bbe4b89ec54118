// Ranks for tests: see ranks.h.
#include "tests/parallel_nccl/ranks.h"

#include <filesystem>

#include "base/error.h"

namespace dither {

std::string NcclRank::error_of(const std::function<void()>& call) const {
  try {
    call();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void NcclRank::expect(bool condition, const std::string& what) const {
  complaints.expect(condition, what + " (rank " + std::to_string(rank()) + " of " + std::to_string(size()) + ")");
}

std::string run_nccl(int ranks, const std::function<void(const NcclRank&)>& body) {
  const std::string meeting = (std::filesystem::temp_directory_path() / unique_test_name()).string();
  return run_ranks(ranks, [&](int rank, Complaints& complaints) {
    RankEnvironment environment;
    environment.rank = environment.local_rank = rank;
    environment.ranks = environment.local_ranks = ranks;
    environment.launcher = "environment";
    environment.rendezvous = meeting;
    Control control(environment);
    std::unique_ptr<Communicator> world;  // lives longer than the backend: see make_nccl_communicator()
    const std::unique_ptr<Backend> backend = make_cuda_backend(0);
    world = make_nccl_communicator(control, environment);
    body({control, environment, *backend, *world, complaints});
  });
}

}  // namespace dither
