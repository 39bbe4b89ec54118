// In the place of src/parallel/nccl where the program is built without NCCL.
#include "base/error.h"
#include "src/parallel/nccl_communicator.h"

namespace dither {

bool built_with_nccl() { return false; }

std::unique_ptr<Communicator> make_nccl_communicator(Control& /*control*/, const RankEnvironment& /*environment*/) {
  throw Error(
      "the ranks should communicate by NCCL, but this program was built without it: install libnccl-dev (from NVIDIA's "
      "package repository for CUDA) and build again with -DDITHER_CUDA=ON -DDITHER_NCCL=ON; allowed here, for the "
      "ranks of one node: parallel.transport \"host\"");
}

}  // namespace dither
