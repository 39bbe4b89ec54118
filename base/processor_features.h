// Parts of an instruction set that a compiler uses by itself once -march= allows it to: THE table of them, for two
// files compiled with different flags (processor.cpp, processor_target.cpp). What only intrinsics reach (AMX, AES, SHA)
// is not in it: the sources have none of those, and oneDNN asks the processor itself.
//
//   x86-64    F(name, macro, leaf, subleaf, register, bit, XCR0 bits)   where CPUID says it is there
//   AArch64   F(name, macro, entry of the auxiliary vector, bit)
//
// Names are those of /proc/cpuinfo. A macro is defined by the compiler exactly if it may use that part.
#pragma once

#if defined(__x86_64__)

// CPUID's registers, and what the system must save of a thread (XCR0).
#define DITHER_EAX 0
#define DITHER_EBX 1
#define DITHER_ECX 2
#define DITHER_EDX 3
#define DITHER_YMM 0x6
#define DITHER_ZMM 0xE6
#define DITHER_APX 0x80000

#define DITHER_PROCESSOR_FEATURES(F)                                           \
  F("pni", __SSE3__, 1, 0, DITHER_ECX, 0, 0)                                   \
  F("ssse3", __SSSE3__, 1, 0, DITHER_ECX, 9, 0)                                \
  F("fma", __FMA__, 1, 0, DITHER_ECX, 12, DITHER_YMM)                          \
  F("cx16", __GCC_HAVE_SYNC_COMPARE_AND_SWAP_16, 1, 0, DITHER_ECX, 13, 0)      \
  F("sse4_1", __SSE4_1__, 1, 0, DITHER_ECX, 19, 0)                             \
  F("sse4_2", __SSE4_2__, 1, 0, DITHER_ECX, 20, 0)                             \
  F("movbe", __MOVBE__, 1, 0, DITHER_ECX, 22, 0)                               \
  F("popcnt", __POPCNT__, 1, 0, DITHER_ECX, 23, 0)                             \
  F("avx", __AVX__, 1, 0, DITHER_ECX, 28, DITHER_YMM)                          \
  F("f16c", __F16C__, 1, 0, DITHER_ECX, 29, DITHER_YMM)                        \
  F("bmi1", __BMI__, 7, 0, DITHER_EBX, 3, 0)                                   \
  F("avx2", __AVX2__, 7, 0, DITHER_EBX, 5, DITHER_YMM)                         \
  F("bmi2", __BMI2__, 7, 0, DITHER_EBX, 8, 0)                                  \
  F("avx512f", __AVX512F__, 7, 0, DITHER_EBX, 16, DITHER_ZMM)                  \
  F("avx512dq", __AVX512DQ__, 7, 0, DITHER_EBX, 17, DITHER_ZMM)                \
  F("avx512ifma", __AVX512IFMA__, 7, 0, DITHER_EBX, 21, DITHER_ZMM)            \
  F("avx512cd", __AVX512CD__, 7, 0, DITHER_EBX, 28, DITHER_ZMM)                \
  F("avx512bw", __AVX512BW__, 7, 0, DITHER_EBX, 30, DITHER_ZMM)                \
  F("avx512vl", __AVX512VL__, 7, 0, DITHER_EBX, 31, DITHER_ZMM)                \
  F("avx512vbmi", __AVX512VBMI__, 7, 0, DITHER_ECX, 1, DITHER_ZMM)             \
  F("avx512_vbmi2", __AVX512VBMI2__, 7, 0, DITHER_ECX, 6, DITHER_ZMM)          \
  F("gfni", __GFNI__, 7, 0, DITHER_ECX, 8, 0)                                  \
  F("avx512_vnni", __AVX512VNNI__, 7, 0, DITHER_ECX, 11, DITHER_ZMM)           \
  F("avx512_bitalg", __AVX512BITALG__, 7, 0, DITHER_ECX, 12, DITHER_ZMM)       \
  F("avx512_vpopcntdq", __AVX512VPOPCNTDQ__, 7, 0, DITHER_ECX, 14, DITHER_ZMM) \
  F("avx512_fp16", __AVX512FP16__, 7, 0, DITHER_EDX, 23, DITHER_ZMM)           \
  F("avx_vnni", __AVXVNNI__, 7, 1, DITHER_EAX, 4, DITHER_YMM)                  \
  F("avx512_bf16", __AVX512BF16__, 7, 1, DITHER_EAX, 5, DITHER_ZMM)            \
  F("avx_ifma", __AVXIFMA__, 7, 1, DITHER_EAX, 23, DITHER_YMM)                 \
  F("avx_vnni_int8", __AVXVNNIINT8__, 7, 1, DITHER_EDX, 4, DITHER_YMM)         \
  F("avx_ne_convert", __AVXNECONVERT__, 7, 1, DITHER_EDX, 5, DITHER_YMM)       \
  F("avx_vnni_int16", __AVXVNNIINT16__, 7, 1, DITHER_EDX, 10, DITHER_YMM)      \
  F("apx", __APX_F__, 7, 1, DITHER_EDX, 21, DITHER_APX)                        \
  F("lahf_lm", __LAHF_SAHF__, 0x80000001, 0, DITHER_ECX, 0, 0)                 \
  F("abm", __LZCNT__, 0x80000001, 0, DITHER_ECX, 5, 0)                         \
  F("sse4a", __SSE4A__, 0x80000001, 0, DITHER_ECX, 6, 0)                       \
  F("xop", __XOP__, 0x80000001, 0, DITHER_ECX, 11, DITHER_YMM)                 \
  F("fma4", __FMA4__, 0x80000001, 0, DITHER_ECX, 16, DITHER_YMM)               \
  F("tbm", __TBM__, 0x80000001, 0, DITHER_ECX, 21, 0)

#elif defined(__aarch64__)

#define DITHER_PROCESSOR_FEATURES(F)                               \
  F("crc32", __ARM_FEATURE_CRC32, AT_HWCAP, 7)                     \
  F("atomics", __ARM_FEATURE_ATOMICS, AT_HWCAP, 8)                 \
  F("fphp", __ARM_FEATURE_FP16_SCALAR_ARITHMETIC, AT_HWCAP, 9)     \
  F("asimdhp", __ARM_FEATURE_FP16_VECTOR_ARITHMETIC, AT_HWCAP, 10) \
  F("asimdrdm", __ARM_FEATURE_QRDMX, AT_HWCAP, 12)                 \
  F("jscvt", __ARM_FEATURE_JCVT, AT_HWCAP, 13)                     \
  F("fcma", __ARM_FEATURE_COMPLEX, AT_HWCAP, 14)                   \
  F("lrcpc", __ARM_FEATURE_RCPC, AT_HWCAP, 15)                     \
  F("asimddp", __ARM_FEATURE_DOTPROD, AT_HWCAP, 20)                \
  F("sve", __ARM_FEATURE_SVE, AT_HWCAP, 22)                        \
  F("asimdfhm", __ARM_FEATURE_FP16_FML, AT_HWCAP, 23)              \
  F("sve2", __ARM_FEATURE_SVE2, AT_HWCAP2, 1)                      \
  F("i8mm", __ARM_FEATURE_MATMUL_INT8, AT_HWCAP2, 13)              \
  F("bf16", __ARM_FEATURE_BF16_VECTOR_ARITHMETIC, AT_HWCAP2, 14)   \
  F("mops", __ARM_FEATURE_MOPS, AT_HWCAP2, 43)

#else
#define DITHER_PROCESSOR_FEATURES(F)  // no processor is refused
#endif
