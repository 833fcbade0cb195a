// A bulk load's way into segments that nobody reads yet: a batch is brought into the order of the segments,
// so that each segment's lock is taken once, and written with as few cache misses as there are lines.
#ifndef SATRAP_TABLE_BULK_H_
#define SATRAP_TABLE_BULK_H_

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "satrap/table_layout.h"
#include "table_segment.h"

namespace satrap {

// A row on its way.
struct BulkRow {
  std::uint64_t sign;
  const std::byte* values;
  Bucket* home;
  std::uint32_t segment;  // its place among the table's segments
};

// Rows in the order of their segments; those of one segment stay in the order in which they came.
class BulkBatch {
 public:
  static constexpr std::size_t kMost = 4096;

  // `n` rows, at most kMost. `locate(sign)` says a row's segment, below `segments` <= kEntries, and its home
  // bucket. The order begins with the segment of the first row and goes around: threads that load at the same
  // time are in different segments.
  template <class Locate>
  void group(const std::byte* signs, const std::byte* const* values, std::size_t n, std::size_t segments,
             Locate&& locate) {
    n_ = n;
    std::fill_n(starts_.begin(), segments + 1, std::uint16_t{0});
    for (std::size_t i = 0; i < n; ++i) {
      std::uint64_t sign;
      std::memcpy(&sign, signs + i * sizeof(sign), sizeof(sign));
      segments_[i] = static_cast<std::uint16_t>(locate(sign).first);
      ++starts_[std::size_t{segments_[i]} + 1];
    }
    for (std::size_t s = 0; s < segments; ++s)
      starts_[s + 1] = static_cast<std::uint16_t>(starts_[s + 1] + starts_[s]);
    const std::size_t first = n == 0 ? 0 : starts_[segments_[0]];
    for (std::size_t i = 0; i < n; ++i) {
      const std::size_t at = starts_[segments_[i]]++;
      std::uint64_t sign;
      std::memcpy(&sign, signs + i * sizeof(sign), sizeof(sign));
      rows_[at >= first ? at - first : at + n - first] = {sign, values[i], locate(sign).second, segments_[i]};
    }
  }

  // The same for the rows from `begin` on, after segments were replaced.
  template <class Locate>
  void group_again(std::size_t begin, Locate&& locate) {
    const auto from = rows_.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto end = rows_.begin() + static_cast<std::ptrdiff_t>(n_);
    for (auto row = from; row != end; ++row) {
      const auto [segment, home] = locate(row->sign);
      row->segment = static_cast<std::uint32_t>(segment);
      row->home = home;
    }
    std::stable_sort(from, end, [](const BulkRow& a, const BulkRow& b) { return a.segment < b.segment; });
  }

  std::span<const BulkRow> rows() const { return {rows_.data(), n_}; }

 private:
  static_assert(kMost <= 0xffff && kEntries <= 0xffff);
  std::size_t n_ = 0;
  std::array<std::uint16_t, kEntries + 1> starts_;
  std::array<std::uint16_t, kMost> segments_;
  std::array<BulkRow, kMost> rows_;
};

// What a segment gains.
struct BulkCounts {
  std::size_t inserted = 0;  // slots that had not been used
  std::size_t revived = 0;   // tombstones that became rows
  std::size_t written = 0;   // all together, rows that were overwritten included
};

// Writes the rows from `begin` on that belong to its segment into `segment`, whose lock the caller holds.
// Stops behind the last of them, or at one for which more than `room` slots would have to be taken; returns
// where.
std::size_t fill_segment(const Segment& segment, RowShape shape, std::span<const BulkRow> rows,
                         std::size_t begin, std::size_t room, RowType source, std::uint32_t ordinal,
                         BulkCounts& counts);

}  // namespace satrap

#endif  // SATRAP_TABLE_BULK_H_
