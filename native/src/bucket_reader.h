// One bucket as it is at one moment, whatever the writer does to it meanwhile: the rules of docs/table.md,
// "Readers never wait", in their portable form. The pipelines in table_pipeline.h do the usual case by
// vectors and leave all others to this.
#ifndef SATRAP_BUCKET_READER_H_
#define SATRAP_BUCKET_READER_H_

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "satrap/table_layout.h"
#include "table_segment.h"

namespace satrap {

// The slots, of those in `candidates`, whose key is `sign`: one bit or none.
inline std::uint64_t matching_slots(const Bucket& line, std::uint64_t candidates, std::uint64_t sign) {
  std::uint64_t equal = 0;
#pragma GCC unroll 7
  for (std::size_t slot = 0; slot < kSlots; ++slot) {
    equal |= std::uint64_t{line.keys[slot].load(std::memory_order_acquire) == sign} << slot;
  }
  return equal & candidates;
}

// Copies a row whose words another process may be writing.
inline void copy_words(const std::atomic<std::uint64_t>* words, std::size_t bytes, std::byte* out) {
  const std::size_t whole = bytes / 8;
  for (std::size_t i = 0; i < whole; ++i) {
    const std::uint64_t word = words[i].load(std::memory_order_acquire);
    std::memcpy(out + i * 8, &word, 8);
  }
  if (bytes % 8) {
    const std::uint64_t word = words[whole].load(std::memory_order_acquire);
    std::memcpy(out + whole * 8, &word, bytes % 8);
  }
}

// Copies the row of `sign` to `out` (row_bytes; null: nothing is copied). False: there is none, and `out` may
// hold anything. Never waits; starts over at a bucket only if the writer has completed something there.
inline bool read_row(const Segment& segment, const RedoRecord& redo, std::uint64_t sign,
                     std::size_t row_bytes, std::byte* out) {
  std::size_t index = segment.home(sign_hash(sign));
  for (std::size_t hop = 0; hop < segment.bucket_count(); ++hop, index = segment.next(index)) {
    const Bucket& line = segment.bucket(index);
    std::uint64_t header;
    bool found;
    do {
      header = line.header.load(std::memory_order_acquire);
      if (bucket_header::is_changing(header) && redo.sign.load(std::memory_order_acquire) == sign) {
        const std::uint64_t operation = redo.operation.load(std::memory_order_acquire);
        if (out) copy_words(redo.row, row_bytes, out);
        if (line.header.load(std::memory_order_relaxed) == header) {
          return operation == static_cast<std::uint64_t>(RedoOperation::kUpsert);
        }
        found = false;
        continue;
      }
      const std::uint64_t slots = matching_slots(line, bucket_header::occupied(header), sign);
      found = slots != 0;
      if (found && out) {
        const Place place{index, static_cast<std::size_t>(std::countr_zero(slots))};
        copy_words(segment.row(place), row_bytes, out);
      }
    } while (line.header.load(std::memory_order_relaxed) != header);
    if (found) return true;
    if (!(header & bucket_header::kOverflow)) return false;
  }
  return false;
}

// The rows of a bucket: room for kSlots of each is needed. Returns how many there are.
inline std::size_t read_bucket(const Segment& segment, const RedoRecord& redo, std::size_t index,
                               std::size_t row_bytes, std::uint64_t* signs, std::byte* rows,
                               std::uint32_t* ordinals) {
  const Bucket& line = segment.bucket(index);
  for (;;) {
    const std::uint64_t header = line.header.load(std::memory_order_acquire);
    std::uint64_t slots = bucket_header::occupied(header);
    std::size_t n = 0;
    if (bucket_header::is_changing(header)) {
      slots &= ~(std::uint64_t{1} << (redo.slot.load(std::memory_order_acquire) % kSlots));
      if (redo.operation.load(std::memory_order_acquire) ==
          static_cast<std::uint64_t>(RedoOperation::kUpsert)) {
        signs[n] = redo.sign.load(std::memory_order_acquire);
        copy_words(redo.row, row_bytes, rows);
        ordinals[n] = static_cast<std::uint32_t>(redo.ordinal.load(std::memory_order_acquire));
        ++n;
      }
    }
    for (; slots; slots &= slots - 1, ++n) {
      const Place place{index, static_cast<std::size_t>(std::countr_zero(slots))};
      signs[n] = line.keys[place.slot].load(std::memory_order_acquire);
      copy_words(segment.row(place), row_bytes, rows + n * row_bytes);
      ordinals[n] = segment.ordinal(place).load(std::memory_order_acquire);
    }
    if (line.header.load(std::memory_order_relaxed) == header) return n;
  }
}

}  // namespace satrap

#endif  // SATRAP_BUCKET_READER_H_
