// Lookups in batches, in the form that SATRAP_FORM names: included once for each by table_lookup.cpp, because
// the vector instructions of a form have to be enabled for every function that they end up in.
//
// Ids run through three stages, a window apart, so that memory's latency is that of a whole window:
//
//     start    hash; prefetch the home bucket
//     look     compare its keys; prefetch the row, or the next bucket where this one has overflowed
//     look on  the same in the next bucket, for those few
//     finish   copy the row, look at the header again
//
// What is out of the ordinary (the writer is inside the bucket, the header has changed, a third bucket) is
// left to read_row, which knows all the rules.

#ifndef SATRAP_FORM
#error "table_pipeline.h is included by table_lookup.cpp"
#endif

namespace SATRAP_FORM {

struct Probe {
  std::uint64_t sign;
  const SegmentView* view;
  const Bucket* line;
  const std::byte* row;  // null: not found so far
  std::uint64_t header;  // of the line, as the keys were compared; or one of the two below
};

// No header has these values: its upper bits are zero.
constexpr std::uint64_t kLookOn = ~std::uint64_t{0};
constexpr std::uint64_t kSlowly = ~std::uint64_t{1};

constexpr std::size_t kWindow = 20;  // ids between two stages: enough to cover memory's latency
constexpr std::size_t kRing = 64;    // a power of two, more than three windows
static_assert(kRing > 3 * kWindow && (kRing & (kRing - 1)) == 0);

// Compares the keys of probe.line with its sign. `last`: there is no stage behind this one.
template <std::size_t kRowBytes>
SATRAP_INLINE void look(Probe& probe, std::size_t stride, bool last) {
  const Bucket* const line = probe.line;
  const std::uint64_t header = line->header.load(std::memory_order_acquire);
  const std::uint64_t slots = matching(*line, header, probe.sign);
  if (slots) {
    const auto position = static_cast<std::size_t>(line - probe.view->buckets) * kSlots +
                          static_cast<std::size_t>(std::countr_zero(slots));
    probe.row = probe.view->rows + position * stride;
    probe.header = bucket_header::is_changing(header) ? kSlowly : header;
    const std::size_t bytes = kRowBytes ? kRowBytes : std::min<std::size_t>(stride, 512);
    for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(probe.row + at);
    return;
  }
  probe.row = nullptr;
  probe.header = header;
  if (bucket_header::is_changing(header)) {
    probe.header = kSlowly;
  } else if (header & bucket_header::kOverflow) {
    // That the sign is not here counts only if nothing has changed since.
    if (last || line->header.load(std::memory_order_relaxed) != header) {
      probe.header = kSlowly;
      return;
    }
    probe.line = line + 1 == probe.view->buckets + probe.view->bucket_count ? probe.view->buckets : line + 1;
    probe.header = kLookOn;
    __builtin_prefetch(probe.line);
  }
}

template <std::size_t kRowBytes>
SATRAP_TARGET std::size_t lookup(const Snapshot& snapshot, const std::byte* signs, std::size_t n,
                                 std::byte* out, std::uint8_t* found) {
  const std::size_t row_bytes = kRowBytes ? kRowBytes : snapshot.shape.bytes();
  const std::size_t stride = kRowBytes ? kRowBytes : snapshot.shape.words() * 8;
  const SegmentView* const views = snapshot.views.data();
  const std::uint16_t* const segment_of = snapshot.segment_of.data();
  std::size_t missing = 0;
  Probe ring[kRing];
  for (std::size_t step = 0; step < n + 3 * kWindow; ++step) {
    if (step < n) {
      Probe& probe = ring[step % kRing];
      std::memcpy(&probe.sign, signs + step * sizeof(probe.sign), sizeof(probe.sign));
      const std::uint64_t hash = sign_hash(probe.sign);
      probe.view = views + segment_of[entry_of(hash)];
      probe.line = probe.view->buckets + home_bucket(hash, probe.view->bucket_count);
      __builtin_prefetch(probe.line);
    }
    if (step - kWindow < n) look<kRowBytes>(ring[(step - kWindow) % kRing], stride, false);
    if (step - 2 * kWindow < n) {
      Probe& probe = ring[(step - 2 * kWindow) % kRing];
      if (probe.header == kLookOn) look<kRowBytes>(probe, stride, true);
    }
    if (const std::size_t i = step - 3 * kWindow; i < n) {
      const Probe& probe = ring[i % kRing];
      std::byte* const target = out + i * row_bytes;
      bool there = probe.row != nullptr;
      if (there) copy_row(probe.row, row_bytes, target);
      if (probe.line->header.load(std::memory_order_relaxed) != probe.header) {
        there = read_row(snapshot.segment_at(sign_hash(probe.sign)), *snapshot.redo, probe.sign, row_bytes,
                         target);
      }
      if (!there) {
        std::memset(target, 0, row_bytes);
        ++missing;
      }
      if (found) found[i] = there;
    }
  }
  return missing;
}

SATRAP_TARGET std::size_t lookup_rows(const Snapshot& snapshot, const std::byte* signs, std::size_t n,
                                      std::byte* out, std::uint8_t* found) {
  switch (snapshot.shape.bytes()) {
    case 32:
      return lookup<32>(snapshot, signs, n, out, found);
    case 64:
      return lookup<64>(snapshot, signs, n, out, found);
    case 128:
      return lookup<128>(snapshot, signs, n, out, found);
    case 256:
      return lookup<256>(snapshot, signs, n, out, found);
    default:
      return lookup<0>(snapshot, signs, n, out, found);
  }
}

}  // namespace SATRAP_FORM
