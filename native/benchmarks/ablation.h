// The floor under a lookup, and the table's pipeline with one feature after the other added to it.
#ifndef SATRAP_BENCHMARKS_ABLATION_H_
#define SATRAP_BENCHMARKS_ABLATION_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "satrap/table_layout.h"
#include "satrap/table_memory.h"

namespace satrap::benchmarks {

constexpr std::size_t kDim = 16;
constexpr std::size_t kRowBytes = kDim * sizeof(float);

// Rows 0 ... count - 1 in a row, nothing else: what a table is compared with.
class RowArray {
 public:
  RowArray(std::size_t rows, TableMemory& memory);
  const std::byte* data() const { return mapping_.data(); }
  bool is_huge() const { return mapping_.is_huge(); }

 private:
  Mapping mapping_;
};

// The same rows as a table's segments: buckets and rows as table_layout.h has them, `segments` of them, each
// for as many directory entries, filled to `load` in the order given.
class Segments {
 public:
  struct Part {
    Bucket* buckets;
    std::byte* rows;
    std::uint64_t bucket_count;
  };

  Segments(const std::vector<std::uint32_t>& order, std::size_t segments, double load, TableMemory& memory);
  const Part& first() const { return parts_.front(); }
  const Part* parts() const { return parts_.data(); }
  const std::uint16_t* segment_of() const { return segment_of_.data(); }
  // The part of the rows that are not in their home bucket.
  double displaced() const { return displaced_; }

 private:
  std::vector<Mapping> mappings_;
  std::vector<Part> parts_;
  std::array<std::uint16_t, kEntries> segment_of_;
  double displaced_;
};

// Copies `n` rows whose numbers are known to `out`, prefetching `window` ahead.
struct Gather {
  std::size_t window;
  void (*run)(const std::byte* rows, const std::uint32_t* numbers, std::size_t n, std::byte* out);
};

// Copies the rows of `n` signs, all of which are there, to `out`.
struct Variant {
  std::string name;
  bool is_segmented;
  void (*run)(const Segments& segments, const std::byte* signs, std::size_t n, std::byte* out);
};

// In the best form that this processor has.
std::vector<Gather> gathers();
// Each with one feature more than the one before.
std::vector<Variant> variants();

}  // namespace satrap::benchmarks

#endif  // SATRAP_BENCHMARKS_ABLATION_H_
