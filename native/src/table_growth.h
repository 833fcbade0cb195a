// How large segments are, and when they become larger: functions of numbers alone.
#ifndef SATRAP_TABLE_GROWTH_H_
#define SATRAP_TABLE_GROWTH_H_

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "satrap/table_layout.h"

namespace satrap::table_growth {

constexpr double kMaxLoad = 0.86;   // of slots; beyond it searches become long
constexpr double kBulkLoad = 0.85;  // what a table is made for when the number of rows is known
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kLeastLimit = std::size_t{2} << 20;
constexpr std::size_t kGreatestLimit = std::size_t{32} << 20;
constexpr std::size_t kDoublingBelow = std::size_t{512}
                                       << 10;  // small segments double: rebuilding is all they cost
constexpr double kMaxRounding = 0.024;         // slack that whole huge pages may cost

// Slots of a segment that may be in use before it is rebuilt.
inline std::size_t max_used(std::size_t bucket_count) {
  return static_cast<std::size_t>(static_cast<double>(bucket_count * kSlots) * kMaxLoad);
}

inline std::size_t buckets_for(double rows, double load) {
  return std::max<std::size_t>(1, static_cast<std::size_t>(std::ceil(rows / (kSlots * load))));
}

// The most buckets in the file pages that `bucket_count` needs anyway.
inline std::size_t fill_pages(std::size_t bucket_count, std::size_t row_words) {
  const std::size_t end = segment_layout(bucket_count, row_words).end;
  const std::size_t per_bucket = sizeof(Bucket) + kSlots * (row_words * 8 + sizeof(std::uint32_t));
  std::size_t most = (end - kPageBytes) / per_bucket;
  while (most > bucket_count && segment_layout(most, row_words).end > end) --most;
  return std::max(most, bucket_count);
}

// Bytes beyond which a segment is split: what exists twice during a rebuild is to be a small part of the
// table.
inline std::size_t segment_limit(std::size_t table_bytes) {
  return std::clamp(table_bytes / 16, kLeastLimit, kGreatestLimit);
}

// Buckets of a segment that is to replace a full one, of which `kept` rows and tombstones stay: more than
// those need, and no more than that where the others are tombstones that are dropped. The factor depends on
// `number`, so that segments which were filled together do not grow together for ever; its mean keeps a table
// whose segments have all just grown, and one of them is there twice, below 1.6 x rows x (8 + row bytes).
inline std::size_t grown(std::size_t kept, std::size_t row_words, std::uint32_t number) {
  constexpr double kGolden = 0.6180339887498949;  // its multiples are spread evenly over [0, 1)
  const double spread = std::fmod(static_cast<double>(number) * kGolden, 1.0);
  const std::size_t bucket_count = buckets_for(static_cast<double>(kept), kMaxLoad);
  const bool small = segment_layout(bucket_count, row_words).end < kDoublingBelow;
  const double factor = small ? 2.0 : 1.13 + 0.20 * spread;
  const auto next = static_cast<std::size_t>(std::ceil(static_cast<double>(bucket_count) * factor));
  return fill_pages(std::max(next, bucket_count + 1), row_words);
}

// One segment of a table that is made for a known number of rows.
struct Share {
  std::uint32_t first_entry;
  std::uint32_t end_entry;
  std::size_t bucket_count;
};

// The segments of a table for `rows` rows. Their number is the one that wastes least when buckets and rows
// end with whole huge pages, so that only ordinals, which lookups do not touch, lie in small ones.
inline std::vector<Share> initial_shares(std::size_t rows, std::size_t row_words) {
  const std::size_t bucket_bytes = sizeof(Bucket) + kSlots * row_words * 8;  // without ordinals
  // Rows fall into segments at random: three standard deviations of a share have to fit as well.
  const auto exact = [&](double share) {
    const double expected = static_cast<double>(rows) * share;
    return std::max(buckets_for(expected, kBulkLoad),
                    buckets_for(expected + 3 * std::sqrt(expected), kMaxLoad));
  };
  const std::size_t total = exact(1.0) * bucket_bytes;
  const std::size_t limit = segment_limit(total);
  const std::size_t least = std::clamp<std::size_t>((total + limit - 1) / limit, 1, kEntries);
  const auto rounding = [&](std::size_t count) {
    const double each = static_cast<double>(total) / static_cast<double>(count) + kPageBytes;
    return std::ceil(each / kHugePage) * kHugePage / each - 1;
  };
  std::size_t count = least;
  for (std::size_t candidate = least; candidate <= std::min(2 * least, kEntries); ++candidate) {
    if (rounding(candidate) < rounding(count)) count = candidate;
  }
  const double slack = rounding(count) <= kMaxRounding ? rounding(count) : 0;
  std::vector<Share> shares;
  for (std::size_t i = 0; i < count; ++i) {
    const auto first = static_cast<std::uint32_t>(i * kEntries / count);
    const auto end = static_cast<std::uint32_t>((i + 1) * kEntries / count);
    const std::size_t needed = exact(static_cast<double>(end - first) / kEntries);
    const auto rounded = static_cast<std::size_t>(static_cast<double>(needed) * (1 + slack));
    shares.push_back({first, end, fill_pages(std::max(needed, rounded), row_words)});
  }
  return shares;
}

}  // namespace satrap::table_growth

#endif  // SATRAP_TABLE_GROWTH_H_
