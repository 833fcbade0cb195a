#include "satrap/pooling.h"

#include <algorithm>
#include <cstring>
#include <vector>

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

// A row of an entry at a time, added to the samples of its positions.
struct Entries {
  std::span<const std::byte* const> rows;
  std::size_t dim;
  std::span<const std::uint32_t> starts;
  std::span<const Position> positions;

  std::span<const Position> positions_of(std::size_t entry) const {
    return positions.subspan(starts[entry], starts[entry + 1] - starts[entry]);
  }
};

void add_to_samples_portable(const Entries& entries, RowFormat format, float* sums) {
  std::vector<float> row(entries.dim);
  for (std::size_t entry = 0; entry < entries.rows.size(); ++entry) {
    if (format == RowFormat::kFloat16) {
      from_half_portable(entries.rows[entry], row.data(), entries.dim);
    } else {
      std::memcpy(row.data(), entries.rows[entry], entries.dim * sizeof(float));
    }
    for (const Position position : entries.positions_of(entry)) {
      float* sum = sums + position.sample * entries.dim;
      for (std::size_t i = 0; i < entries.dim; ++i) sum[i] += row[i];
    }
  }
}

void add_runs_portable(std::span<const std::byte* const> rows, RowFormat format, std::size_t dim,
                       std::span<const std::uint32_t> counts, float* sums) {
  std::vector<float> row(dim);
  std::size_t next = 0;
  for (const std::uint32_t count : counts) {
    for (const std::size_t end = next + count; next < end; ++next) {
      if (format == RowFormat::kFloat16) {
        from_half_portable(rows[next], row.data(), dim);
      } else {
        std::memcpy(row.data(), rows[next], dim * sizeof(float));
      }
      for (std::size_t i = 0; i < dim; ++i) sums[i] += row[i];
    }
    sums += dim;
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

// Rows come from all over the answer, in no order that the CPU could guess.
constexpr std::size_t kPrefetchAhead = 8;

template <RowFormat kFormat>
[[gnu::target("avx2,f16c"), gnu::always_inline]] inline __m256 load_eight(const std::byte* row,
                                                                          std::size_t i) {
  if constexpr (kFormat == RowFormat::kFloat16) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(row + 2 * i)));
  } else {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(row + 4 * i));
  }
}

// For a dim of 8 x kEights: the row stays in registers.
template <RowFormat kFormat, std::size_t kEights>
[[gnu::target("avx2,f16c")]] void add_to_samples_avx2(const Entries& entries, float* sums) {
  const std::size_t n = entries.rows.size();
  for (std::size_t entry = 0; entry < n; ++entry) {
    __builtin_prefetch(entries.rows[std::min(entry + kPrefetchAhead, n - 1)]);
    __m256 row[kEights];
    for (std::size_t k = 0; k < kEights; ++k) row[k] = load_eight<kFormat>(entries.rows[entry], 8 * k);
    for (const Position position : entries.positions_of(entry)) {
      float* sum = sums + position.sample * kEights * 8;
      for (std::size_t k = 0; k < kEights; ++k) {
        _mm256_storeu_ps(sum + 8 * k, _mm256_add_ps(_mm256_loadu_ps(sum + 8 * k), row[k]));
      }
    }
  }
}

// For a dim that is a multiple of 8.
template <RowFormat kFormat>
[[gnu::target("avx2,f16c")]] void add_eights_to_samples_avx2(const Entries& entries, float* sums) {
  for (std::size_t entry = 0; entry < entries.rows.size(); ++entry) {
    for (const Position position : entries.positions_of(entry)) {
      float* sum = sums + position.sample * entries.dim;
      for (std::size_t i = 0; i < entries.dim; i += 8) {
        const __m256 row = load_eight<kFormat>(entries.rows[entry], i);
        _mm256_storeu_ps(sum + i, _mm256_add_ps(_mm256_loadu_ps(sum + i), row));
      }
    }
  }
}

template <RowFormat kFormat>
void add_to_samples_avx2(const Entries& entries, float* sums) {
  switch (entries.dim) {
    case 8:
      return add_to_samples_avx2<kFormat, 1>(entries, sums);
    case 16:
      return add_to_samples_avx2<kFormat, 2>(entries, sums);
    case 32:
      return add_to_samples_avx2<kFormat, 4>(entries, sums);
    default:
      return add_eights_to_samples_avx2<kFormat>(entries, sums);
  }
}

// For a dim of 8 x kEights: the sum stays in registers.
template <RowFormat kFormat, std::size_t kEights>
[[gnu::target("avx2,f16c")]] void add_runs_avx2(std::span<const std::byte* const> rows,
                                                std::span<const std::uint32_t> counts, float* sums) {
  std::size_t next = 0;
  for (const std::uint32_t count : counts) {
    __m256 sum[kEights];
    for (std::size_t k = 0; k < kEights; ++k) sum[k] = _mm256_loadu_ps(sums + 8 * k);
    for (const std::size_t end = next + count; next < end; ++next) {
      __builtin_prefetch(rows[std::min(next + kPrefetchAhead, rows.size() - 1)]);
      for (std::size_t k = 0; k < kEights; ++k) {
        sum[k] = _mm256_add_ps(sum[k], load_eight<kFormat>(rows[next], 8 * k));
      }
    }
    for (std::size_t k = 0; k < kEights; ++k) _mm256_storeu_ps(sums + 8 * k, sum[k]);
    sums += kEights * 8;
  }
}

// For a dim that is a multiple of 8.
template <RowFormat kFormat>
[[gnu::target("avx2,f16c")]] void add_runs_of_eights_avx2(std::span<const std::byte* const> rows,
                                                          std::size_t dim,
                                                          std::span<const std::uint32_t> counts,
                                                          float* sums) {
  std::size_t next = 0;
  for (const std::uint32_t count : counts) {
    for (std::size_t i = 0; i < dim; i += 8) {
      __m256 sum = _mm256_loadu_ps(sums + i);
      for (std::size_t r = next; r < next + count; ++r) {
        sum = _mm256_add_ps(sum, load_eight<kFormat>(rows[r], i));
      }
      _mm256_storeu_ps(sums + i, sum);
    }
    next += count;
    sums += dim;
  }
}

template <RowFormat kFormat>
void add_runs_avx2(std::span<const std::byte* const> rows, std::size_t dim,
                   std::span<const std::uint32_t> counts, float* sums) {
  switch (dim) {
    case 8:
      return add_runs_avx2<kFormat, 1>(rows, counts, sums);
    case 16:
      return add_runs_avx2<kFormat, 2>(rows, counts, sums);
    case 32:
      return add_runs_avx2<kFormat, 4>(rows, counts, sums);
    default:
      return add_runs_of_eights_avx2<kFormat>(rows, dim, counts, sums);
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

void add_to_samples(std::span<const std::byte* const> rows, RowFormat format, std::size_t dim,
                    std::span<const std::uint32_t> starts, std::span<const Position> positions, float* sums,
                    Kernels kernels) {
  const Entries entries{rows, dim, starts, positions};
#if defined(__x86_64__)
  if (kernels == Kernels::kBest && dim % 8 == 0 && has_f16c()) {
    return format == RowFormat::kFloat16 ? add_to_samples_avx2<RowFormat::kFloat16>(entries, sums)
                                         : add_to_samples_avx2<RowFormat::kFloat32>(entries, sums);
  }
#endif
  static_cast<void>(kernels);
  add_to_samples_portable(entries, format, sums);
}

void add_runs_to_samples(std::span<const std::byte* const> rows, RowFormat format, std::size_t dim,
                         std::span<const std::uint32_t> counts, float* sums, Kernels kernels) {
#if defined(__x86_64__)
  if (kernels == Kernels::kBest && dim % 8 == 0 && has_f16c()) {
    return format == RowFormat::kFloat16 ? add_runs_avx2<RowFormat::kFloat16>(rows, dim, counts, sums)
                                         : add_runs_avx2<RowFormat::kFloat32>(rows, dim, counts, sums);
  }
#endif
  static_cast<void>(kernels);
  add_runs_portable(rows, format, dim, counts, sums);
}

void scale(float* values, std::size_t n, float factor) {
  for (std::size_t i = 0; i < n; ++i) values[i] *= factor;
}

}  // namespace satrap
