// The floor and the ablation in the form that SATRAP_FORM names (copy_forms.h).
//
// The ablation follows native/src/table_pipeline.h stage by stage. It has no writer and every sign is there,
// so where that one leaves something to read_row this one aborts.

#ifndef SATRAP_FORM
#error "ablation_pipeline.h is included by copy_forms.h"
#endif

namespace SATRAP_FORM {

template <std::size_t kWindow>
SATRAP_TARGET void gather(const std::byte* rows, const std::uint32_t* numbers, std::size_t n,
                          std::byte* out) {
  const std::size_t lead = std::min(n, kWindow);
  for (std::size_t i = 0; i < lead; ++i) __builtin_prefetch(rows + numbers[i] * kRowBytes);
  std::size_t i = 0;
  for (; i + lead < n; ++i) {
    __builtin_prefetch(rows + numbers[i + lead] * kRowBytes);
    copy_row(rows + numbers[i] * kRowBytes, kRowBytes, out + i * kRowBytes);
  }
  for (; i < n; ++i) copy_row(rows + numbers[i] * kRowBytes, kRowBytes, out + i * kRowBytes);
}

// The slot whose key is the sign, as a bit. Without kOccupancy a key counts whether its slot is in use or
// not.
template <Features kFeatures>
SATRAP_INLINE std::uint64_t slot_of(const Bucket& line, std::uint64_t header, std::uint64_t sign) {
  return matching(line, kFeatures.occupancy ? header : ~std::uint64_t{0}, sign);
}

template <Features kFeatures>
SATRAP_TARGET __attribute__((noinline)) void finish_late(const Segments& segments, const std::byte* signs,
                                                         const std::uint16_t* late, std::size_t n,
                                                         std::byte* out) {
  struct Search {
    const Bucket* line;
    std::uint16_t segment;
    std::uint16_t id;
  };
  struct Hit {
    const Bucket* line;
    const std::byte* row;
    std::uint64_t header;
    std::uint16_t id;
  };
  constexpr std::size_t kAhead = 32;
  Search searches[kLateIds];
  Hit hits[2 * kAhead];
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint64_t hash = sign_hash(sign_at(signs, late[i]));
    const std::uint16_t segment = kFeatures.segments ? segments.segment_of()[entry_of(hash)] : 0;
    const Segments::Part& part = segments.parts()[segment];
    searches[i] = {part.buckets + home_bucket(hash, part.bucket_count), segment, late[i]};
  }
  for (bool at_home = true; n > 0; at_home = false) {
    const auto prefetch = [&](const Search& search) {
      __builtin_prefetch(search.line);
      if (at_home) __builtin_prefetch(search.line + 1);
    };
    for (std::size_t i = 0; i < std::min(n, kAhead); ++i) prefetch(searches[i]);
    std::size_t left = 0, hit = 0;
    for (std::size_t begin = 0; begin < n; begin += kAhead) {
      const std::size_t end = std::min(n, begin + kAhead);
      const std::size_t old = hit;
      for (std::size_t i = begin; i < end; ++i) {
        if (i + kAhead < n) prefetch(searches[i + kAhead]);
        const Search search = searches[i];
        const Segments::Part& part = segments.parts()[search.segment];
        const std::uint64_t sign = sign_at(signs, search.id);
        const Bucket* const end_line = part.buckets + part.bucket_count;
        const Bucket* line = search.line;
        std::uint64_t header = line->header.load(std::memory_order_acquire);
        std::uint64_t slots = slot_of<kFeatures>(*line, header, sign);
        if (at_home && !slots) {
          line = line + 1 == end_line ? part.buckets : line + 1;
          header = line->header.load(std::memory_order_acquire);
          slots = slot_of<kFeatures>(*line, header, sign);
        }
        const bool has = slots != 0;
        if (kFeatures.occupancy && !has && !(header & bucket_header::kOverflow)) std::abort();
        if (kFeatures.version && line->header.load(std::memory_order_relaxed) != header) std::abort();
        const auto slot = static_cast<std::size_t>(std::countr_zero(slots | 1u << (kSlots - 1)));
        const std::byte* const row =
            part.rows + (static_cast<std::size_t>(line - part.buckets) * kSlots + slot) * kRowBytes;
        hits[hit] = {line, row, header, search.id};
        hit += has;
        searches[left] = {line + 1 == end_line ? part.buckets : line + 1, search.segment, search.id};
        left += !has;
        __builtin_prefetch(has ? row : kZeroRow.data());
      }
      const std::size_t ready = end == n ? hit : old;
      for (std::size_t i = 0; i < ready; ++i) {
        const Hit& one = hits[i];
        copy_row(one.row, kRowBytes, out + one.id * kRowBytes);
        if (kFeatures.version && one.line->header.load(std::memory_order_relaxed) != one.header) std::abort();
      }
      std::copy(hits + ready, hits + hit, hits);
      hit -= ready;
    }
    n = left;
  }
}

struct Probe {
  const Bucket* line;
  const std::byte* row;
  std::uint64_t header;
};

template <Features kFeatures>
struct Batch {
  const Segments::Part only;  // in registers, if there is one
  const Segments::Part* const parts;
  const std::uint16_t* const segment_of;
  const std::byte* const signs;
  std::byte* const out;

  SATRAP_INLINE void start(std::uint64_t hash, Probe& probe) const {
    const Segments::Part& part = kFeatures.segments ? parts[segment_of[entry_of(hash)]] : only;
    const std::size_t home = home_bucket(hash, part.bucket_count);
    probe.line = part.buckets + home;
    probe.row = part.rows + home * (kSlots * kRowBytes);
    __builtin_prefetch(probe.line);
  }

  SATRAP_INLINE std::size_t look(std::size_t i, Probe& probe, std::uint16_t* late) const {
    const std::uint64_t header =
        kFeatures.occupancy || kFeatures.version ? probe.line->header.load(std::memory_order_acquire) : 0;
    const std::uint64_t slots = slot_of<kFeatures>(*probe.line, header, sign_at(signs, i));
    const bool is_late = (slots == 0) | (kFeatures.version && bucket_header::is_changing(header));
    const auto slot = static_cast<std::size_t>(std::countr_zero(slots | 1u << (kSlots - 1)));
    const std::byte* row = probe.row + slot * kRowBytes;
    row = either(is_late, kZeroRow.data(), row);
    probe.row = row;
    if (kFeatures.version) probe.header = header;
    *late = static_cast<std::uint16_t>(i);
    __builtin_prefetch(row);
    return is_late;
  }

  SATRAP_INLINE void finish(std::size_t i, const Probe& probe) const {
    copy_row(probe.row, kRowBytes, out + i * kRowBytes);
    if (kFeatures.version && probe.line->header.load(std::memory_order_relaxed) != probe.header) std::abort();
  }
};

template <Features kFeatures>
SATRAP_TARGET void lookup(const Segments& segments, const std::byte* signs, std::size_t n, std::byte* out) {
  static_assert(kRing >= 2 * kWindow + kFormBlock && kRing % kFormBlock == 0 && kWindow % kFormBlock == 0);
  const Batch<kFeatures> batch{segments.first(), segments.parts(), segments.segment_of(), signs, out};
  Probe ring[kRing];
  std::uint16_t late[kBatchIds + 1];
  std::size_t late_ids = 0;
  std::size_t started = std::min(n, 2 * kWindow);
  std::size_t looked = std::min(n, kWindow);
  std::size_t finished = 0;
  for (std::size_t i = 0; i < started; ++i) batch.start(sign_hash(sign_at(signs, i)), ring[i]);
  for (std::size_t i = 0; i < looked; ++i) late_ids += batch.look(i, ring[i], late + late_ids);
  for (; started + kFormBlock <= n; started += kFormBlock, looked += kFormBlock, finished += kFormBlock) {
    alignas(64) std::uint64_t hashes[kFormBlock];
    hash_block(signs + started * sizeof(std::uint64_t), hashes);
    Probe* const first = ring + started % kRing;
    Probe* const second = ring + looked % kRing;
    const Probe* const third = ring + finished % kRing;
#pragma GCC unroll 8
    for (std::size_t k = 0; k < kFormBlock; ++k) batch.start(hashes[k], first[k]);
#pragma GCC unroll 8
    for (std::size_t k = 0; k < kFormBlock; ++k) {
      late_ids += batch.look(looked + k, second[k], late + late_ids);
    }
#pragma GCC unroll 8
    for (std::size_t k = 0; k < kFormBlock; ++k) batch.finish(finished + k, third[k]);
  }
  for (; started < n; ++started) batch.start(sign_hash(sign_at(signs, started)), ring[started % kRing]);
  for (; looked < n; ++looked) late_ids += batch.look(looked, ring[looked % kRing], late + late_ids);
  for (; finished < n; ++finished) batch.finish(finished, ring[finished % kRing]);
  for (std::size_t begin = 0; begin < late_ids; begin += kLateIds) {
    finish_late<kFeatures>(segments, signs, late + begin, std::min(late_ids - begin, kLateIds), out);
  }
}

inline std::vector<Gather> gathers() {
  return {{8, gather<8>},   {16, gather<16>},   {32, gather<32>},   {48, gather<48>},  {64, gather<64>},
          {96, gather<96>}, {128, gather<128>}, {192, gather<192>}, {256, gather<256>}};
}

inline std::vector<Variant> variants() {
  return {{"two cache lines", false, lookup<Features{}>},
          {"+ occupancy", false, lookup<Features{.occupancy = true}>},
          {"+ version", false, lookup<Features{.occupancy = true, .version = true}>},
          {"+ segments", true, lookup<Features{.occupancy = true, .version = true, .segments = true}>}};
}

}  // namespace SATRAP_FORM
