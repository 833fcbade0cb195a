// Rows by sign: what an embedding server looks up. docs/table.md has the design.
#ifndef SATRAP_TABLE_H_
#define SATRAP_TABLE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "satrap/table_layout.h"
#include "satrap/table_memory.h"

namespace satrap {

// A page of a scan.
struct TablePage {
  std::vector<std::uint64_t> signs;
  std::vector<std::byte> rows;  // signs.size() x row bytes
  std::vector<std::uint32_t> ordinals;
  std::uint64_t next;  // where the next page starts; kEnd after the last one

  static constexpr std::uint64_t kEnd = ~std::uint64_t{0};
};

// What a table knows of a sign.
enum class SignState : std::uint8_t { kAbsent = 0, kPresent = 1, kTombstone = 2 };

// A table with its writer.
//
// Threads: any number may look up, scan and ask at any time; they take no lock and never wait. Writers
// (upsert, erase, restore, reserve, forget_tombstones) and capture take turns. A row is atomic, a batch is
// not.
class Table {
 public:
  // A table in private memory for `capacity_hint` rows; it grows beyond that by itself. Throws
  // std::invalid_argument unless 1 <= dim <= kMaxDim, TableSpaceError if there is no memory.
  Table(std::size_t dim, RowType type, std::size_t capacity_hint = 0);
  ~Table();
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  // A new table in `memory`, which holds nothing; `threads` of them allocate its segments.
  static std::shared_ptr<Table> create(std::size_t dim, RowType type, std::size_t capacity_hint,
                                       std::unique_ptr<TableMemory> memory, const TableOrigin& origin = {},
                                       unsigned threads = 1);
  // The table that a writer left in `memory`, however it ended: completes what was half done, removes what
  // was given up, verifies everything but the rows' values. Throws TableError (refused; nothing was changed
  // that matters), TableSpaceError.
  static std::shared_ptr<Table> recover(std::unique_ptr<TableMemory> memory, const TableOrigin& origin);

  std::size_t dim() const { return shape_.dim; }
  RowType type() const { return shape_.type; }
  std::size_t row_bytes() const { return shape_.bytes(); }

  // Rows present.
  std::size_t size() const;
  // Memory held, everything counted, in bytes.
  std::size_t bytes() const;
  // Whether every segment of 2 MiB and more is in huge pages.
  bool huge_pages() const;

  // Copies the row of signs[i] to out + i * row_bytes(), zeros if there is none. found, if not null, gets 1
  // or 0 for each. `signs` may be unaligned. Returns how many were missing.
  std::size_t lookup(const std::byte* signs, std::size_t n, std::byte* out, std::uint8_t* found) const;

  // found[i] = 1 if there is a row of signs[i], else 0. Returns how many there are.
  std::size_t contains(const std::byte* signs, std::size_t n, std::uint8_t* found) const;

  // Writes rows[i] (`dim` values of type `source`, any alignment; float32 is rounded to a float16 table,
  // float16 is refused by a float32 one) as the row of signs[i]. A stored row or tombstone of a greater
  // ordinal stays; an equal ordinal overwrites, so that a replay ends in the same table; later entries of a
  // batch overwrite earlier ones. Returns how many were written. Throws TableSpaceError if it cannot grow:
  // the rows before that one are there, the table is whole.
  std::size_t upsert(const std::byte* signs, const std::byte* const* rows, std::size_t n, RowType source,
                     std::uint32_t ordinal);
  // The same, from one array of n rows.
  std::size_t upsert(const std::byte* signs, const std::byte* rows, std::size_t n, RowType source,
                     std::uint32_t ordinal);

  // Leaves tombstones of `signs`, except where a greater ordinal is stored. Returns how many rows went.
  // Throws TableSpaceError.
  std::size_t erase(const std::byte* signs, std::size_t n, std::uint32_t ordinal);

  // What the table knows of signs[0..n): states[i], ordinals[i] (0 if absent) and, at rows + i * row_bytes(),
  // its row (zeros unless present).
  void capture(const std::byte* signs, std::size_t n, SignState* states, std::uint32_t* ordinals,
               std::byte* rows) const;

  // Puts signs[0..n) back into what capture() said, whatever ordinals they have now: the row (of the table's
  // type, any alignment) with its ordinal, or the tombstone with its own. One that was absent and is known
  // now becomes a tombstone of ordinal 0, behind which everything may come again. Sent again it ends in the
  // same table; of a sign that is named twice the last entry wins. Returns how many signs were written.
  // Throws std::invalid_argument for a state that is none (nothing is written then), TableSpaceError as
  // upsert does.
  std::size_t restore(const std::byte* signs, const SignState* states, const std::byte* ordinals,
                      const std::byte* rows, std::size_t n);

  // Nothing with an ordinal below `horizon` will come any more: rebuilds may drop such tombstones.
  void forget_tombstones(std::uint32_t horizon);

  // Makes room for `rows` in all, so that no growth happens before. Throws TableSpaceError.
  void reserve(std::size_t rows);

  // A load, before anybody looks up: the same as upsert, by any number of threads at once, without redo
  // record and versions. If the process ends meanwhile, the table is to be thrown away. finish_bulk() ends
  // it.
  std::size_t bulk_insert(const std::byte* signs, const std::byte* const* rows, std::size_t n, RowType source,
                          std::uint32_t ordinal);
  void finish_bulk();

  // Up to about `limit` rows from cursor `start` (0 at first, then TablePage::next). Rows written meanwhile
  // may or may not be seen; if a segment was rebuilt between two pages, rows may be seen twice. None is left
  // out.
  TablePage scan(std::uint64_t start, std::size_t limit) const;

  // The same of tombstones: signs and ordinals, no rows. Takes turns with writers.
  TablePage tombstones(std::uint64_t start, std::size_t limit) const;

 private:
  class Parts;
  Table(RowShape shape, std::unique_ptr<Parts> parts);

  const RowShape shape_;
  const std::unique_ptr<Parts> parts_;
};

}  // namespace satrap

#endif  // SATRAP_TABLE_H_
