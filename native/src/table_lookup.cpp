#include "table_lookup.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "bucket_reader.h"

// ThreadSanitizer knows atomics only: its builds have the portable form alone.
#if defined(__x86_64__) && !defined(__SANITIZE_THREAD__)
#define SATRAP_VECTORS 1
#include <immintrin.h>
#endif

namespace satrap {
namespace {

// ---- portable: every shared word is loaded as an atomic ----

#define SATRAP_FORM portable
#define SATRAP_TARGET
#define SATRAP_INLINE inline

namespace portable {

inline std::uint64_t matching(const Bucket& line, std::uint64_t header, std::uint64_t sign) {
  return matching_slots(line, bucket_header::occupied(header), sign);
}

inline void copy_row(const std::byte* row, std::size_t bytes, std::byte* out) {
  copy_words(reinterpret_cast<const std::atomic<std::uint64_t>*>(row), bytes, out);
}

}  // namespace portable

#include "table_pipeline.h"
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

}  // namespace avx2

#include "table_pipeline.h"
#undef SATRAP_FORM
#undef SATRAP_TARGET
#undef SATRAP_INLINE

#define SATRAP_FORM avx512
#define SATRAP_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,bmi,bmi2")))
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

}  // namespace avx512

#include "table_pipeline.h"
#undef SATRAP_FORM
#undef SATRAP_TARGET
#undef SATRAP_INLINE

#endif  // SATRAP_VECTORS

}  // namespace

std::vector<CopyForm> copy_forms() {
  std::vector<CopyForm> forms{CopyForm::kPortable};
#ifdef SATRAP_VECTORS
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2")) {
    forms.push_back(CopyForm::kAvx2);
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512bw")) {
      forms.push_back(CopyForm::kAvx512);
    }
  }
#endif
  return forms;
}

std::size_t lookup_rows(const Snapshot& snapshot, CopyForm form, const std::byte* signs, std::size_t n,
                        std::byte* out, std::uint8_t* found) {
  switch (form) {
#ifdef SATRAP_VECTORS
    case CopyForm::kAvx512:
      return avx512::lookup_rows(snapshot, signs, n, out, found);
    case CopyForm::kAvx2:
      return avx2::lookup_rows(snapshot, signs, n, out, found);
#endif
    default:
      return portable::lookup_rows(snapshot, signs, n, out, found);
  }
}

}  // namespace satrap
