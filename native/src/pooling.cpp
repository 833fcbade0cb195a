#include "satrap/pooling.h"

#include "satrap/byte_reader.h"
#include "satrap/half.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace satrap {
namespace {

void to_half_portable(const float* in, std::uint16_t* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) out[i] = half_from_float(in[i]);
}

void from_half_portable(const std::byte* in, float* out, std::size_t n) {
  for (std::size_t i = 0; i < n; ++i) out[i] = float_from_half(load<std::uint16_t>(in + 2 * i));
}

void add_to_samples_portable(const float* row, std::size_t dim, std::span<const Position> positions,
                             float* sums) {
  for (const Position position : positions) {
    float* sum = sums + position.sample * dim;
    for (std::size_t i = 0; i < dim; ++i) sum[i] += row[i];
  }
}

#if defined(__x86_64__)

// The CPU's conversions make signalling NaNs quiet, numpy's do not: eight values with a NaN among them take
// the portable way.
[[gnu::target("avx2,f16c")]] void to_half_f16c(const float* in, std::uint16_t* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 values = _mm256_loadu_ps(in + i);
    if (_mm256_movemask_ps(_mm256_cmp_ps(values, values, _CMP_UNORD_Q)) != 0) {
      to_half_portable(in + i, out + i, 8);
      continue;
    }
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                     _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  to_half_portable(in + i, out + i, n - i);
}

[[gnu::target("avx2,f16c")]] void from_half_f16c(const std::byte* in, float* out, std::size_t n) {
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    const __m256 values = _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + 2 * i)));
    if (_mm256_movemask_ps(_mm256_cmp_ps(values, values, _CMP_UNORD_Q)) != 0) {
      from_half_portable(in + 2 * i, out + i, 8);
      continue;
    }
    _mm256_storeu_ps(out + i, values);
  }
  from_half_portable(in + 2 * i, out + i, n - i);
}

[[gnu::target("avx2")]] void add_to_samples_avx2(const float* row, std::size_t dim,
                                                 std::span<const Position> positions, float* sums) {
  for (const Position position : positions) {
    float* sum = sums + position.sample * dim;
    std::size_t i = 0;
    for (; i + 8 <= dim; i += 8) {
      _mm256_storeu_ps(sum + i, _mm256_add_ps(_mm256_loadu_ps(sum + i), _mm256_loadu_ps(row + i)));
    }
    for (; i < dim; ++i) sum[i] += row[i];
  }
}

bool has_f16c() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c"); }

#endif

}  // namespace

void to_half(const float* in, std::uint16_t* out, std::size_t n, Kernels kernels) {
#if defined(__x86_64__)
  if (kernels == Kernels::kBest && has_f16c()) return to_half_f16c(in, out, n);
#endif
  static_cast<void>(kernels);
  to_half_portable(in, out, n);
}

void from_half(const std::byte* in, float* out, std::size_t n, Kernels kernels) {
#if defined(__x86_64__)
  if (kernels == Kernels::kBest && has_f16c()) return from_half_f16c(in, out, n);
#endif
  static_cast<void>(kernels);
  from_half_portable(in, out, n);
}

void add_to_samples(const float* row, std::size_t dim, std::span<const Position> positions, float* sums,
                    Kernels kernels) {
#if defined(__x86_64__)
  if (kernels == Kernels::kBest && has_f16c()) return add_to_samples_avx2(row, dim, positions, sums);
#endif
  static_cast<void>(kernels);
  add_to_samples_portable(row, dim, positions, sums);
}

void scale(float* values, std::size_t n, float factor) {
  for (std::size_t i = 0; i < n; ++i) values[i] *= factor;
}

}  // namespace satrap
