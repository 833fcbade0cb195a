// Rows into tensors: sums in float32, results in float16 as numpy's astype rounds.
//
// Each kernel has a portable form and one for CPUs with AVX2 and F16C, chosen at run time; both give the same
// bits. Arrays may have any alignment; none may overlap.
#ifndef SATRAP_POOLING_H_
#define SATRAP_POOLING_H_

#include <cstddef>
#include <cstdint>
#include <span>

#include "satrap/id_feature.h"

namespace satrap {

// Which form runs: kBest is the CPU's, kPortable is for tests that compare them.
enum class Kernels : std::uint8_t { kBest, kPortable };

// out[i] = the float16 nearest to in[i]; ties to even, too great becomes infinity.
void to_half(const float* in, std::uint16_t* out, std::size_t n, Kernels kernels = Kernels::kBest);

// out[i] = the i-th float16 of `in`, exactly.
void from_half(const std::byte* in, float* out, std::size_t n, Kernels kernels = Kernels::kBest);

// How the values of a row are stored.
enum class RowFormat : std::uint8_t { kFloat32, kFloat16 };

// Adds rows[i] (`dim` values) to the row of each sample in sums[samples, dim] where entry i stands, in the
// order of the entries and their positions: as often as the entry stands there. starts as in IdFeature.
void add_to_samples(std::span<const std::byte* const> rows, RowFormat format, std::size_t dim,
                    std::span<const std::uint32_t> starts, std::span<const Position> positions, float* sums,
                    Kernels kernels = Kernels::kBest);

// The same where every row stands once and the rows follow the samples: adds the next counts[s] rows to the
// row of sample s, in their order. A sample's sum stays in registers, so no row waits for the one before it
// to be written and read again.
void add_runs_to_samples(std::span<const std::byte* const> rows, RowFormat format, std::size_t dim,
                         std::span<const std::uint32_t> counts, float* sums,
                         Kernels kernels = Kernels::kBest);

// values[i] *= factor.
void scale(float* values, std::size_t n, float factor);

}  // namespace satrap

#endif  // SATRAP_POOLING_H_
