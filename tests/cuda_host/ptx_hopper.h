// The functions of kernels/cuda/ptx_hopper.h on the host: what a kernel may count on and no more.
//
// Copies    A box's destination is poison from the copy's start; the bytes arrive when somebody waits for a phase that
//           lacks nothing else, and global memory is read then.
// Products  Each warp computes its own sixteen rows: nothing keeps the four warps together. Operands are decoded from
//           their descriptors and looked at twice, when the product starts and when it is waited for; elements that
//           differ are NaN, in registers as in shared memory. C is poison in between. Sums rise with k, FP32 after each
//           step: one of the orders that the device may have.
// Proxies   Products see what copies brought. What ordinary stores have written is NaN to them: there is no function
//           here that would show it to them.
// Whatever else is wrong on the device throws std::logic_error: registers that no wgmma_fence() has named since they
// changed, a phase with more arrivals or bytes than it expects, products that the warps of a group do not share.
#pragma once

#include <cstdint>

#include "kernels/cuda/tensor_map.h"
#include "tests/cuda_host/ptx.h"

namespace dither {

namespace cuda_host {

/// 16 bytes of shared memory as a product sees them: poison where they are not what a copy has brought.
void copied_chunk(uint32_t window, uint16_t (&chunk)[8]);

void fence_registers(const void* registers, int64_t bytes);
void finish_products(int latest_pending);
void demand_settled(const void* c);  // no product under way writes there

/// The lanes' parts of C [16,columns]; `a` is the lane's part of A, or null where `a_descriptor` names A.
struct Product {
  float* c;
  const uint32_t* a;
  uint64_t a_descriptor, b_descriptor;
  int columns;
  bool accumulate, n_major;
};
void start_product(const Product& product);

}  // namespace cuda_host

void mbarrier_init(SharedAddress barrier, uint32_t count);
void fence_barrier_init();
void mbarrier_expect_bytes(SharedAddress barrier, uint32_t bytes);
void mbarrier_arrive(SharedAddress barrier);
void mbarrier_wait(SharedAddress barrier, uint32_t parity);
void tma_load(SharedAddress to, const TensorMap* map, SharedAddress barrier, int at0, int at1, int at2, int at3);

template <class... Registers>
void wgmma_fence(Registers&... registers) {
  (cuda_host::fence_registers(registers, sizeof(registers)), ...);
}
void wgmma_commit();
template <int kPending, int N>
void wgmma_wait(float (&c)[N][4]) {
  cuda_host::finish_products(kPending);
  cuda_host::demand_settled(c);
}

template <int N>
void wgmma_k_major(float (&c)[N][4], uint64_t a, uint64_t b, bool accumulate) {
  cuda_host::start_product({c[0], nullptr, a, b, 8 * N, accumulate, false});
}
template <int N>
void wgmma_n_major(float (&c)[N][4], const uint32_t (&a)[4], uint64_t b) {
  cuda_host::start_product({c[0], a, 0, b, 8 * N, true, true});
}

void stmatrix_x4(SharedAddress row, const uint32_t (&r)[4]);

/// Registers are no memory of the host's: their number changes nothing here.
template <int kCount>
void release_registers() {
  static_assert(kCount % 8 == 0 && kCount >= 24 && kCount <= 256);
}
template <int kCount>
void take_registers() {
  release_registers<kCount>();
}

/// Offset in the block's shared memory, plus what makes it the same modulo 1,024 as the host's address.
uint32_t window_address(SharedAddress place);

}  // namespace dither
