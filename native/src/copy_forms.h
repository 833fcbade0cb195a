// The forms in which keys are compared and rows are copied, and a pipeline in each of them.
//
// Include it once, where SATRAP_PIPELINE is defined as the name of a header: that is included in turn for
// each form, because vector instructions have to be enabled for every function that they end up in. It finds
//
//     SATRAP_FORM     the namespace to put its functions in: portable, avx2, avx512
//     SATRAP_TARGET   the attribute that enables the form's instructions
//     SATRAP_INLINE   the same, for functions that become part of their caller
//
// and in that namespace
//
//     matching    the occupied slot whose key is a sign, as a bit, or 0
//     copy_row    copies a row that the writer may be storing
//     hash_block  sign_hash of kFormBlock signs
//     either      one of two addresses, without a branch
#ifndef SATRAP_PIPELINE
#error "define SATRAP_PIPELINE first"
#endif

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "bucket_reader.h"

// ThreadSanitizer knows atomics only: its builds have the portable form alone.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define SATRAP_VECTORS 1
#include <immintrin.h>
#endif

namespace satrap {
namespace {

constexpr std::size_t kFormBlock = 8;

// ---- portable: every shared word is loaded as an atomic ----

#define SATRAP_FORM portable
#define SATRAP_TARGET
#define SATRAP_INLINE inline __attribute__((always_inline))

namespace portable {

SATRAP_INLINE std::uint64_t matching(const Bucket& line, std::uint64_t header, std::uint64_t sign) {
  return matching_slots(line, bucket_header::occupied(header), sign);
}

SATRAP_INLINE void copy_row(const std::byte* row, std::size_t bytes, std::byte* out) {
  copy_words(reinterpret_cast<const std::atomic<std::uint64_t>*>(row), bytes, out);
}

SATRAP_INLINE const std::byte* either(bool first, const std::byte* one, const std::byte* other) {
  return first ? one : other;
}

SATRAP_INLINE void hash_block(const std::byte* signs, std::uint64_t* hashes) {
  std::memcpy(hashes, signs, kFormBlock * sizeof(*hashes));
  for (std::size_t i = 0; i < kFormBlock; ++i) hashes[i] = sign_hash(hashes[i]);
}

}  // namespace portable

#include SATRAP_PIPELINE
#undef SATRAP_FORM
#undef SATRAP_TARGET
#undef SATRAP_INLINE

#ifdef SATRAP_VECTORS

// ---- x86-64 vectors ----
//
// For C++ a vector load of words that another thread stores is a data race. It is sound here because of what
// the processor guarantees and the compiler is kept from undoing: x86-64 does not reorder loads with loads,
// nor stores with stores; each 8-byte word of a vector is loaded whole; the header is an atomic of its own,
// loaded before and after, with compiler barriers between. So a vector that caught the writer half way comes
// with a header that has changed, and is thrown away.
inline __attribute__((always_inline)) void barrier() { asm volatile("" ::: "memory"); }

// Whether an id is late cannot be predicted, and each wrong guess costs more than the rest of its stage:
// compilers do not know that, and write a branch.
inline __attribute__((always_inline)) const std::byte* conditional_move(bool first, const std::byte* one,
                                                                        const std::byte* other) {
  asm("test %[first], %[first]\n\tcmovnz %[one], %[other]"
      : [other] "+r"(other)
      : [one] "r"(one), [first] "r"(static_cast<unsigned>(first))
      : "cc");
  return other;
}

#define SATRAP_FORM avx2
#define SATRAP_TARGET __attribute__((target("avx2,bmi,bmi2")))
#define SATRAP_INLINE SATRAP_TARGET inline __attribute__((always_inline))

namespace avx2 {

SATRAP_INLINE std::uint64_t matching(const Bucket& line, std::uint64_t header, std::uint64_t sign) {
  barrier();
  const auto* const halves = reinterpret_cast<const __m256i*>(&line);
  const __m256i wanted = _mm256_set1_epi64x(static_cast<long long>(sign));
  const int low =
      _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_load_si256(halves), wanted)));
  const int high =
      _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_load_si256(halves + 1), wanted)));
  barrier();
  // Word 0 is the header.
  return static_cast<std::uint64_t>((low | high << 4) >> 1) & bucket_header::occupied(header);
}

SATRAP_INLINE void copy_row(const std::byte* row, std::size_t bytes, std::byte* out) {
  barrier();
  std::size_t at = 0;
  for (; at + 32 <= bytes; at += 32) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + at),
                        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(row + at)));
  }
  for (; at + 8 <= bytes; at += 8) std::memcpy(out + at, row + at, 8);
  if (at < bytes) std::memcpy(out + at, row + at, bytes - at);
  barrier();
}

SATRAP_INLINE const std::byte* either(bool first, const std::byte* one, const std::byte* other) {
  return conditional_move(first, one, other);
}

SATRAP_INLINE void hash_block(const std::byte* signs, std::uint64_t* hashes) {
  portable::hash_block(signs, hashes);
}

}  // namespace avx2

#include SATRAP_PIPELINE
#undef SATRAP_FORM
#undef SATRAP_TARGET
#undef SATRAP_INLINE

#define SATRAP_FORM avx512
#define SATRAP_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,bmi,bmi2")))
#define SATRAP_INLINE SATRAP_TARGET inline __attribute__((always_inline))

namespace avx512 {

SATRAP_INLINE std::uint64_t matching(const Bucket& line, std::uint64_t header, std::uint64_t sign) {
  barrier();
  const __mmask8 equal = _mm512_cmpeq_epi64_mask(_mm512_load_si512(reinterpret_cast<const void*>(&line)),
                                                 _mm512_set1_epi64(static_cast<long long>(sign)));
  barrier();
  // Word 0 is the header.
  return static_cast<std::uint64_t>(equal >> 1) & bucket_header::occupied(header);
}

SATRAP_INLINE void copy_row(const std::byte* row, std::size_t bytes, std::byte* out) {
  barrier();
  std::size_t at = 0;
  for (; at + 64 <= bytes; at += 64) _mm512_storeu_si512(out + at, _mm512_loadu_si512(row + at));
  if (at < bytes) {
    const __mmask64 rest = ~std::uint64_t{0} >> (64 - (bytes - at));
    _mm512_mask_storeu_epi8(out + at, rest, _mm512_maskz_loadu_epi8(rest, row + at));
  }
  barrier();
}

SATRAP_INLINE const std::byte* either(bool first, const std::byte* one, const std::byte* other) {
  return conditional_move(first, one, other);
}

// sign_hash, eight at once.
SATRAP_INLINE void hash_block(const std::byte* signs, std::uint64_t* hashes) {
  using Words = std::uint64_t __attribute__((vector_size(kFormBlock * sizeof(std::uint64_t))));
  Words x;
  std::memcpy(&x, signs, sizeof(x));
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9u;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebu;
  x ^= x >> 31;
  std::memcpy(hashes, &x, sizeof(x));
}

}  // namespace avx512

#include SATRAP_PIPELINE
#undef SATRAP_FORM
#undef SATRAP_TARGET
#undef SATRAP_INLINE

#endif  // SATRAP_VECTORS

}  // namespace
}  // namespace satrap
