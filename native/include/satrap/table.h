// Rows by sign: what an embedding server looks up.
//
// STRUCTURE
//
// A bucket is one cache line: a header word and seven keys. Rows and ordinals are arrays of their own, at the
// position that bucket and slot give, so a lookup that finds its key in the home bucket touches two lines:
//
//     buckets   [ header | key key key key key key key ]   64 bytes
//     rows      [ row  row  row  row  row  row  row    ]   7 x dim x dtype, each padded to 8 bytes
//     ordinals  [ u32  u32  u32  u32  u32  u32  u32    ]   read by writers only
//
//     header    bits 0-31 version, 32-38 occupied slots, 39 overflow
//
// A key lives in its home bucket (the high bits of a hash that is independent of the hash that shards ids)
// or, when that was full, in the next ones; every full bucket that an insertion went past has its overflow
// bit set, and a search ends at the first bucket without it. Keys and rows never move inside a Storage.
//
// THREADS
//
// Any number of threads may look up, scan and ask while one writes; writers exclude each other by a mutex.
// The version of a bucket is odd while the writer changes it: a reader copies keys and row, then reads the
// header again, and starts over if it changed. So a row is atomic; a batch is not. Data words are stored with
// release and loaded with acquire (plain moves on x86-64): whoever saw a new word sees the odd version before
// it, without a fence.
//
// Growth builds a second Storage while readers use the first, and publishes it by a shared_ptr that every
// batch copies once; the first goes with its last reader.
//
// NOT ADDRESSED: a reader spins while the writer is inside its bucket (some tens of nanoseconds, longer if
// the writer is preempted there); erased signs leave no tombstone, so an older upsert may bring one back.
#ifndef SATRAP_TABLE_H_
#define SATRAP_TABLE_H_

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace satrap {

enum class RowType : std::uint8_t { kFloat32, kFloat16 };

constexpr std::size_t item_size(RowType type) { return type == RowType::kFloat32 ? 4 : 2; }

constexpr std::size_t kMaxDim = 4096;

class TableStorage;

class Table {
 public:
  // A table for `capacity_hint` rows; it grows beyond that by itself. Throws std::invalid_argument unless
  // 1 <= dim <= kMaxDim, std::bad_alloc if there is no memory.
  Table(std::size_t dim, RowType type, std::size_t capacity_hint = 0);
  ~Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  std::size_t dim() const { return dim_; }
  RowType type() const { return type_; }
  std::size_t row_bytes() const { return dim_ * item_size(type_); }

  // Rows present.
  std::size_t size() const { return size_.load(std::memory_order_relaxed); }
  // Memory held, everything counted, in bytes.
  std::size_t bytes() const;

  // Copies the row of signs[i] to out + i * row_bytes(), zeros if there is none. found, if not null, gets 1
  // or 0 for each. `signs` may be unaligned. Returns how many were missing.
  std::size_t lookup(const std::byte* signs, std::size_t n, std::byte* out, std::uint8_t* found) const;

  // found[i] = 1 if there is a row of signs[i], else 0. Returns how many there are.
  std::size_t contains(const std::byte* signs, std::size_t n, std::uint8_t* found) const;

  // Writes rows[i] (`dim` values of type `source`, any alignment; float32 is rounded to a float16 table,
  // float16 is refused by a float32 one) as the row of signs[i]. A stored row of a greater ordinal stays; an
  // equal ordinal overwrites, so that a replay ends in the same table; later entries of a batch overwrite
  // earlier ones. Returns how many were written. Throws std::bad_alloc if it cannot grow: the rows before
  // that one are there, the table is whole.
  std::size_t upsert(const std::byte* signs, const std::byte* const* rows, std::size_t n, RowType source,
                     std::uint32_t ordinal);
  // The same, from one array of n rows.
  std::size_t upsert(const std::byte* signs, const std::byte* rows, std::size_t n, RowType source,
                     std::uint32_t ordinal);

  // Removes the rows of `signs` whose ordinal is not greater. Returns how many went.
  std::size_t erase(const std::byte* signs, std::size_t n, std::uint32_t ordinal);

  // Makes room for `rows` in all, so that no growth happens before.
  void reserve(std::size_t rows);

  struct Page {
    std::vector<std::uint64_t> signs;
    std::vector<std::byte> rows;  // signs.size() x row_bytes()
    std::vector<std::uint32_t> ordinals;
    std::size_t next;  // where the next page starts; kEnd after the last one
  };
  static constexpr std::size_t kEnd = ~std::size_t{0};

  // Up to `limit` rows from position `start` (0 at first, then Page::next). Rows written meanwhile may or may
  // not be seen; if the table grew between two pages, rows may be seen twice or be left out.
  Page scan(std::size_t start, std::size_t limit) const;

 private:
  std::shared_ptr<TableStorage> pin() const;
  void publish(std::shared_ptr<TableStorage> storage);
  std::shared_ptr<TableStorage> rebuilt(const TableStorage& old, std::size_t rows) const;

  const std::size_t dim_;
  const RowType type_;
  std::atomic<std::size_t> size_{0};
  std::mutex writer_;                      // held by upsert, erase, reserve
  mutable std::mutex publication_;         // guards storage_; held for the copy of a pointer only
  std::shared_ptr<TableStorage> storage_;  // only a holder of writer_ changes it
};

}  // namespace satrap

#endif  // SATRAP_TABLE_H_
