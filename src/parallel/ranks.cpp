#include "src/parallel/ranks.h"

#include <fmt/format.h>

#include "base/error.h"
#include "base/words.h"
#include "src/parallel/make_communicator.h"

namespace dither {

namespace {

bool needs_mpi(const RankEnvironment& e) { return e.ranks > 1 && e.mpi && built_with_mpi(); }

/// Ranks that nobody told where rank 0 listens cannot meet.
void check_meeting(const RankEnvironment& e) {
  if (e.ranks == 1 || needs_mpi(e) || !e.address.empty() || !e.rendezvous.empty()) return;
  throw Error(fmt::format(
      "rank {} of {} ({}) has no way to find the others: {}\n       cures: DITHER_ADDRESS=host:port of rank 0, or "
      "DITHER_RENDEZVOUS=a file that all ranks see",
      e.rank, e.ranks, e.launcher,
      e.mpi ? "this program was built without MPI (libopenmpi-dev, -DDITHER_MPI=ON)"
            : "the launcher gives no address"));
}

}  // namespace

Ranks::Ranks() : environment_(rank_environment()) {
  if (environment_.ranks > 1) set_error_origin(fmt::format("rank {}: ", environment_.rank));
  check_meeting(environment_);
  Control::Share share;
  if (needs_mpi(environment_)) {
    mpi_.emplace();
    share = [this](const std::string& text) { return mpi_->broadcast(text); };
  }
  control_.emplace(environment_, environment_.connect_seconds, share);
}

void Ranks::run(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& e) {
    fail(words_of(e));
    throw;
  }
}

void Ranks::fail(const std::string& message) {
  if (mpi_) mpi_->abandon();
  control_->fail(message);
}

int Ranks::gpu(const ParallelConfig& config) const {
  const int devices = cuda_devices();
  if (devices == 0) return 0;  // making the backend says what is missing
  if (config.device_index >= devices) {
    throw Error(fmt::format("parallel.device_index is {}, but there are {} CUDA devices, counted from 0",
                            config.device_index, devices));
  }
  return config.device_index >= 0 ? config.device_index : environment_.local_rank % devices;
}

std::unique_ptr<Communicator> Ranks::communicator(const ParallelConfig& config, Backend& backend, bool cuda) {
  const bool shared = cuda && config.share_device && config.transport == Transport::automatic;
  return make_communicator(shared ? Transport::host : config.transport, environment_, *control_, backend, cuda);
}

}  // namespace dither
