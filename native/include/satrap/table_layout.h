// The words of a table in shared memory. docs/table.md has the design; here is where each word lies.
//
// Everything that one process writes while another reads is a lock-free atomic. Headers are written once,
// before their file is announced to anybody, and carry a checksum.
#ifndef SATRAP_TABLE_LAYOUT_H_
#define SATRAP_TABLE_LAYOUT_H_

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace satrap {

enum class RowType : std::uint8_t { kFloat32, kFloat16 };

constexpr std::size_t item_size(RowType type) { return type == RowType::kFloat32 ? 4 : 2; }

constexpr std::size_t kMaxDim = 4096;
constexpr std::size_t kMaxRowWords = kMaxDim * sizeof(float) / 8;

using BootId = std::array<std::byte, 16>;      // of the machine's present run
using InstanceId = std::array<std::byte, 16>;  // random, one per generation
using TableId = std::array<std::byte, 16>;     // random, one per table

// Where the files of a table belong; they are refused anywhere else.
struct TableOrigin {
  BootId boot{};
  InstanceId generation{};

  TableOrigin() = default;
  TableOrigin(const BootId& machine, const InstanceId& instance = {}) : boot(machine), generation(instance) {}
  bool operator==(const TableOrigin&) const = default;
};

// What the rows of a table look like.
struct RowShape {
  std::size_t dim;
  RowType type;

  std::size_t bytes() const { return dim * item_size(type); }
  std::size_t words() const { return (bytes() + 7) / 8; }  // a row in memory: padded to 8 bytes
  bool operator==(const RowShape&) const = default;
};

// Changes with every change of a struct in this file or of the hash: a table of another layout is refused.
constexpr std::uint32_t kTableLayout = 1;

constexpr std::size_t kPageBytes = 4096;

// FNV-1a, 64 bits: each step is a bijection of the state, so a change of any one byte changes the sum.
inline std::uint64_t checksum(std::span<const std::byte> bytes) {
  std::uint64_t sum = 0xcbf29ce484222325u;
  for (const std::byte byte : bytes) sum = (sum ^ static_cast<std::uint64_t>(byte)) * 0x100000001b3u;
  return sum;
}

// ---- hash ----

constexpr unsigned kDirectoryBits = 12;
constexpr std::size_t kEntries = std::size_t{1} << kDirectoryBits;

// Splitmix64's finalizer: a bijection whose every bit depends on every bit of the sign. farmhash decides the
// shard, so within one shard its values are not spread; this one has nothing to do with it.
inline std::uint64_t sign_hash(std::uint64_t sign) {
  sign ^= sign >> 30;
  sign *= 0xbf58476d1ce4e5b9u;
  sign ^= sign >> 27;
  sign *= 0x94d049bb133111ebu;
  return sign ^ (sign >> 31);
}

inline std::size_t entry_of(std::uint64_t hash) {
  return static_cast<std::size_t>(hash >> (64 - kDirectoryBits));
}

// The home bucket: the bits below the directory's, scaled to the bucket count.
inline std::size_t home_bucket(std::uint64_t hash, std::uint64_t bucket_count) {
  return static_cast<std::size_t>((static_cast<unsigned __int128>(hash << kDirectoryBits) * bucket_count) >>
                                  64);
}

// ---- bucket ----

constexpr std::size_t kSlots = 7;

struct alignas(64) Bucket {
  std::atomic<std::uint64_t> header;
  std::atomic<std::uint64_t> keys[kSlots];
};
static_assert(sizeof(Bucket) == 64);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free && sizeof(std::atomic<std::uint64_t>) == 8);
static_assert(std::atomic<std::uint32_t>::is_always_lock_free && sizeof(std::atomic<std::uint32_t>) == 4);

// The header word:  bits 0-31 version | 32-38 occupied | 39 overflow | 40-46 tombstones | 47-63 zero
namespace bucket_header {

constexpr std::uint64_t kVersionMask = 0xffffffffu;
constexpr unsigned kOccupiedShift = 32;
constexpr unsigned kTombstoneShift = 40;
constexpr std::uint64_t kSlotMask = 0x7f;
constexpr std::uint64_t kOverflow = std::uint64_t{1} << 39;
constexpr std::uint64_t kUnused = ~std::uint64_t{0} << 47;

inline std::uint64_t occupied(std::uint64_t header) { return (header >> kOccupiedShift) & kSlotMask; }
inline std::uint64_t tombstones(std::uint64_t header) { return (header >> kTombstoneShift) & kSlotMask; }
inline std::uint64_t used(std::uint64_t header) { return occupied(header) | tombstones(header); }
inline std::uint64_t occupied_bit(std::size_t slot) { return std::uint64_t{1} << (kOccupiedShift + slot); }
inline std::uint64_t tombstone_bit(std::size_t slot) { return std::uint64_t{1} << (kTombstoneShift + slot); }
inline bool is_changing(std::uint64_t header) { return header & 1; }

// The same bits with the version `steps` further.
inline std::uint64_t advanced(std::uint64_t header, std::uint64_t steps) {
  return (header & ~kVersionMask) | ((header + steps) & kVersionMask);
}

}  // namespace bucket_header

// ---- segment file: header page | buckets | rows | ordinals ----

struct SegmentHeader {
  std::array<char, 8> magic;
  std::uint32_t layout;
  std::uint32_t number;  // of the file's name
  TableId table;
  BootId boot;
  std::uint32_t first_entry;  // serves the directory entries [first_entry, end_entry)
  std::uint32_t end_entry;
  std::uint64_t bucket_count;
  std::uint64_t row_words;
  std::uint64_t file_bytes;
  std::uint32_t huge;  // 1: its whole 2 MiB pieces were made huge pages
  std::uint32_t zero;
  std::uint64_t sum;  // checksum of all before

  static constexpr std::array<char, 8> kMagic{'S', 'A', 'T', 'R', 'A', 'P', 'S', 'G'};
};
static_assert(sizeof(SegmentHeader) == 96 && offsetof(SegmentHeader, sum) == 88);

// Where the arrays of a segment lie in its file, in bytes.
struct SegmentLayout {
  std::size_t buckets;
  std::size_t rows;
  std::size_t ordinals;
  std::size_t end;  // whole pages
};

constexpr SegmentLayout segment_layout(std::size_t bucket_count, std::size_t row_words) {
  const std::size_t buckets = kPageBytes;
  const std::size_t rows = buckets + bucket_count * sizeof(Bucket);
  const std::size_t ordinals = rows + bucket_count * kSlots * row_words * 8;
  const std::size_t end = ordinals + bucket_count * kSlots * sizeof(std::uint32_t);
  return {buckets, rows, ordinals, (end + kPageBytes - 1) / kPageBytes * kPageBytes};
}

// ---- directory file ----

struct DirectoryHeader {
  std::array<char, 8> magic;
  std::uint32_t layout;
  std::uint32_t dim;
  std::uint32_t row_type;
  std::uint32_t zero;
  TableId table;
  BootId boot;
  InstanceId generation;
  std::uint64_t file_bytes;
  std::uint64_t sum;  // checksum of all before

  static constexpr std::array<char, 8> kMagic{'S', 'A', 'T', 'R', 'A', 'P', 'D', 'R'};
};
static_assert(sizeof(DirectoryHeader) == 88 && offsetof(DirectoryHeader, sum) == 80);

enum class RedoOperation : std::uint64_t { kNone = 0, kUpsert = 1, kErase = 2 };

// The one operation that may be half done. `operation` is stored last when the record is written, and kNone
// before anything else in it changes.
struct alignas(64) RedoRecord {
  std::atomic<std::uint64_t> operation;
  std::atomic<std::uint64_t> segment;
  std::atomic<std::uint64_t> bucket;
  std::atomic<std::uint64_t> slot;
  std::atomic<std::uint64_t> header_before;
  std::atomic<std::uint64_t> header_after;
  std::atomic<std::uint64_t> sign;
  std::atomic<std::uint64_t> ordinal;
  std::atomic<std::uint64_t> row[kMaxRowWords];
};

struct Directory {
  DirectoryHeader header;
  // The number of switches so far: a snapshot of an older one is out of date.
  alignas(64) std::atomic<std::uint32_t> change;
  // Counts announcements and switches; a futex that followers wait on.
  std::atomic<std::uint32_t> signal;
  std::atomic<std::uint32_t> announced[2];              // files that are being filled; 0 is none
  alignas(64) std::atomic<std::uint32_t> next_segment;  // numbers begin at 1 and are never used twice
  std::atomic<std::uint32_t> horizon;  // tombstones with a smaller ordinal are dropped by a rebuild
  std::atomic<std::uint64_t> rows;     // rows present, after the last whole batch
  alignas(64) std::atomic<std::uint32_t> words[kEntries];
  alignas(64) RedoRecord redo;
};
static_assert(sizeof(Directory) % 64 == 0);

constexpr std::size_t kDirectoryBytes = (sizeof(Directory) + kPageBytes - 1) / kPageBytes * kPageBytes;

}  // namespace satrap

#endif  // SATRAP_TABLE_LAYOUT_H_
