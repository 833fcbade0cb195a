// Values on their way into a row.
#ifndef SATRAP_ROW_PACK_H_
#define SATRAP_ROW_PACK_H_

#include <cstddef>
#include <cstdint>
#include <cstring>

#include "satrap/half.h"
#include "satrap/table_layout.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace satrap {

// `n` float32 (any alignment) rounded to float16, as half_from_float does.
inline void halves_from_floats(const std::byte* floats, std::size_t n, std::byte* halves) {
  for (std::size_t i = 0; i < n; ++i) {
    float value;
    std::memcpy(&value, floats + i * sizeof(value), sizeof(value));
    const std::uint16_t half = half_from_float(value);
    std::memcpy(halves + i * sizeof(half), &half, sizeof(half));
  }
}

#if defined(__x86_64__)
// The same by the processor's instruction, which differs for NaNs only. For processors with AVX and F16C.
__attribute__((target("avx,f16c"))) inline void halves_from_floats_f16c(const std::byte* floats,
                                                                        std::size_t n, std::byte* halves) {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const std::byte* const from = floats + i * sizeof(float);
    std::byte* const to = halves + i * sizeof(std::uint16_t);
    const __m256 values = _mm256_loadu_ps(reinterpret_cast<const float*>(from));
    if (_mm256_movemask_ps(_mm256_cmp_ps(values, values, _CMP_UNORD_Q))) {
      halves_from_floats(from, 8, to);
    } else {
      _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT));
    }
  }
  halves_from_floats(floats + i * sizeof(float), n - i, halves + i * sizeof(std::uint16_t));
}
#endif

// `dim` values of type `source` as the words of a row of `shape`; the padding of the last word is zero.
inline void pack_row(const std::byte* values, RowType source, RowShape shape, std::uint64_t* words) {
  words[shape.words() - 1] = 0;
  auto* const row = reinterpret_cast<std::byte*>(words);
  if (source == shape.type) {
    std::memcpy(row, values, shape.bytes());
    return;
  }
#if defined(__x86_64__)
  if (__builtin_cpu_supports("f16c")) {
    halves_from_floats_f16c(values, shape.dim, row);
    return;
  }
#endif
  halves_from_floats(values, shape.dim, row);
}

}  // namespace satrap

#endif  // SATRAP_ROW_PACK_H_
