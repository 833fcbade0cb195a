// The writer's side of a table: operations, growth, recovery. docs/table.md has the protocol and its crash
// cases.
//
// Every store to memory that a reader or a later start may see goes through `Stores`, so that a test can stop
// the writer after any of them. Memory that is not announced yet (a segment that is being filled, a bulk
// load) is written directly: nobody reads it, and after a crash nobody will.
#ifndef SATRAP_TABLE_WRITER_H_
#define SATRAP_TABLE_WRITER_H_

#include <algorithm>
#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <shared_mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "bucket_reader.h"
#include "row_pack.h"
#include "satrap/table.h"
#include "satrap/table_layout.h"
#include "satrap/table_memory.h"
#include "table_bulk.h"
#include "table_growth.h"
#include "table_segment.h"
#include "table_view.h"

namespace satrap {

// Stores as they are. Release: whoever sees a store sees all that were made before it.
struct DirectStores {
  template <class Word, class Value>
  void store(std::atomic<Word>& word, Value value) {
    word.store(static_cast<Word>(value), std::memory_order_release);
  }
  void step() {}  // between two changes of files
};

inline std::uint64_t load_sign(const std::byte* signs, std::size_t i) {
  std::uint64_t sign;
  std::memcpy(&sign, signs + i * sizeof(sign), sizeof(sign));
  return sign;
}

// Not thread-safe, bulk_insert excepted: the owner lets writers take turns.
template <class Stores = DirectStores>
class TableWriter {
 public:
  // For a directory that is new: `rows` are expected, `threads` make their segments.
  static std::unique_ptr<TableWriter> create(RowShape shape, std::size_t rows,
                                             std::unique_ptr<TableMemory> memory, const TableOrigin& origin,
                                             unsigned threads, Stores stores = {});
  // For what another writer left.
  static std::unique_ptr<TableWriter> recover(std::unique_ptr<TableMemory> memory, const TableOrigin& origin,
                                              Stores stores = {});

  const TableView& view() const { return *view_; }
  RowShape shape() const { return shape_; }
  std::size_t size() const { return rows_.load(std::memory_order_relaxed); }

  std::size_t upsert(const std::byte* signs, const std::byte* const* rows, std::size_t n, RowType source,
                     std::uint32_t ordinal);
  std::size_t erase(const std::byte* signs, std::size_t n, std::uint32_t ordinal);
  void capture(const std::byte* signs, std::size_t n, SignState* states, std::uint32_t* ordinals,
               std::byte* rows);
  std::size_t restore(const std::byte* signs, const SignState* states, const std::byte* ordinals,
                      const std::byte* rows, std::size_t n);
  void forget_tombstones(std::uint32_t horizon) { stores_.store(directory().horizon, horizon); }
  void reserve(std::size_t rows);

  std::size_t bulk_insert(const std::byte* signs, const std::byte* const* rows, std::size_t n, RowType source,
                          std::uint32_t ordinal);
  void finish_bulk();

 private:
  // A segment with the writer's counts. `load` is held by bulk_insert.
  struct Owned {
    std::shared_ptr<Segment> segment;
    std::size_t rows = 0;
    std::size_t used = 0;  // rows and tombstones
    std::mutex load;

    bool is_full() const { return used >= table_growth::max_used(segment->bucket_count()); }
  };

  // A slot of a sign: the one that it has, or the one that it would get.
  struct Target {
    Place place;
    std::uint64_t header;  // of the bucket
    bool is_used;
    bool is_row;
  };

  // A sign of a batch on its way to its slot.
  struct Search {
    std::uint64_t sign;
    std::uint64_t hash;
    Owned* owned;
    Target target;
    std::uint64_t rebuilds;  // how many there had been when the target was found
  };

  TableWriter(RowShape shape, std::unique_ptr<TableMemory> memory, Mapping directory, Stores stores)
      : shape_(shape),
        memory_(std::move(memory)),
        directory_mapping_(std::move(directory)),
        view_(std::make_unique<TableView>(shape, directory_in(directory_mapping_))),
        stores_(std::move(stores)) {}

  Directory& directory() const { return directory_in(directory_mapping_); }
  Owned& owner_of(std::uint64_t hash) const { return *owned_[owned_of_[entry_of(hash)]]; }

  template <class Apply>
  void run_batch(const std::byte* signs, std::size_t n, Apply&& apply);
  template <class Apply>
  void for_each_sign(const std::byte* signs, std::size_t n, Apply&& apply);
  void start(Search& search) const;
  static bool may_write(const Search& search, std::uint32_t ordinal);
  void put(Search& search, std::uint32_t ordinal, const std::uint64_t* row);
  bool leave_tombstone(Search& search, std::uint32_t ordinal);
  void make_room(Search& search);
  static Target find(const Segment& segment, std::uint64_t sign, std::uint64_t hash);
  static void mark_overflow(Stores& stores, const Segment& segment, std::uint64_t hash, std::size_t until);
  Owned& with_room(std::uint64_t hash);
  void operate(const Segment& segment, const Target& target, RedoOperation operation, std::uint64_t sign,
               std::uint32_t ordinal, const std::uint64_t* row);
  void complete(const Segment& segment, const Target& target, RedoOperation operation, std::uint64_t after,
                std::uint64_t sign, std::uint32_t ordinal, const std::uint64_t* row);
  void end_batch();
  std::size_t bulk_insert_until_full(const BulkBatch& batch, std::size_t begin, RowType source,
                                     std::uint32_t ordinal, std::size_t& written);

  static void remove_unfinished(TableMemory& files);
  void make_segments(std::size_t rows, unsigned threads);
  std::uint32_t take_number();
  void rebuild(std::size_t index, std::vector<table_growth::Share> shares);
  std::size_t kept(const Owned& owned) const;
  void grow(std::size_t index);
  std::vector<std::unique_ptr<Owned>> filled(const Segment& old, std::vector<table_growth::Share> shares);
  void discard(std::vector<std::unique_ptr<Owned>>& segments);
  void announce(const std::vector<std::unique_ptr<Owned>>& segments);
  static bool copy_rows(const Segment& from, const std::vector<std::unique_ptr<Owned>>& to,
                        std::uint32_t horizon);
  static void place_row(Owned& owned, std::uint64_t sign, std::uint64_t hash,
                        const std::atomic<std::uint64_t>* row, std::uint32_t ordinal, bool is_row);
  void index_owned();
  std::unique_ptr<const Snapshot> next_snapshot(const std::vector<std::unique_ptr<Owned>>& owned,
                                                std::uint32_t change) const;
  std::size_t segment_bytes() const;

  void redo_unfinished();
  void adopt_segments();
  void remove_unnamed();
  static void count(Owned& owned, const std::string& what);

  const RowShape shape_;
  const std::size_t row_words_ = shape_.words();
  std::unique_ptr<TableMemory> memory_;
  Mapping directory_mapping_;
  std::unique_ptr<TableView> view_;
  Stores stores_;
  std::vector<std::unique_ptr<Owned>> owned_;       // in the order of their entries
  std::array<std::uint16_t, kEntries> owned_of_{};  // by directory entry
  std::uint64_t rebuilds_ = 0;
  std::atomic<std::size_t> rows_{0};  // in all segments
  std::shared_mutex bulk_;            // shared by bulk_insert, exclusive while it grows a segment
};

// ---- making and finding ----

template <class Stores>
std::unique_ptr<TableWriter<Stores>> TableWriter<Stores>::create(RowShape shape, std::size_t rows,
                                                                 std::unique_ptr<TableMemory> memory,
                                                                 const TableOrigin& origin, unsigned threads,
                                                                 Stores stores) {
  TableMemory& files = *memory;
  remove_unfinished(files);
  Mapping mapping = create_directory(files, shape, origin);
  auto writer = std::unique_ptr<TableWriter>(
      new TableWriter(shape, std::move(memory), std::move(mapping), std::move(stores)));
  try {
    writer->make_segments(rows, threads);
    files.rename(kNewDirectoryFile, kDirectoryFile);
  } catch (...) {
    writer->owned_.clear();
    remove_unfinished(files);
    throw;
  }
  return writer;
}

// Removes what a creation that did not come to its end has left.
template <class Stores>
void TableWriter<Stores>::remove_unfinished(TableMemory& files) {
  const std::vector<std::string> names = files.names();
  if (std::find(names.begin(), names.end(), kDirectoryFile) != names.end()) {
    throw TableError(files.describe(kDirectoryFile) + ": there is a table already");
  }
  for (const std::string& name : names) {
    if (name.starts_with(kSegmentPrefix) || name == kNewDirectoryFile) files.remove(name);
  }
}

// The segments of a new table, named by the directory's words.
template <class Stores>
void TableWriter<Stores>::make_segments(std::size_t rows, unsigned threads) {
  const std::vector<table_growth::Share> shares = table_growth::initial_shares(rows, shape_.words());
  owned_.resize(shares.size());
  std::vector<std::uint32_t> numbers(shares.size());
  for (std::uint32_t& number : numbers) number = take_number();

  // Pages are zeroed as they are allocated, which is most of the time that this takes.
  std::atomic<std::size_t> next{0};
  std::vector<std::exception_ptr> failures(std::max(1u, threads));
  const auto make = [&](std::size_t thread) {
    try {
      for (std::size_t i; (i = next.fetch_add(1)) < shares.size();) {
        const table_growth::Share& share = shares[i];
        auto owned = std::make_unique<Owned>();
        owned->segment = Segment::create(*memory_, directory().header, shape_, numbers[i], share.first_entry,
                                         share.end_entry, share.bucket_count);
        owned->segment->mapping().populate_for_writing();
        owned_[i] = std::move(owned);
      }
    } catch (...) {
      failures[thread] = std::current_exception();
      next = shares.size();  // the others need not go on
    }
  };
  {
    std::vector<std::jthread> others;
    try {
      for (std::size_t thread = 1; thread < failures.size(); ++thread) others.emplace_back(make, thread);
    } catch (const std::system_error&) {  // no more threads: those that there are do it all
    }
    make(0);
  }
  for (const std::exception_ptr& failure : failures) {
    if (failure) std::rethrow_exception(failure);
  }
  for (const auto& owned : owned_) {
    for (std::size_t entry = owned->segment->first_entry(); entry < owned->segment->end_entry(); ++entry) {
      stores_.store(directory().words[entry], owned->segment->number());
    }
  }
  index_owned();
  view_->publish(next_snapshot(owned_, 0));
  stores_.step();
}

template <class Stores>
void TableWriter<Stores>::index_owned() {
  for (std::size_t i = 0; i < owned_.size(); ++i) {
    const Segment& segment = *owned_[i]->segment;
    for (std::size_t entry = segment.first_entry(); entry < segment.end_entry(); ++entry) {
      owned_of_[entry] = static_cast<std::uint16_t>(i);
    }
  }
}

template <class Stores>
std::unique_ptr<const Snapshot> TableWriter<Stores>::next_snapshot(
    const std::vector<std::unique_ptr<Owned>>& owned, std::uint32_t change) const {
  std::vector<std::shared_ptr<const Segment>> segments;
  for (const auto& one : owned) segments.push_back(one->segment);
  return view_->prepare(segments, change);
}

// The slot of `sign`, or, if it has none, the first free one on its way (there is one: max_used() leaves
// some).
template <class Stores>
typename TableWriter<Stores>::Target TableWriter<Stores>::find(const Segment& segment, std::uint64_t sign,
                                                               std::uint64_t hash) {
  std::optional<Target> free;
  std::size_t index = segment.home(hash);
  for (std::size_t hop = 0; hop < segment.bucket_count(); ++hop, index = segment.next(index)) {
    const Bucket& line = segment.bucket(index);
    const std::uint64_t header = line.header.load(std::memory_order_relaxed);
    const std::uint64_t used = bucket_header::used(header);
    std::uint64_t equal = 0;
#pragma GCC unroll 7
    for (std::size_t slot = 0; slot < kSlots; ++slot) {
      equal |= std::uint64_t{line.keys[slot].load(std::memory_order_relaxed) == sign} << slot;
    }
    equal &= used;
    if (equal) {
      const Place place{index, static_cast<std::size_t>(std::countr_zero(equal))};
      return {place, header, true, (bucket_header::occupied(header) & equal) != 0};
    }
    if (!free && used != bucket_header::kSlotMask) {
      free = Target{{index, static_cast<std::size_t>(std::countr_one(used))}, header, false, false};
    }
    if (!(header & bucket_header::kOverflow) && free) break;
  }
  return free.value_or(Target{{segment.bucket_count(), 0}, 0, false, false});
}

// ---- operations ----

// Runs a batch: apply(sign, i), behind prefetches of its bucket, then of its row and ordinal. If a segment
// cannot grow, what was done before counts.
template <class Stores>
template <class Apply>
void TableWriter<Stores>::run_batch(const std::byte* signs, std::size_t n, Apply&& apply) {
  try {
    for_each_sign(signs, n, apply);
  } catch (...) {
    end_batch();
    throw;
  }
  end_batch();
}

template <class Stores>
template <class Apply>
void TableWriter<Stores>::for_each_sign(const std::byte* signs, std::size_t n, Apply&& apply) {
  // Three blocks are on their way: one whose buckets are fetched, one whose rows are, and one that is
  // written. Addresses are collected first and then prefetched in a row: processors hold up what follows a
  // prefetch until they have its page, so prefetches among other work have little of it in flight.
  constexpr std::size_t kBlock = 8;
  Search searches[3][kBlock];
  const void* lines[kBlock];
  const void* ordinals[kBlock];
  const std::size_t row_bytes = std::min<std::size_t>(row_words_ * 8, 512);
  const auto block_size = [&](std::size_t begin) { return begin < n ? std::min(kBlock, n - begin) : 0; };
  for (std::size_t turn = 0; turn * kBlock < n + 2 * kBlock; ++turn) {
    const std::size_t first = turn * kBlock;
    Search* const fetched = searches[turn % 3];
    const std::size_t fetching = block_size(first);
    for (std::size_t i = 0; i < fetching; ++i) {
      fetched[i].sign = load_sign(signs, first + i);
      fetched[i].hash = sign_hash(fetched[i].sign);
      const Segment& segment = *owner_of(fetched[i].hash).segment;
      lines[i] = &segment.bucket(segment.home(fetched[i].hash));
    }
    for (std::size_t i = 0; i < fetching; ++i) {
      __builtin_prefetch(lines[i], 1);
      __builtin_prefetch(static_cast<const Bucket*>(lines[i]) + 1,
                         1);  // where nearly all are that are not at home
    }

    Search* const found = searches[(turn + 2) % 3];
    const std::size_t finding = turn < 1 ? 0 : block_size(first - kBlock);
    for (std::size_t i = 0; i < finding; ++i) {
      start(found[i]);
      const Segment& segment = *found[i].owned->segment;
      // Behind the last bucket if there is no free slot at all; then this is not written either.
      const Place place =
          found[i].target.place.bucket < segment.bucket_count() ? found[i].target.place : Place{0, 0};
      lines[i] = segment.row(place);
      ordinals[i] = &segment.ordinal(place);
    }
    for (std::size_t i = 0; i < finding; ++i) {
      for (std::size_t at = 0; at < row_bytes; at += 64)
        __builtin_prefetch(static_cast<const char*>(lines[i]) + at, 1);
      __builtin_prefetch(ordinals[i], 1);
    }

    Search* const ready = searches[(turn + 1) % 3];
    const std::size_t writing = turn < 2 ? 0 : block_size(first - 2 * kBlock);
    for (std::size_t i = 0; i < writing; ++i) {
      Search& search = ready[i];
      // Keys stay where they are as long as their segment does, and a free slot is free as long as its
      // bucket's header is the same.
      if (search.rebuilds != rebuilds_ ||
          search.owned->segment->bucket(search.target.place.bucket).header.load(std::memory_order_relaxed) !=
              search.target.header) {
        start(search);
      }
      apply(search, first - 2 * kBlock + i);
    }
  }
}

template <class Stores>
void TableWriter<Stores>::start(Search& search) const {
  search.owned = &owner_of(search.hash);
  search.target = find(*search.owned->segment, search.sign, search.hash);
  search.rebuilds = rebuilds_;
}

template <class Stores>
std::size_t TableWriter<Stores>::upsert(const std::byte* signs, const std::byte* const* rows, std::size_t n,
                                        RowType source, std::uint32_t ordinal) {
  std::array<std::uint64_t, kMaxRowWords> words;
  std::size_t written = 0;
  run_batch(signs, n, [&](Search& search, std::size_t i) {
    if (!may_write(search, ordinal)) return;
    pack_row(rows[i], source, shape_, words.data());
    put(search, ordinal, words.data());
    ++written;
  });
  return written;
}

template <class Stores>
std::size_t TableWriter<Stores>::erase(const std::byte* signs, std::size_t n, std::uint32_t ordinal) {
  std::size_t erased = 0;
  run_batch(signs, n, [&](Search& search, std::size_t) {
    if (!may_write(search, ordinal)) return;
    const bool is_row = search.target.is_row;
    erased += leave_tombstone(search, ordinal) && is_row;
  });
  return erased;
}

template <class Stores>
std::size_t TableWriter<Stores>::restore(const std::byte* signs, const SignState* states,
                                         const std::byte* ordinals, const std::byte* rows, std::size_t n) {
  std::array<std::uint64_t, kMaxRowWords> words;
  std::size_t written = 0;
  run_batch(signs, n, [&](Search& search, std::size_t i) {
    std::uint32_t ordinal;
    std::memcpy(&ordinal, ordinals + i * sizeof(ordinal), sizeof(ordinal));
    switch (states[i]) {
      case SignState::kAbsent:
        written += search.target.is_used && leave_tombstone(search, 0);
        break;
      case SignState::kPresent:
        pack_row(rows + i * shape_.bytes(), shape_.type, shape_, words.data());
        put(search, ordinal, words.data());
        ++written;
        break;
      case SignState::kTombstone:
        written += leave_tombstone(search, ordinal);
        break;
    }
  });
  return written;
}

// Only this writer changes what it reads here, so it reads as its own operations do.
template <class Stores>
void TableWriter<Stores>::capture(const std::byte* signs, std::size_t n, SignState* states,
                                  std::uint32_t* ordinals, std::byte* rows) {
  const std::size_t row_bytes = shape_.bytes();
  for_each_sign(signs, n, [&](const Search& search, std::size_t i) {
    const Target& target = search.target;
    std::byte* const row = rows + i * row_bytes;
    states[i] = target.is_row    ? SignState::kPresent
                : target.is_used ? SignState::kTombstone
                                 : SignState::kAbsent;
    ordinals[i] =
        target.is_used ? search.owned->segment->ordinal(target.place).load(std::memory_order_relaxed) : 0;
    if (target.is_row) {
      copy_words(search.owned->segment->row(target.place), row_bytes, row);
    } else {
      std::memset(row, 0, row_bytes);
    }
  });
}

// The row of a sign, whatever was there.
template <class Stores>
void TableWriter<Stores>::put(Search& search, std::uint32_t ordinal, const std::uint64_t* row) {
  if (!search.target.is_used) make_room(search);
  operate(*search.owned->segment, search.target, RedoOperation::kUpsert, search.sign, ordinal, row);
  search.owned->used += !search.target.is_used;
  search.owned->rows += !search.target.is_row;
  rows_.store(size() + !search.target.is_row, std::memory_order_relaxed);
}

// The tombstone of a sign, whatever was there. False: none is needed, and nothing was there.
template <class Stores>
bool TableWriter<Stores>::leave_tombstone(Search& search, std::uint32_t ordinal) {
  if (!search.target.is_used) {
    // Nothing older can come that a tombstone would have to stop.
    if (ordinal < directory().horizon.load(std::memory_order_relaxed)) return false;
    make_room(search);
  }
  operate(*search.owned->segment, search.target, RedoOperation::kErase, search.sign, ordinal, nullptr);
  search.owned->used += !search.target.is_used;
  search.owned->rows -= search.target.is_row;
  rows_.store(size() - search.target.is_row, std::memory_order_relaxed);
  return true;
}

template <class Stores>
bool TableWriter<Stores>::may_write(const Search& search, std::uint32_t ordinal) {
  return !search.target.is_used ||
         search.owned->segment->ordinal(search.target.place).load(std::memory_order_relaxed) <= ordinal;
}

template <class Stores>
void TableWriter<Stores>::make_room(Search& search) {
  if (!search.owned->is_full()) return;
  with_room(search.hash);
  start(search);
}

// Full buckets between the home bucket and `until` say that a search goes on.
template <class Stores>
void TableWriter<Stores>::mark_overflow(Stores& stores, const Segment& segment, std::uint64_t hash,
                                        std::size_t until) {
  for (std::size_t index = segment.home(hash); index != until; index = segment.next(index)) {
    std::atomic<std::uint64_t>& header = segment.bucket(index).header;
    const std::uint64_t before = header.load(std::memory_order_relaxed);
    if (!(before & bucket_header::kOverflow)) stores.store(header, before | bucket_header::kOverflow);
  }
}

// A bucket's header after an operation on one of its slots.
inline std::uint64_t header_after(std::uint64_t before, std::size_t slot, RedoOperation operation) {
  const std::uint64_t occupied = bucket_header::occupied_bit(slot);
  const std::uint64_t tombstone = bucket_header::tombstone_bit(slot);
  return (bucket_header::advanced(before, 2) & ~(occupied | tombstone)) |
         (operation == RedoOperation::kUpsert ? occupied : tombstone);
}

// One operation on one bucket: the record, then the bucket.
template <class Stores>
void TableWriter<Stores>::operate(const Segment& segment, const Target& target, RedoOperation operation,
                                  std::uint64_t sign, std::uint32_t ordinal, const std::uint64_t* row) {
  RedoRecord& redo = directory().redo;
  // First of all, because what follows changes headers: a record that is in force fits to its bucket's.
  stores_.store(redo.operation, RedoOperation::kNone);
  if (!target.is_used) mark_overflow(stores_, segment, sign_hash(sign), target.place.bucket);
  const std::size_t slot = target.place.slot;
  const std::uint64_t after = header_after(target.header, slot, operation);

  stores_.store(redo.segment, segment.number());
  stores_.store(redo.bucket, target.place.bucket);
  stores_.store(redo.slot, slot);
  stores_.store(redo.header_before, target.header);
  stores_.store(redo.header_after, after);
  stores_.store(redo.sign, sign);
  stores_.store(redo.ordinal, ordinal);
  if (row) {
    for (std::size_t i = 0, n = row_words_; i < n; ++i) stores_.store(redo.row[i], row[i]);
  }
  stores_.store(redo.operation, operation);
  complete(segment, target, operation, after, sign, ordinal, row);
}

// The part that a later start repeats: brings the bucket from `target.header` to `after`.
template <class Stores>
void TableWriter<Stores>::complete(const Segment& segment, const Target& target, RedoOperation operation,
                                   std::uint64_t after, std::uint64_t sign, std::uint32_t ordinal,
                                   const std::uint64_t* row) {
  Bucket& line = segment.bucket(target.place.bucket);
  stores_.store(line.header, bucket_header::advanced(target.header, 1));
  if (!target.is_used) stores_.store(line.keys[target.place.slot], sign);
  if (operation == RedoOperation::kUpsert) {
    std::atomic<std::uint64_t>* const words = segment.row(target.place);
    for (std::size_t i = 0, n = row_words_; i < n; ++i) stores_.store(words[i], row[i]);
  }
  stores_.store(segment.ordinal(target.place), ordinal);
  stores_.store(line.header, after);
}

template <class Stores>
void TableWriter<Stores>::end_batch() {
  stores_.store(directory().redo.operation, RedoOperation::kNone);
  stores_.store(directory().rows, size());
  view_->reclaim();
}

// ---- bulk load ----

template <class Stores>
std::size_t TableWriter<Stores>::bulk_insert(const std::byte* signs, const std::byte* const* rows,
                                             std::size_t n, RowType source, std::uint32_t ordinal) {
  const auto locate = [this](std::uint64_t sign) {
    const std::uint64_t hash = sign_hash(sign);
    const std::size_t index = owned_of_[entry_of(hash)];
    const Segment& segment = *owned_[index]->segment;
    return std::pair(index, segment.buckets() + segment.home(hash));
  };
  std::size_t written = 0;
  BulkBatch batch;
  for (std::size_t begin = 0; begin < n; begin += BulkBatch::kMost) {
    std::shared_lock shared(bulk_);
    batch.group(signs + begin * sizeof(std::uint64_t), rows + begin, std::min(BulkBatch::kMost, n - begin),
                owned_.size(), locate);
    std::size_t done = 0;
    while ((done = bulk_insert_until_full(batch, done, source, ordinal, written)) < batch.rows().size()) {
      shared.unlock();
      {
        const std::unique_lock all(bulk_);
        with_room(sign_hash(batch.rows()[done].sign));
      }
      shared.lock();
      batch.group_again(done, locate);
    }
  }
  return written;
}

// Inserts the rows of a batch from number `begin` on. Returns where it stopped: at the end, or at a sign
// whose segment is full.
template <class Stores>
std::size_t TableWriter<Stores>::bulk_insert_until_full(const BulkBatch& batch, std::size_t begin,
                                                        RowType source, std::uint32_t ordinal,
                                                        std::size_t& written) {
  const std::span<const BulkRow> rows = batch.rows();
  std::size_t present = 0;
  std::size_t done = begin;
  for (bool is_full = false; done < rows.size() && !is_full;) {
    Owned& owned = *owned_[rows[done].segment];
    const std::lock_guard one(owned.load);
    const std::size_t most = table_growth::max_used(owned.segment->bucket_count());
    BulkCounts counts;
    const std::size_t stopped = fill_segment(*owned.segment, shape_, rows, done,
                                             most - std::min(most, owned.used), source, ordinal, counts);
    is_full = stopped < rows.size() && rows[stopped].segment == rows[done].segment;
    owned.used += counts.inserted;
    owned.rows += counts.inserted + counts.revived;
    present += counts.inserted + counts.revived;
    written += counts.written;
    done = stopped;
  }
  rows_.fetch_add(present, std::memory_order_relaxed);
  return done;
}

// Segments that were made for far more rows than came give back what is too much.
template <class Stores>
void TableWriter<Stores>::finish_bulk() {
  constexpr std::size_t kWorthwhile = std::size_t{64} << 10;
  for (std::size_t index = 0; index < owned_.size(); ++index) {
    const Segment& segment = *owned_[index]->segment;
    const auto rows = static_cast<double>(owned_[index]->used);
    const std::size_t buckets =
        table_growth::fill_pages(table_growth::buckets_for(rows, table_growth::kBulkLoad), shape_.words());
    const std::size_t bytes = segment_layout(buckets, shape_.words()).end;
    if (bytes + bytes / 20 + kWorthwhile >= segment.mapping().bytes()) continue;
    try {
      rebuild(index, {{segment.first_entry(), segment.end_entry(), buckets}});
    } catch (const TableSpaceError&) {
      break;  // a smaller copy needs room of its own first; the table is whole as it is
    }
  }
  end_batch();
}

}  // namespace satrap

#include "table_rebuild.h"
#include "table_recovery.h"

#endif  // SATRAP_TABLE_WRITER_H_
