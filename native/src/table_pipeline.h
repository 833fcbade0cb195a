// Lookups in batches, in the form that SATRAP_FORM names (copy_forms.h).
//
// Ids run through three stages, a window apart, so that memory's latency is that of a whole window:
//
//     start    hash; prefetch the home bucket
//     look     compare its keys; prefetch the row
//     finish   copy the row, look at the header again
//
// The stages have no branch that depends on what they find. An id that is not in its home bucket (one of nine
// in a full table), or that meets the writer, is noted as *late* and copies zeros meanwhile. Late ids are
// worked off afterwards in waves: one bucket of each, then the next bucket of each that is left, so that
// their cache misses overlap as well. Followed one by one they took as long as all others together.
//
// What is out of the ordinary even there (the writer is inside the bucket, or has been meanwhile) is left to
// read_row, which knows all the rules.

#ifndef SATRAP_FORM
#error "table_pipeline.h is included by copy_forms.h"
#endif

namespace SATRAP_FORM {

template <std::size_t kRowBytes>
SATRAP_INLINE void prefetch_row(const std::byte* row, std::size_t stride) {
  // The processor sees by itself that a longer row goes on.
  const std::size_t bytes = kRowBytes ? kRowBytes : std::min<std::size_t>(stride, 512);
  for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at);
}

// ---- late ids ----

// A late id's bucket in the present wave.
struct Search {
  const Bucket* line;
  std::uint16_t segment;
  LateId id;
};

struct Hit {
  const Bucket* line;
  const std::byte* row;
  std::uint64_t header;  // as the keys were compared
  LateId id;
};

// Looks up the ids late[0..n), n <= kLateIds. Returns how many have no row.
template <std::size_t kRowBytes>
SATRAP_TARGET __attribute__((noinline)) std::size_t finish_late(const Snapshot& snapshot,
                                                                const std::byte* signs, const LateId* late,
                                                                std::size_t n, std::byte* out,
                                                                std::uint8_t* found) {
  const std::size_t row_bytes = kRowBytes ? kRowBytes : snapshot.shape.bytes();
  const std::size_t stride = kRowBytes ? kRowBytes : snapshot.shape.words() * 8;
  const SegmentView* const views = snapshot.views.data();
  std::size_t missing = 0;
  const auto miss = [&](LateId id) {
    std::memset(out + id * row_bytes, 0, row_bytes);
    if (found) found[id] = 0;
    ++missing;
  };
  const auto read_slowly = [&](LateId id) {
    const std::uint64_t sign = sign_at(signs, id);
    if (!read_row(snapshot.segment_at(sign_hash(sign)), *snapshot.redo, sign, row_bytes,
                  out + id * row_bytes)) {
      miss(id);
    }
  };

  constexpr std::size_t kAhead = 32;  // searches between the prefetch of a line and the look at it
  Search searches[kLateIds];
  Hit hits[2 * kAhead];
  LateId misses[kAhead];
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t hash = sign_hash(sign_at(signs, late[i]));
    const std::uint16_t segment = snapshot.segment_of[entry_of(hash)];
    const SegmentView& view = views[segment];
    searches[i] = {view.buckets + home_bucket(hash, view.bucket_count), segment, late[i]};
  }
  for (bool at_home = true; n > 0; at_home = false) {
    // In the first wave the next bucket as well: that is where most of these are.
    const auto prefetch = [&](const Search& search) {
      __builtin_prefetch(search.line);
      if (at_home) __builtin_prefetch(search.line + 1);
    };
    for (std::size_t i = 0; i < std::min(n, kAhead); ++i) prefetch(searches[i]);
    std::size_t left = 0, hit = 0;
    for (std::size_t begin = 0; begin < n; begin += kAhead) {
      const std::size_t end = std::min(n, begin + kAhead);
      const std::size_t old = hit;  // found in the block before: their rows are here by now
      std::size_t gone = 0;
      for (std::size_t i = begin; i < end; ++i) {
        if (i + kAhead < n) prefetch(searches[i + kAhead]);
        const Search search = searches[i];
        const SegmentView& view = views[search.segment];
        const std::uint64_t sign = sign_at(signs, search.id);
        const Bucket* const end_line = view.buckets + view.bucket_count;
        const Bucket* line = search.line;
        std::uint64_t header = line->header.load(std::memory_order_acquire);
        std::uint64_t slots = matching(*line, header, sign);
        bool changed = line->header.load(std::memory_order_relaxed) != header;
        if (at_home && !slots && !changed && (header & bucket_header::kOverflow) &&
            !bucket_header::is_changing(header)) {
          line = line + 1 == end_line ? view.buckets : line + 1;
          header = line->header.load(std::memory_order_acquire);
          slots = matching(*line, header, sign);
          changed = line->header.load(std::memory_order_relaxed) != header;
        }
        if (changed || bucket_header::is_changing(header)) [[unlikely]] {
          read_slowly(search.id);
          continue;
        }
        const bool has = slots != 0;
        const bool overflows = header & bucket_header::kOverflow;
        const std::size_t slot = static_cast<std::size_t>(std::countr_zero(slots | 1u << (kSlots - 1)));
        const std::byte* const row =
            view.rows + (static_cast<std::size_t>(line - view.buckets) * kSlots + slot) * stride;
        hits[hit] = {line, row, header, search.id};
        hit += has;
        searches[left] = {line + 1 == end_line ? view.buckets : line + 1, search.segment, search.id};
        left += !has && overflows;
        misses[gone] = search.id;
        gone += !has && !overflows;
        prefetch_row<kRowBytes>(has ? row : kZeroRow.data(), stride);
      }
      for (std::size_t i = 0; i < gone; ++i) miss(misses[i]);
      const bool last = end == n;
      const std::size_t ready = last ? hit : old;
      for (std::size_t i = 0; i < ready; ++i) {
        const Hit& one = hits[i];
        copy_row(one.row, row_bytes, out + one.id * row_bytes);
        if (one.line->header.load(std::memory_order_relaxed) != one.header) [[unlikely]]
          read_slowly(one.id);
      }
      std::copy(hits + ready, hits + hit, hits);
      hit -= ready;
    }
    n = left;
  }
  return missing;
}

// ---- the pipeline ----

struct Probe {
  const Bucket* line;
  const std::byte* row;  // of the bucket's first slot; after look, the sign's, or zeros
  std::uint64_t header;  // as the keys were compared
};

// A batch of at most kBatchIds.
template <std::size_t kRowBytes>
struct Batch {
  const std::size_t row_bytes;
  const std::size_t stride;
  const SegmentView* const views;
  const std::uint16_t* const segment_of;
  const std::byte* const signs;
  std::byte* const out;

  SATRAP_INLINE void start(std::uint64_t hash, Probe& probe) const {
    const SegmentView& view = views[segment_of[entry_of(hash)]];
    const std::size_t home = home_bucket(hash, view.bucket_count);
    probe.line = view.buckets + home;
    probe.row = view.rows + home * (kSlots * stride);
    __builtin_prefetch(probe.line);
  }

  // Stores the id to *late and returns 1 if it is late, else 0.
  SATRAP_INLINE std::size_t look(std::size_t i, Probe& probe, LateId* late) const {
    const std::uint64_t header = probe.line->header.load(std::memory_order_acquire);
    const std::uint64_t slots = matching(*probe.line, header, sign_at(signs, i));
    const bool is_late = (slots == 0) | bucket_header::is_changing(header);
    const auto slot = static_cast<std::size_t>(std::countr_zero(slots | 1u << (kSlots - 1)));
    const std::byte* const row = either(is_late, kZeroRow.data(), probe.row + slot * stride);
    probe.row = row;
    probe.header = header;
    *late = static_cast<LateId>(i);
    prefetch_row<kRowBytes>(row, stride);
    return is_late;
  }

  SATRAP_INLINE std::size_t finish(std::size_t i, const Probe& probe, LateId* late) const {
    copy_row(probe.row, row_bytes, out + i * row_bytes);
    if (probe.line->header.load(std::memory_order_relaxed) == probe.header) [[likely]]
      return 0;
    if (probe.row == kZeroRow.data()) return 0;  // noted already
    *late = static_cast<LateId>(i);
    return 1;
  }
};

template <std::size_t kRowBytes>
SATRAP_TARGET std::size_t lookup(const Snapshot& snapshot, const std::byte* signs, std::size_t n,
                                 std::byte* out, std::uint8_t* found) {
  static_assert(kRing >= 2 * kWindow + kFormBlock && kRing % kFormBlock == 0 && kWindow % kFormBlock == 0);
  const Batch<kRowBytes> batch{kRowBytes ? kRowBytes : snapshot.shape.bytes(),
                               kRowBytes ? kRowBytes : snapshot.shape.words() * 8,
                               snapshot.views.data(),
                               snapshot.segment_of.data(),
                               signs,
                               out};
  Probe ring[kRing];
  LateId late[kBatchIds + 1];  // an id that is not late is stored behind the end, and overwritten
  std::size_t late_ids = 0;
  std::size_t started = std::min(n, 2 * kWindow);
  std::size_t looked = std::min(n, kWindow);
  std::size_t finished = 0;
  for (std::size_t i = 0; i < started; ++i) batch.start(sign_hash(sign_at(signs, i)), ring[i]);
  for (std::size_t i = 0; i < looked; ++i) late_ids += batch.look(i, ring[i], late + late_ids);
  // From here on the three stages are a window apart.
  for (; started + kFormBlock <= n; started += kFormBlock, looked += kFormBlock, finished += kFormBlock) {
    alignas(64) std::uint64_t hashes[kFormBlock];
    hash_block(signs + started * sizeof(std::uint64_t), hashes);
    Probe* const first = ring + started % kRing;
    Probe* const second = ring + looked % kRing;
    const Probe* const third = ring + finished % kRing;
#pragma GCC unroll 8
    for (std::size_t k = 0; k < kFormBlock; ++k) batch.start(hashes[k], first[k]);
#pragma GCC unroll 8
    for (std::size_t k = 0; k < kFormBlock; ++k)
      late_ids += batch.look(looked + k, second[k], late + late_ids);
#pragma GCC unroll 8
    for (std::size_t k = 0; k < kFormBlock; ++k) {
      late_ids += batch.finish(finished + k, third[k], late + late_ids);
    }
  }
  for (; started < n; ++started) {
    // Its place in the ring is that of an id which is finished: less than a block is left.
    batch.start(sign_hash(sign_at(signs, started)), ring[started % kRing]);
  }
  for (; looked < n; ++looked) late_ids += batch.look(looked, ring[looked % kRing], late + late_ids);
  for (; finished < n; ++finished) {
    late_ids += batch.finish(finished, ring[finished % kRing], late + late_ids);
  }

  if (found) std::memset(found, 1, n);
  std::size_t missing = 0;
  for (std::size_t begin = 0; begin < late_ids; begin += kLateIds) {
    missing += finish_late<kRowBytes>(snapshot, signs, late + begin, std::min(late_ids - begin, kLateIds),
                                      out, found);
  }
  return missing;
}

template <std::size_t kRowBytes>
SATRAP_TARGET std::size_t lookup_batches(const Snapshot& snapshot, const std::byte* signs, std::size_t n,
                                         std::byte* out, std::uint8_t* found) {
  const std::size_t row_bytes = snapshot.shape.bytes();
  std::size_t missing = 0;
  for (std::size_t begin = 0; begin < n; begin += kBatchIds) {
    missing +=
        lookup<kRowBytes>(snapshot, signs + begin * sizeof(std::uint64_t), std::min(n - begin, kBatchIds),
                          out + begin * row_bytes, found ? found + begin : nullptr);
  }
  return missing;
}

SATRAP_TARGET std::size_t lookup_rows(const Snapshot& snapshot, const std::byte* signs, std::size_t n,
                                      std::byte* out, std::uint8_t* found) {
  switch (snapshot.shape.bytes()) {
    case 32:
      return lookup_batches<32>(snapshot, signs, n, out, found);
    case 64:
      return lookup_batches<64>(snapshot, signs, n, out, found);
    case 128:
      return lookup_batches<128>(snapshot, signs, n, out, found);
    case 256:
      return lookup_batches<256>(snapshot, signs, n, out, found);
    default:
      return lookup_batches<0>(snapshot, signs, n, out, found);
  }
}

}  // namespace SATRAP_FORM
