// The host execution of kernels itself: what is right on the device is right here in every order, and what is wrong
// there is found here.
#include "tests/cuda_host/execution.h"

#include <cmath>
#include <functional>
#include <numeric>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/launch.h"
#include "tests/catch.h"

namespace dither {
namespace {

/// out[block] = sum of in over the block's part, by a tree in shared memory. `barriers` false leaves one of them out.
__global__ void __launch_bounds__(128) tree_sum_kernel(const int* in, int* out, bool barriers) {
  int* partial = shared_memory<int>();
  partial[threadIdx.x] = in[blockIdx.x * blockDim.x + threadIdx.x];
  __syncthreads();
  for (unsigned half = blockDim.x / 2; half > 0; half /= 2) {
    if (threadIdx.x < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    if (barriers) __syncthreads();
  }
  if (threadIdx.x == 0) out[blockIdx.x] = partial[0];
}

std::vector<int> tree_sums(bool barriers) {
  std::vector<int> in(5 * 128), out(5, -7);
  std::iota(in.begin(), in.end(), 1);
  launch({"tree_sum", 5, 128, 128 * 4}, {}, tree_sum_kernel, in.data(), out.data(), barriers);
  return out;
}

__global__ void warp_sum_kernel(const float* in, float* out) {
  float x = in[blockIdx.x * blockDim.x + threadIdx.x];
  for (int lanes = 16; lanes > 0; lanes /= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  out[blockIdx.x * blockDim.x + threadIdx.x] = x;
}

__global__ void shuffles_kernel(int* out) {
  const int lane = static_cast<int>(threadIdx.x);
  int* own = out + 6 * lane;
  own[0] = __shfl_sync(kAllLanes, lane * 10, 5);
  own[1] = __shfl_down_sync(kAllLanes, lane * 10, 3);
  own[2] = __shfl_up_sync(kAllLanes, lane * 10, 3);
  own[3] = __shfl_down_sync(kAllLanes, lane * 10, 1, 8);
  own[4] = static_cast<int>(__ballot_sync(kAllLanes, lane % 3 == 0));
  own[5] = __all_sync(kAllLanes, lane < 32) && __any_sync(kAllLanes, lane == 31) && !__any_sync(kAllLanes, lane > 31);
}

__global__ void missed_barrier_kernel() {
  if (threadIdx.x % 2 == 0) __syncthreads();
  if (threadIdx.x % 2 == 1) (void)__shfl_xor_sync(kAllLanes, 1, 1);
}

__global__ void left_out_kernel(int* out) { *out = __shfl_xor_sync(0xFFFFu, 1, 1); }

__global__ void poison_kernel(float* out) {
  out[threadIdx.x] = shared_memory<float>()[threadIdx.x];
  shared_memory<float>()[threadIdx.x] = 1;
}

__global__ void places_kernel(int64_t* count, int* seen) {
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  atomicAdd(count, int64_t{1});
  ++seen[block * 24 + thread];
}

std::string complaint(const std::function<void()>& body) {
  try {
    body();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

}  // namespace

TEST_CASE("a kernel with its barriers gives the same result in every order") {
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    const std::vector<int> sums = tree_sums(true);
    for (int block = 0; block < 5; ++block)
      CHECK(sums[static_cast<size_t>(block)] == 128 * (128 * block) + 128 * 129 / 2);
  }
}

// Catches: an execution that runs threads in lockstep, or always in the order that happens to be right.
TEST_CASE("a kernel that lacks a barrier gives another result in some order") {
  std::set<std::vector<int>> results;
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    results.insert(tree_sums(false));
  }
  CHECK(results.size() > 1);
}

TEST_CASE("shuffles hand over the value of the lane they name, votes all of them") {
  for (const cuda_host::Order order : cuda_host::kOrders) {
    cuda_host::set_order(order);
    std::vector<float> in(3 * 64), out(3 * 64);
    std::iota(in.begin(), in.end(), 1.0f);
    launch({"warp_sum", 3, 64}, {}, warp_sum_kernel, in.data(), out.data());
    for (size_t i = 0; i < out.size(); ++i) {
      const float first = static_cast<float>(i / 32 * 32);
      CHECK(out[i] == 32 * first + 32 * 33 / 2);
    }
    std::vector<int> all(32 * 6);
    launch({"shuffles", 1, 32}, {}, shuffles_kernel, all.data());
    for (int lane = 0; lane < 32; ++lane) {
      const int* own = all.data() + 6 * lane;
      CHECK(own[0] == 50);
      CHECK(own[1] == (lane + 3 < 32 ? lane + 3 : lane) * 10);
      CHECK(own[2] == (lane >= 3 ? lane - 3 : lane) * 10);
      CHECK(own[3] == (lane % 8 == 7 ? lane : lane + 1) * 10);
      CHECK(own[4] == 0b01001001001001001001001001001001);
      CHECK(own[5] == 1);
    }
  }
}

TEST_CASE("threads that wait for what cannot come are named") {
  cuda_host::set_order({});
  const std::string text = complaint([] { launch({"missed", 1, 64}, {}, missed_barrier_kernel); });
  CHECK(text.find("thread 0 waits in __syncthreads") != std::string::npos);
  CHECK(text.find("thread 1 waits in a shuffle") != std::string::npos);
  int out = 0;
  const std::string mask = complaint([&] { launch({"left_out", 1, 32}, {}, left_out_kernel, &out); });
  CHECK(mask.find("the mask leaves out lanes") != std::string::npos);
}

TEST_CASE("shared memory is poisoned before every block") {
  std::vector<float> out(64, 0.0f);
  launch({"poison", 8, 64, 64 * 4}, {}, poison_kernel, out.data());
  for (const float x : out) CHECK(std::isnan(x));
}

TEST_CASE("every thread of a grid of three dimensions runs once") {
  int64_t count = 0;
  std::vector<int> seen(2 * 3 * 2 * 24);
  launch({"places", dim3(2, 3, 2), dim3(4, 3, 2)}, {}, places_kernel, &count, seen.data());
  CHECK(count == static_cast<int64_t>(seen.size()));
  for (const int times : seen) CHECK(times == 1);
}

}  // namespace dither
