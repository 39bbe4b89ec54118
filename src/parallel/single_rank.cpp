// The world of one: see single_rank.h.
#include "src/parallel/single_rank.h"

#include "base/error.h"

namespace dither {

namespace {

class SingleRank final : public Communicator {
 public:
  explicit SingleRank(Backend& backend) : Communicator(0, 1), backend_(backend) {}

  std::unique_ptr<Communicator> split(int /*color*/, int /*key*/) override { return make_single_rank(backend_); }
  std::string description() const override { return "none"; }

 protected:
  void do_all_reduce(View, int64_t, Stream) override { DITHER_ASSERT(false); }
  void do_reduce_scatter(View, ConstView, int64_t, Stream) override { DITHER_ASSERT(false); }
  void do_all_gather(View, ConstView, int64_t, Stream) override { DITHER_ASSERT(false); }
  void do_all_to_all(const AllToAll&, Stream) override { DITHER_ASSERT(false); }
  void do_broadcast(View, int64_t, int, Stream) override { DITHER_ASSERT(false); }
  void do_copy(void* to, const void* from, int64_t bytes, Stream stream) override {
    copy_bytes(backend_, to, from, bytes, stream);
  }

 private:
  Backend& backend_;
};

}  // namespace

std::unique_ptr<Communicator> make_single_rank(Backend& backend) { return std::make_unique<SingleRank>(backend); }

void copy_bytes(Backend& backend, void* to, const void* from, int64_t bytes, Stream stream) {
  // As BF16 whatever they are: Backend::copy keeps the bits where the type stays.
  DITHER_ASSERT(bytes % size_of(DType::bf16) == 0);
  backend.copy({to, DType::bf16}, {from, DType::bf16}, bytes / size_of(DType::bf16), stream);
}

}  // namespace dither
