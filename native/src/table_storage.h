// One capacity of a table: its buckets, rows and ordinals, and how they are read while they are written.
// table.h describes the structure and the rules for threads; this is where they are kept.
#ifndef SATRAP_TABLE_STORAGE_H_
#define SATRAP_TABLE_STORAGE_H_

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <thread>
#include <utility>

namespace satrap {

constexpr std::size_t kSlots = 7;
constexpr double kMaxLoad = 0.86;      // beyond it chains grow quickly
constexpr std::size_t kMaxGuess = 16;  // buckets that a guess goes on for

constexpr std::uint64_t kVersionMask = 0xffffffffu;
constexpr unsigned kOccupiedShift = 32;
constexpr std::uint64_t kOverflow = std::uint64_t{1} << 39;

struct alignas(64) Bucket {
  std::atomic<std::uint64_t> header;
  std::atomic<std::uint64_t> keys[kSlots];
};
static_assert(sizeof(Bucket) == 64);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free && sizeof(std::atomic<std::uint64_t>) == 8);

inline std::uint64_t occupied(std::uint64_t header) { return (header >> kOccupiedShift) & 0x7f; }
inline bool is_changing(std::uint64_t header) { return header & 1; }

// The next version, odd or even, of a header that otherwise stays.
inline std::uint64_t next_version(std::uint64_t header) {
  return (header & ~kVersionMask) | ((header + 1) & kVersionMask);
}

inline std::uint64_t load_sign(const std::byte* signs, std::size_t i) {
  std::uint64_t sign;
  std::memcpy(&sign, signs + i * sizeof(sign), sizeof(sign));
  return sign;
}

// Splitmix64's finalizer: a bijection whose high bits depend on every bit. farmhash decides the shard, so
// within one shard its values are not spread; this one has nothing to do with it.
inline std::uint64_t bucket_hash(std::uint64_t sign) {
  sign ^= sign >> 30;
  sign *= 0xbf58476d1ce4e5b9u;
  sign ^= sign >> 27;
  sign *= 0x94d049bb133111ebu;
  return sign ^ (sign >> 31);
}

inline std::size_t checked_product(std::size_t a, std::size_t b) {
  std::size_t product;
  if (__builtin_mul_overflow(a, b, &product)) throw std::bad_alloc();
  return product;
}

inline std::size_t whole_pages(std::size_t bytes) {
  constexpr std::size_t kPage = 4096;
  std::size_t rounded;
  if (__builtin_add_overflow(bytes, kPage - 1, &rounded)) throw std::bad_alloc();
  return rounded & ~(kPage - 1);
}

// Zeroed memory straight from the kernel, in huge pages where it gives them.
class Mapping {
 public:
  explicit Mapping(std::size_t bytes) : bytes_(whole_pages(bytes)) {
    data_ = ::mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data_ == MAP_FAILED) throw std::bad_alloc();
    // Advice only: with small pages everything works, slower.
    static_cast<void>(::madvise(data_, bytes_, MADV_HUGEPAGE));
  }
  ~Mapping() { ::munmap(data_, bytes_); }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  std::size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_;
  std::size_t bytes_;
};

inline std::size_t buckets_for(std::size_t rows) {
  if (rows > std::numeric_limits<std::size_t>::max() / 256) throw std::bad_alloc();
  return static_cast<std::size_t>(static_cast<double>(rows) / (kMaxLoad * kSlots)) + 1;
}

// Waits a little longer each time: first on the core, then by giving it away (the writer may need it).
class Backoff {
 public:
  void wait() {
    if (++turns_ < 64) {
#if defined(__x86_64__)
      __builtin_ia32_pause();
#endif
    } else {
      std::this_thread::yield();
    }
  }

 private:
  unsigned turns_ = 0;
};

// Buckets, rows and ordinals of one capacity. Nothing in it moves: a table that outgrows it gets another.
class TableStorage {
 public:
  TableStorage(std::size_t bucket_count, std::size_t row_bytes)
      : bucket_count_(bucket_count),
        row_bytes_(row_bytes),
        row_words_((row_bytes + 7) / 8),
        buckets_(checked_product(bucket_count, sizeof(Bucket))),
        rows_(checked_product(checked_product(bucket_count, kSlots), row_words_ * 8)),
        ordinals_(checked_product(bucket_count, kSlots * sizeof(std::uint32_t))) {}

  struct Place {
    std::size_t bucket;
    std::size_t slot;
  };
  static constexpr Place kNowhere{~std::size_t{0}, 0};

  std::size_t positions() const { return bucket_count_ * kSlots; }
  std::size_t max_rows() const {
    return static_cast<std::size_t>(static_cast<double>(positions()) * kMaxLoad);
  }
  std::size_t bytes() const { return buckets_.bytes() + rows_.bytes() + ordinals_.bytes(); }

  std::size_t home(std::uint64_t sign) const {
    return static_cast<std::size_t>((static_cast<unsigned __int128>(bucket_hash(sign)) * bucket_count_) >>
                                    64);
  }

  // ---- for any thread ----

  void prefetch_row(Place place) const {
    const auto* first = reinterpret_cast<const char*>(row(place));
    const std::size_t bytes =
        std::min<std::size_t>(row_bytes_, 512);  // the hardware sees a longer row by itself
    for (std::size_t at = 0; at < bytes; at += 64) __builtin_prefetch(first + at);
  }

  // A search on its way: where the sign is believed to be. Nothing in it is verified before read_at().
  struct Probe {
    static constexpr std::size_t kUnknown = kSlots;

    std::uint64_t sign;
    std::size_t bucket;
    std::size_t slot;
  };

  Probe start(std::uint64_t sign) const {
    const std::size_t index = home(sign);
    __builtin_prefetch(&bucket(index));
    return {sign, index, Probe::kUnknown};
  }

  // Looks into the home bucket, whose line was prefetched, and prefetches what comes next: the row, or, where
  // the bucket has overflowed, the lines of the next ones.
  void look(Probe& probe) const {
    const Bucket& line = bucket(probe.bucket);
    const std::uint64_t header = line.header.load(std::memory_order_relaxed);
    probe.slot = find(line, header, probe.sign);
    if (probe.slot < kSlots) {
      prefetch_row({probe.bucket, probe.slot});
    } else if (header & kOverflow) {
      constexpr std::size_t kAhead = 3;  // nearly all of the signs that are not at home are in these
      for (std::size_t hop = 0, index = probe.bucket; hop < kAhead; ++hop) {
        index = next(index);
        __builtin_prefetch(&bucket(index));
      }
    }
  }

  // Goes on behind the home bucket if the sign was not there, and prefetches the row.
  void look_on(Probe& probe) const {
    for (std::size_t hop = 0; probe.slot == Probe::kUnknown && hop < kMaxGuess; ++hop) {
      if (!(bucket(probe.bucket).header.load(std::memory_order_relaxed) & kOverflow)) return;
      probe.bucket = next(probe.bucket);
      const Bucket& line = bucket(probe.bucket);
      probe.slot = find(line, line.header.load(std::memory_order_relaxed), probe.sign);
      if (probe.slot < kSlots) prefetch_row({probe.bucket, probe.slot});
    }
  }

  // Prefetches what an upsert of the probe's sign will write: its place, or the first free one where the
  // search ended.
  void prefetch_for_write(const Probe& probe) const {
    Place place{probe.bucket, probe.slot};
    if (place.slot == Probe::kUnknown) {
      const std::uint64_t header = bucket(place.bucket).header.load(std::memory_order_relaxed);
      place.slot = static_cast<std::size_t>(std::countr_one(occupied(header)));
      if (place.slot == kSlots) return;
      prefetch_row(place);
    }
    __builtin_prefetch(&ordinal(place), 1);
  }

  // Copies the row at the probe's place if the sign is there and nobody changed the bucket meanwhile.
  bool read_at(const Probe& probe, std::byte* out) const {
    const Bucket& line = bucket(probe.bucket);
    const std::uint64_t header = line.header.load(std::memory_order_acquire);
    if (is_changing(header) || !(occupied(header) >> probe.slot & 1)) return false;
    if (line.keys[probe.slot].load(std::memory_order_acquire) != probe.sign) return false;
    copy_row({probe.bucket, probe.slot}, out);
    return line.header.load(std::memory_order_relaxed) == header;
  }

  // Calls use(place) on a consistent bucket that holds `sign`, maybe several times: what counts is the last
  // call. Returns whether the sign is there.
  template <class Use>
  bool read(std::uint64_t sign, Use&& use) const {
    std::size_t index = home(sign);
    for (std::size_t hop = 0; hop < bucket_count_; ++hop, index = next(index)) {
      const Bucket& line = bucket(index);
      Backoff backoff;
      std::uint64_t header;
      std::size_t slot;
      for (;; backoff.wait()) {
        header = line.header.load(std::memory_order_acquire);
        if (is_changing(header)) continue;
        slot = find(line, header, sign);
        if (slot < kSlots) use(Place{index, slot});
        // The loads above are acquires, so this one cannot come before them.
        if (line.header.load(std::memory_order_relaxed) == header) break;
      }
      if (slot < kSlots) return true;
      if (!(header & kOverflow)) return false;
    }
    return false;
  }

  void copy_row(Place place, std::byte* out) const {
    const std::atomic<std::uint64_t>* words = row(place);
    const std::size_t whole = row_bytes_ / 8;
    std::size_t i = 0;
    for (; i + 8 <= whole; i += 8) {
      std::uint64_t line[8];
#pragma GCC unroll 8
      for (std::size_t k = 0; k < 8; ++k) line[k] = words[i + k].load(std::memory_order_acquire);
      std::memcpy(out + i * 8, line, sizeof(line));
    }
    for (; i < whole; ++i) {
      const std::uint64_t word = words[i].load(std::memory_order_acquire);
      std::memcpy(out + i * 8, &word, 8);
    }
    if (whole < row_words_) {
      const std::uint64_t word = words[whole].load(std::memory_order_acquire);
      std::memcpy(out + whole * 8, &word, row_bytes_ % 8);
    }
  }

  // The live slots of one bucket as they were at one moment: keys, rows and ordinals.
  std::size_t read_bucket(std::size_t index, std::uint64_t* signs, std::byte* rows,
                          std::uint32_t* ordinals) const {
    const Bucket& line = bucket(index);
    Backoff backoff;
    for (;; backoff.wait()) {
      const std::uint64_t header = line.header.load(std::memory_order_acquire);
      if (is_changing(header)) continue;
      std::size_t n = 0;
      for (std::uint64_t left = occupied(header); left; left &= left - 1, ++n) {
        const Place place{index, static_cast<std::size_t>(std::countr_zero(left))};
        signs[n] = line.keys[place.slot].load(std::memory_order_acquire);
        copy_row(place, rows + n * row_bytes_);
        ordinals[n] = ordinal(place).load(std::memory_order_acquire);
      }
      if (line.header.load(std::memory_order_relaxed) == header) return n;
    }
  }

  // ---- for the writer ----

  // Where `sign` is, or kNowhere.
  Place locate(std::uint64_t sign) const {
    std::size_t index = home(sign);
    for (std::size_t hop = 0; hop < bucket_count_; ++hop, index = next(index)) {
      const std::uint64_t header = bucket(index).header.load(std::memory_order_relaxed);
      const std::size_t slot = find(bucket(index), header, sign);
      if (slot < kSlots) return {index, slot};
      if (!(header & kOverflow)) break;
    }
    return kNowhere;
  }

  std::uint32_t ordinal_at(Place place) const { return ordinal(place).load(std::memory_order_relaxed); }

  // Inserts a sign that is not there. There is a free slot: max_rows() leaves some.
  void insert(std::uint64_t sign, const std::uint64_t* words, std::uint32_t ordinal_value) {
    std::size_t index = home(sign);
    for (;; index = next(index)) {
      Bucket& line = bucket(index);
      const std::uint64_t header = line.header.load(std::memory_order_relaxed);
      const std::uint64_t free = ~occupied(header) & 0x7f;
      if (free == 0) {
        if (!(header & kOverflow)) line.header.store(header | kOverflow, std::memory_order_release);
        continue;
      }
      const Place place{index, static_cast<std::size_t>(std::countr_zero(free))};
      const std::uint64_t bit = std::uint64_t{1} << (kOccupiedShift + place.slot);
      change(line, bit, 0, [&] {
        line.keys[place.slot].store(sign, std::memory_order_release);
        store_row(place, words, ordinal_value);
      });
      return;
    }
  }

  void overwrite(Place place, const std::uint64_t* words, std::uint32_t ordinal_value) {
    change(bucket(place.bucket), 0, 0, [&] { store_row(place, words, ordinal_value); });
  }

  void remove(Place place) {
    change(bucket(place.bucket), 0, std::uint64_t{1} << (kOccupiedShift + place.slot), [] {});
  }

  std::size_t bucket_count() const { return bucket_count_; }
  std::size_t row_words() const { return row_words_; }

 private:
  // The slot of `sign` among the occupied ones, kSlots if it is in none.
  static std::size_t find(const Bucket& line, std::uint64_t header, std::uint64_t sign) {
    std::uint64_t equal = 0;
#pragma GCC unroll 7
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      equal |= std::uint64_t{line.keys[slot].load(std::memory_order_acquire) == sign} << slot;
    }
    equal &= occupied(header);
    return equal ? static_cast<std::size_t>(std::countr_zero(equal)) : kSlots;
  }

  // One change of one bucket, which readers see whole or not at all.
  template <class Stores>
  static void change(Bucket& line, std::uint64_t set, std::uint64_t clear, Stores&& stores) {
    const std::uint64_t before = line.header.load(std::memory_order_relaxed);
    const std::uint64_t during = next_version(before);
    line.header.store(during, std::memory_order_relaxed);
    stores();
    line.header.store((next_version(during) | set) & ~clear, std::memory_order_release);
  }

  void store_row(Place place, const std::uint64_t* words, std::uint32_t ordinal_value) {
    std::atomic<std::uint64_t>* target = row(place);
    for (std::size_t i = 0; i < row_words_; ++i) target[i].store(words[i], std::memory_order_release);
    ordinal(place).store(ordinal_value, std::memory_order_release);
  }

  Bucket& bucket(std::size_t index) const { return buckets_.as<Bucket>()[index]; }
  std::size_t next(std::size_t index) const { return index + 1 == bucket_count_ ? 0 : index + 1; }
  std::size_t position(Place place) const { return place.bucket * kSlots + place.slot; }
  std::atomic<std::uint64_t>* row(Place place) const {
    return rows_.as<std::atomic<std::uint64_t>>() + position(place) * row_words_;
  }
  std::atomic<std::uint32_t>& ordinal(Place place) const {
    return ordinals_.as<std::atomic<std::uint32_t>>()[position(place)];
  }

  const std::size_t bucket_count_;
  const std::size_t row_bytes_;
  const std::size_t row_words_;
  Mapping buckets_;
  Mapping rows_;
  Mapping ordinals_;
};

}  // namespace satrap

#endif  // SATRAP_TABLE_STORAGE_H_
