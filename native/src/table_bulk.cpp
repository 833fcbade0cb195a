#include "table_bulk.h"

#include <bit>

#include "row_pack.h"

#if defined(__x86_64__)
#include <emmintrin.h>
#endif

namespace satrap {
namespace {

// How many rows ahead a bucket is fetched; and a row, once its bucket tells its place.
constexpr std::size_t kFar = 24;
constexpr std::size_t kNear = 10;

// Ways of writing a row.

// As it is, in whole cache lines (the rows of a segment begin with one): past the caches, which saves reading
// the lines first.
struct StreamedRows {
  static constexpr bool kFetches = false;
  RowShape shape;

  static bool suits(RowShape shape, RowType source) {
#if defined(__x86_64__)
    return source == shape.type && shape.bytes() % 64 == 0;
#else
    static_cast<void>(shape), static_cast<void>(source);
    return false;
#endif
  }
  void write(const std::byte* values, std::byte* to) const {
#if defined(__x86_64__)
    for (std::size_t at = 0; at < shape.bytes(); at += 16) {
      _mm_stream_si128(reinterpret_cast<__m128i*>(to + at),
                       _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + at)));
    }
#else
    std::memcpy(to, values, shape.bytes());
#endif
  }
  // These stores, and no others, may otherwise come after later ones.
  void finish() const {
#if defined(__x86_64__)
    _mm_sfence();
#endif
  }
};

struct PackedRows {
  static constexpr bool kFetches = true;
  RowShape shape;
  RowType source;

  void write(const std::byte* values, std::byte* to) const {
    pack_row(values, source, shape, reinterpret_cast<std::uint64_t*>(to));
  }
  void finish() const {}
};

std::uint64_t equal_slots(const Bucket& line, std::uint64_t sign) {
  std::uint64_t equal = 0;
#pragma GCC unroll 7
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    equal |= std::uint64_t{line.keys[slot].load(std::memory_order_relaxed) == sign} << slot;
  }
  return equal;
}

// The slot of a sign, or the one that it gets.
struct Found {
  Place place;
  bool is_used;
};

Found find(const Segment& segment, const BulkRow& row) {
  const auto home = static_cast<std::size_t>(row.home - segment.buckets());
  Place free{segment.bucket_count(), 0};
  std::size_t index = home;
  for (std::size_t hop = 0; hop < segment.bucket_count(); ++hop, index = segment.next(index)) {
    const Bucket& line = segment.bucket(index);
    const std::uint64_t header = line.header.load(std::memory_order_relaxed);
    const std::uint64_t used = bucket_header::used(header);
    if (const std::uint64_t equal = equal_slots(line, row.sign) & used) {
      return {{index, static_cast<std::size_t>(std::countr_zero(equal))}, true};
    }
    if (free.bucket == segment.bucket_count() && used != bucket_header::kSlotMask) {
      free = {index, static_cast<std::size_t>(std::countr_one(used))};
    }
    if (!(header & bucket_header::kOverflow) && free.bucket != segment.bucket_count()) break;
  }
  return {free, false};
}

void mark_overflow(const Segment& segment, const BulkRow& row, std::size_t until) {
  for (auto index = static_cast<std::size_t>(row.home - segment.buckets()); index != until;
       index = segment.next(index)) {
    std::atomic<std::uint64_t>& header = segment.bucket(index).header;
    header.store(header.load(std::memory_order_relaxed) | bucket_header::kOverflow,
                 std::memory_order_relaxed);
  }
}

void fetch_row(const Segment& segment, const BulkRow& row, std::size_t row_bytes) {
  const std::uint64_t used = bucket_header::used(row.home->header.load(std::memory_order_relaxed));
  if (used == bucket_header::kSlotMask) return;
  const Place place{static_cast<std::size_t>(row.home - segment.buckets()),
                    static_cast<std::size_t>(std::countr_one(used))};
  const auto* const at = reinterpret_cast<const std::byte*>(segment.row(place));
  for (std::size_t line = 0; line < std::min<std::size_t>(row_bytes, 512); line += 64)
    __builtin_prefetch(at + line, 1);
}

template <class Rows>
std::size_t fill(const Segment& segment, std::span<const BulkRow> batch, std::size_t begin, std::size_t room,
                 std::uint32_t ordinal, const Rows& rows, BulkCounts& counts) {
  const std::uint32_t mine = batch[begin].segment;
  const std::size_t n = batch.size();
  std::size_t i = begin;
  for (; i < n && batch[i].segment == mine; ++i) {
    if (i + kFar < n) __builtin_prefetch(batch[i + kFar].home, 1);
    if (Rows::kFetches && i + kNear < n && batch[i + kNear].segment == mine) {
      fetch_row(segment, batch[i + kNear], rows.shape.bytes());
    }
    const BulkRow& row = batch[i];
    const std::uint64_t header = row.home->header.load(std::memory_order_relaxed);
    const std::uint64_t used = bucket_header::used(header);
    // Nearly always: the home bucket has room, no row ever went past it, and the sign is not there.
    if (used != bucket_header::kSlotMask && !(header & bucket_header::kOverflow) &&
        !(equal_slots(*row.home, row.sign) & used)) [[likely]] {
      if (counts.inserted == room) break;
      const auto slot = static_cast<std::size_t>(std::countr_one(used));
      const Place place{static_cast<std::size_t>(row.home - segment.buckets()), slot};
      row.home->keys[slot].store(row.sign, std::memory_order_relaxed);
      row.home->header.store(header | bucket_header::occupied_bit(slot), std::memory_order_relaxed);
      rows.write(row.values, reinterpret_cast<std::byte*>(segment.row(place)));
      // The ordinal of a slot that was never used is zero: another line that need not be touched.
      if (ordinal != 0) segment.ordinal(place).store(ordinal, std::memory_order_relaxed);
      ++counts.inserted;
      ++counts.written;
      continue;
    }
    const Found found = find(segment, row);
    std::atomic<std::uint32_t>* const stored =
        found.place.bucket == segment.bucket_count() ? nullptr : &segment.ordinal(found.place);
    if (found.is_used ? stored->load(std::memory_order_relaxed) > ordinal : counts.inserted == room) {
      if (found.is_used) continue;
      break;
    }
    Bucket& line = segment.bucket(found.place.bucket);
    if (!found.is_used) {
      mark_overflow(segment, row, found.place.bucket);
      line.keys[found.place.slot].store(row.sign, std::memory_order_relaxed);
    }
    const std::uint64_t before = line.header.load(std::memory_order_relaxed);
    const std::uint64_t occupied = bucket_header::occupied_bit(found.place.slot);
    line.header.store((before | occupied) & ~bucket_header::tombstone_bit(found.place.slot),
                      std::memory_order_relaxed);
    rows.write(row.values, reinterpret_cast<std::byte*>(segment.row(found.place)));
    if (found.is_used || ordinal != 0) stored->store(ordinal, std::memory_order_relaxed);
    counts.inserted += !found.is_used;
    counts.revived += found.is_used && !(before & occupied);
    ++counts.written;
  }
  rows.finish();
  return i;
}

}  // namespace

std::size_t fill_segment(const Segment& segment, RowShape shape, std::span<const BulkRow> rows,
                         std::size_t begin, std::size_t room, RowType source, std::uint32_t ordinal,
                         BulkCounts& counts) {
  if (StreamedRows::suits(shape, source)) {
    return fill(segment, rows, begin, room, ordinal, StreamedRows{shape}, counts);
  }
  return fill(segment, rows, begin, room, ordinal, PackedRows{shape, source}, counts);
}

}  // namespace satrap
