// Products of matrices below the operations: every kernel that a build can have, on shapes that no tile divides.
#include "kernels/cpu/matrix_product.h"

#include "tests/catch.h"
#include "tests/kernels/tensors.h"

namespace dither {

namespace {

using Kernels = MatrixProduct::Kernels;

struct Shape {
  int64_t M, N, K;
};

/// Integers of |a| <= 4 and |b| <= 8 and their exact product, computed once for all types and orders.
struct IntegerProduct {
  explicit IntegerProduct(Shape s)
      : shape(s), a(integer_tensor(DType::fp32, s.M * s.K, 1, 4)), b(integer_tensor(DType::fp32, s.K * s.N, 2, 8)) {
    const std::vector<int64_t> factors = integers(a), values = integers(b);
    exact.resize(static_cast<size_t>(s.M * s.N));
    for (int64_t m = 0; m < s.M; ++m) {
      for (int64_t k = 0; k < s.K; ++k) {
        const int64_t factor = factors[static_cast<size_t>(m * s.K + k)];
        const int64_t* row = &values[static_cast<size_t>(k * s.N)];
        int64_t* sums = &exact[static_cast<size_t>(m * s.N)];
        for (int64_t n = 0; n < s.N; ++n) sums[n] += factor * row[n];
      }
    }
  }
  static std::vector<int64_t> integers(const TestTensor& tensor) {
    std::vector<int64_t> values;
    for (int64_t i = 0; i < tensor.elements(); ++i) values.push_back(static_cast<int64_t>(tensor.get(i)));
    return values;
  }
  TestTensor expected(DType type, int64_t start = 0) const {
    TestTensor c(type, shape.M * shape.N);
    for (int64_t i = 0; i < c.elements(); ++i) c.set(i, static_cast<double>(start + exact[static_cast<size_t>(i)]));
    return c;
  }

  Shape shape;
  TestTensor a, b;             // [M,K], [K,N]
  std::vector<int64_t> exact;  // [M,N]
};

/// `from` [rows, columns] as `type`, as it is or with rows and columns exchanged.
TestTensor stored(const TestTensor& from, int64_t rows, int64_t columns, DType type, bool exchanged) {
  TestTensor to(type, rows * columns);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) to.set(exchanged ? c * rows + r : r * columns + c, from.get(r * columns + c));
  }
  return to;
}

/// The operands of an IntegerProduct in memory of one type and order.
struct Operands {
  Operands(const IntegerProduct& p, DType type, Contiguous order_a, Contiguous order_b)
      : shape(p.shape),
        a(stored(p.a, shape.M, shape.K, type, order_a == Contiguous::free)),
        b(stored(p.b, shape.K, shape.N, type, order_b == Contiguous::contracted)),
        matrix_a{a, order_a == Contiguous::contracted ? shape.K : shape.M, order_a},
        matrix_b{b, order_b == Contiguous::contracted ? shape.K : shape.N, order_b} {}
  Product into(View c) const {
    return {.c = c, .a = matrix_a, .b = matrix_b, .M = shape.M, .N = shape.N, .K = shape.K};
  }

  Shape shape;
  TestTensor a, b;
  Matrix matrix_a, matrix_b;
};

constexpr Kernels kAllKernels[] = {Kernels::best, Kernels::widened, Kernels::plain};

}  // namespace

// Catches: a panel, block, chunk or slice that is cut, counted or addressed wrongly; rows or columns packed in a wrong
// order; padding that is not zero; a last chunk that overwrites the others; widening that is not exact.
TEST_CASE("products of integers are exact with every kernel, order, type and shape") {
  REQUIRE(cuts_of(520, 72, 33, 2, true).block_rows < 520);      // the list below has several blocks,
  REQUIRE(cuts_of(5, 24, 8200, 2, false).chunks > 1);           // chunks
  REQUIRE(cuts_of(2, 1096, 4096, 2, false).slice_panels < 18);  // and slices
  for (const Shape& shape :
       {Shape{1, 8, 8}, Shape{3, 72, 40}, Shape{17, 64, 1}, Shape{64, 192, 96}, Shape{257, 136, 100},
        Shape{301, 16, 1100}, Shape{520, 72, 33}, Shape{5, 24, 8200}, Shape{2, 1096, 4096}}) {
    const IntegerProduct product(shape);
    for (const DType type : {DType::bf16, DType::fp32}) {
      for (const auto order_a : {Contiguous::contracted, Contiguous::free}) {
        for (const auto order_b : {Contiguous::contracted, Contiguous::free}) {
          const Operands operands(product, type, order_a, order_b);
          for (const Kernels kernels : kAllKernels) {
            CAPTURE(shape.M, shape.N, shape.K, name_of(type), int(order_a), int(order_b), int(kernels));
            const DType result = order_a == order_b ? DType::fp32 : DType::bf16;
            TestTensor c(result, shape.M * shape.N);
            MatrixProduct(2, kernels).multiply(operands.into(c));
            REQUIRE(same_bits(c, product.expected(result)));
            REQUIRE(c.guard_intact());
          }
        }
      }
    }
  }
}

// Catches: accumulation that starts from the old value in every chunk, or that forgets it.
TEST_CASE("an accumulating product adds to what is there, once") {
  for (const Shape& shape : {Shape{70, 72, 64}, Shape{9, 64, 8200}}) {
    const IntegerProduct product(shape);
    for (const DType type : {DType::bf16, DType::fp32}) {
      const Operands operands(product, type, Contiguous::free, Contiguous::free);
      for (const Kernels kernels : kAllKernels) {
        TestTensor c = filled_tensor(DType::fp32, shape.M * shape.N, 1000);
        Product call = operands.into(c);
        call.accumulate = true;
        MatrixProduct(2, kernels).multiply(call);
        REQUIRE(same_bits(c, product.expected(DType::fp32, 1000)));
      }
    }
  }
}

// Catches: cuts that look at the number of threads, sums split among threads, a buffer that two threads share.
TEST_CASE("the bits of a product do not depend on the number of threads") {
  const auto kernels = GENERATE(Kernels::best, Kernels::widened, Kernels::plain);
  const auto type = GENERATE(DType::bf16, DType::fp32);
  const auto order = GENERATE(Contiguous::contracted, Contiguous::free);
  for (const Shape& shape : {Shape{600, 520, 200}, Shape{70, 72, 9000}}) {
    const TestTensor a = normal_tensor(type, shape.M * shape.K, 3), b = normal_tensor(type, shape.K * shape.N, 4);
    const Matrix operand_a{a, order == Contiguous::contracted ? shape.K : shape.M, order};
    const Matrix operand_b{b, order == Contiguous::contracted ? shape.K : shape.N, order};
    const auto with = [&](int threads) {
      TestTensor c(DType::fp32, shape.M * shape.N);
      MatrixProduct product(threads, kernels);
      product.multiply({.c = c, .a = operand_a, .b = operand_b, .M = shape.M, .N = shape.N, .K = shape.K});
      return c;
    };
    const TestTensor one = with(1);
    for (const int threads : {2, 3, 4}) REQUIRE(same_bits(with(threads), one));
  }
}

// Catches: buffers that are made anew, or grow with every call.
TEST_CASE("a product that was seen before needs no more memory") {
  MatrixProduct product(2);
  const IntegerProduct integers({257, 136, 100});
  const Operands operands(integers, DType::bf16, Contiguous::free, Contiguous::free);
  TestTensor c(DType::bf16, 257 * 136);
  product.multiply(operands.into(c));
  const int64_t before = product.memory_bytes();
  REQUIRE(before > 0);
  for (int i = 0; i < 3; ++i) product.multiply(operands.into(c));
  REQUIRE(product.memory_bytes() == before);
}

// Catches: cuts that leave rows or columns out, or that ask for more memory than a slice may have.
TEST_CASE("cuts cover the product with tiles that fit together") {
  for (const bool pack_rows : {false, true}) {
    for (const int64_t element_bytes : {2, 4}) {
      for (const int64_t K : {1, 64, 768, 3072, 4096, 4097, 50304}) {
        for (const int64_t N : {8, 768, 50304}) {
          const int64_t M = K == 768 ? 50304 : 257;
          const Cuts cuts = cuts_of(M, N, K, element_bytes, pack_rows);
          INFO("M " << M << ", N " << N << ", K " << K << ", bytes " << element_bytes);
          REQUIRE(cuts.chunk_k % kTileStep == 0);
          REQUIRE(cuts.chunk_k * cuts.chunks >= K);
          REQUIRE(cuts.chunk_k * (cuts.chunks - 1) < K);
          REQUIRE(cuts.block_rows >= 64);
          REQUIRE(cuts.slice_panels % cuts.block_panels == 0);
          REQUIRE(cuts.slice_panels >= 1);
          REQUIRE(cuts.slice_panels * kTileColumns * cuts.chunk_k * element_bytes <= 8 << 20);
        }
      }
    }
  }
}

}  // namespace dither
