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

#include "row_pack.h"
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
    if (!search.target.is_used) make_room(search);
    pack_row(rows[i], source, shape_, words.data());
    operate(*search.owned->segment, search.target, RedoOperation::kUpsert, search.sign, ordinal,
            words.data());
    search.owned->used += !search.target.is_used;
    search.owned->rows += !search.target.is_row;
    rows_.store(size() + !search.target.is_row, std::memory_order_relaxed);
    ++written;
  });
  return written;
}

template <class Stores>
std::size_t TableWriter<Stores>::erase(const std::byte* signs, std::size_t n, std::uint32_t ordinal) {
  std::size_t erased = 0;
  run_batch(signs, n, [&](Search& search, std::size_t) {
    if (!may_write(search, ordinal)) return;
    if (!search.target.is_used) {
      // Nothing older can come that a tombstone would have to stop.
      if (ordinal < directory().horizon.load(std::memory_order_relaxed)) return;
      make_room(search);
    }
    operate(*search.owned->segment, search.target, RedoOperation::kErase, search.sign, ordinal, nullptr);
    search.owned->used += !search.target.is_used;
    search.owned->rows -= search.target.is_row;
    rows_.store(size() - search.target.is_row, std::memory_order_relaxed);
    erased += search.target.is_row;
  });
  return erased;
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

// ---- growth ----

template <class Stores>
std::uint32_t TableWriter<Stores>::take_number() {
  const std::uint32_t number = directory().next_segment.load(std::memory_order_relaxed);
  stores_.store(directory().next_segment, number + 1);
  return number;
}

template <class Stores>
std::size_t TableWriter<Stores>::segment_bytes() const {
  std::size_t sum = 0;
  for (const auto& owned : owned_) sum += owned->segment->mapping().bytes();
  return sum;
}

// The segment for `hash`, after it has grown as often as it takes.
template <class Stores>
typename TableWriter<Stores>::Owned& TableWriter<Stores>::with_room(std::uint64_t hash) {
  while (owner_of(hash).is_full()) grow(owned_of_[entry_of(hash)]);
  return owner_of(hash);
}

// Rows and tombstones that a rebuild copies.
template <class Stores>
std::size_t TableWriter<Stores>::kept(const Owned& owned) const {
  const std::uint32_t horizon = directory().horizon.load(std::memory_order_relaxed);
  if (owned.used == owned.rows || horizon == 0) return owned.used;
  const Segment& segment = *owned.segment;
  std::size_t dropped = 0;
  for (std::size_t index = 0; index < segment.bucket_count(); ++index) {
    std::uint64_t left =
        bucket_header::tombstones(segment.bucket(index).header.load(std::memory_order_relaxed));
    for (; left; left &= left - 1) {
      const Place place{index, static_cast<std::size_t>(std::countr_zero(left))};
      dropped += segment.ordinal(place).load(std::memory_order_relaxed) < horizon;
    }
  }
  return owned.used - dropped;
}

template <class Stores>
void TableWriter<Stores>::grow(std::size_t index) {
  const Segment& segment = *owned_[index]->segment;
  const std::uint32_t first = segment.first_entry(), end = segment.end_entry();
  const std::size_t next = table_growth::grown(kept(*owned_[index]), shape_.words(), segment.number());
  const std::size_t limit = table_growth::segment_limit(segment_bytes());
  if (end - first > 1 && segment_layout(next, shape_.words()).end > limit) {
    const std::uint32_t middle = first + (end - first) / 2;
    const auto half = [&](std::uint32_t entries) {
      return table_growth::fill_pages(std::max<std::size_t>(1, next * entries / (end - first)),
                                      shape_.words());
    };
    rebuild(index, {{first, middle, half(middle - first)}, {middle, end, half(end - middle)}});
  } else {
    rebuild(index, {{first, end, next}});
  }
}

template <class Stores>
void TableWriter<Stores>::reserve(std::size_t rows) {
  std::size_t room = 0;
  for (const auto& owned : owned_) room += table_growth::max_used(owned->segment->bucket_count());
  if (rows <= room) return;
  const std::size_t words = shape_.words();
  const std::size_t limit = table_growth::segment_limit(
      segment_layout(table_growth::buckets_for(static_cast<double>(rows), table_growth::kBulkLoad), words)
          .end);
  for (std::size_t index = 0; index < owned_.size();) {
    const Segment& segment = *owned_[index]->segment;
    const std::uint32_t first = segment.first_entry(), end = segment.end_entry();
    const double expected = static_cast<double>(rows) * (end - first) / kEntries;
    const std::size_t bytes =
        segment_layout(table_growth::buckets_for(expected, table_growth::kBulkLoad), words).end;
    const std::size_t parts = std::min<std::size_t>((bytes + limit - 1) / limit, end - first);
    std::vector<table_growth::Share> shares;
    for (std::size_t part = 0; part < parts; ++part) {
      const auto from = static_cast<std::uint32_t>(first + part * (end - first) / parts);
      const auto to = static_cast<std::uint32_t>(first + (part + 1) * (end - first) / parts);
      const double share = static_cast<double>(rows) * (to - from) / kEntries;
      const std::size_t buckets =
          std::max(table_growth::buckets_for(share, table_growth::kBulkLoad),
                   table_growth::buckets_for(share + 3 * std::sqrt(share), table_growth::kMaxLoad));
      shares.push_back({from, to, table_growth::fill_pages(buckets, words)});
    }
    rebuild(index, std::move(shares));
    index += parts;
  }
  end_batch();
}

// Puts a sign that is not there into a segment that nobody reads yet.
template <class Stores>
void TableWriter<Stores>::place_row(Owned& owned, std::uint64_t sign, std::uint64_t hash,
                                    const std::atomic<std::uint64_t>* row, std::uint32_t ordinal,
                                    bool is_row) {
  const Segment& segment = *owned.segment;
  std::size_t index = segment.home(hash);
  std::uint64_t header;
  while (bucket_header::used(header = segment.bucket(index).header.load(std::memory_order_relaxed)) ==
         bucket_header::kSlotMask) {
    segment.bucket(index).header.store(header | bucket_header::kOverflow, std::memory_order_relaxed);
    index = segment.next(index);
  }
  const Place place{index, static_cast<std::size_t>(std::countr_one(bucket_header::used(header)))};
  segment.bucket(index).keys[place.slot].store(sign, std::memory_order_relaxed);
  std::atomic<std::uint64_t>* const words = segment.row(place);
  if (is_row) {
    for (std::size_t i = 0; i < segment.row_words(); ++i) {
      words[i].store(row[i].load(std::memory_order_relaxed), std::memory_order_relaxed);
    }
  }
  segment.ordinal(place).store(ordinal, std::memory_order_relaxed);
  const std::uint64_t bit =
      is_row ? bucket_header::occupied_bit(place.slot) : bucket_header::tombstone_bit(place.slot);
  segment.bucket(index).header.store(header | bit, std::memory_order_relaxed);
  ++owned.used;
  owned.rows += is_row;
}

// Fills `to`, which divide the entries of `from` among them. False if one of them is too small.
template <class Stores>
bool TableWriter<Stores>::copy_rows(const Segment& from, const std::vector<std::unique_ptr<Owned>>& to,
                                    std::uint32_t horizon) {
  struct Source {
    Owned* to;
    std::uint64_t sign;
    std::uint64_t hash;
    Place place;
    bool is_row;
  };
  const auto place = [&from](const Source& source) {
    place_row(*source.to, source.sign, source.hash, from.row(source.place),
              from.ordinal(source.place).load(std::memory_order_relaxed), source.is_row);
  };
  // Keys that fit into their home bucket come first, whatever their order: one that went into the next bucket
  // instead would take the place of a key that is at home there, and lookups of both would need a line more.
  // Both sides are in the order of the hash, so both are walked front to back.
  std::vector<Source> displaced;
  for (std::size_t index = 0; index < from.bucket_count(); ++index) {
    const Bucket& line = from.bucket(index);
    const std::uint64_t header = line.header.load(std::memory_order_relaxed);
    for (std::uint64_t left = bucket_header::used(header); left; left &= left - 1) {
      const Place slot{index, static_cast<std::size_t>(std::countr_zero(left))};
      const bool is_row = (bucket_header::occupied(header) >> slot.slot) & 1;
      if (!is_row && from.ordinal(slot).load(std::memory_order_relaxed) < horizon) continue;
      const std::uint64_t sign = line.keys[slot.slot].load(std::memory_order_relaxed);
      const std::uint64_t hash = sign_hash(sign);
      std::size_t part = 0;
      while (entry_of(hash) >= to[part]->segment->end_entry()) ++part;
      const Source source{to[part].get(), sign, hash, slot, is_row};
      const Segment& target = *source.to->segment;
      const std::uint64_t home = target.bucket(target.home(hash)).header.load(std::memory_order_relaxed);
      if (bucket_header::used(home) == bucket_header::kSlotMask) {
        displaced.push_back(source);
      } else {
        place(source);
      }
    }
  }
  for (const Source& source : displaced) {
    if (source.to->used + 1 >= source.to->segment->bucket_count() * kSlots) return false;
    place(source);
  }
  return std::none_of(to.begin(), to.end(), [](const auto& owned) { return owned->is_full(); });
}

// Replaces one segment by others for the same entries. Throws TableSpaceError, and nothing has changed then.
template <class Stores>
void TableWriter<Stores>::rebuild(std::size_t index, std::vector<table_growth::Share> shares) {
  Directory& shared = directory();
  const std::shared_ptr<Segment> old = owned_[index]->segment;
  stores_.store(shared.redo.operation, RedoOperation::kNone);  // it speaks of a file that is about to go
  std::vector<std::shared_ptr<const Segment>> segments;
  for (const auto& owned : owned_) segments.push_back(owned->segment);
  std::vector<std::unique_ptr<Owned>> next;
  std::unique_ptr<const Snapshot> snapshot;
  const std::uint32_t change = shared.change.load(std::memory_order_relaxed) + 1;
  try {
    next = filled(*old, std::move(shares));
    // Everything that needs memory, before the first word is switched.
    const auto at = segments.erase(segments.begin() + static_cast<std::ptrdiff_t>(index));
    std::vector<std::shared_ptr<const Segment>> parts;
    for (const auto& owned : next) parts.push_back(owned->segment);
    segments.insert(at, parts.begin(), parts.end());
    snapshot = view_->prepare(segments, change);
    owned_.reserve(owned_.size() + next.size());
  } catch (const std::bad_alloc&) {
    discard(next);
    throw TableSpaceError(memory_->describe(Segment::file_name(old->number())) + ": no memory to replace it");
  }
  for (const auto& owned : next) {
    for (std::size_t entry = owned->segment->first_entry(); entry < owned->segment->end_entry(); ++entry) {
      stores_.store(shared.words[entry], owned->segment->number());
    }
  }
  owned_.erase(owned_.begin() + static_cast<std::ptrdiff_t>(index));
  owned_.insert(owned_.begin() + static_cast<std::ptrdiff_t>(index), std::make_move_iterator(next.begin()),
                std::make_move_iterator(next.end()));
  index_owned();
  ++rebuilds_;
  // This process first: its readers never have to look for files.
  view_->publish(std::move(snapshot));
  stores_.store(shared.change, change);
  announce({});
  memory_->remove(Segment::file_name(old->number()));
  stores_.step();
}

// New segments with the rows of `old`, announced.
template <class Stores>
std::vector<std::unique_ptr<typename TableWriter<Stores>::Owned>> TableWriter<Stores>::filled(
    const Segment& old, std::vector<table_growth::Share> shares) {
  std::vector<std::unique_ptr<Owned>> next;
  try {
    for (;;) {
      for (const table_growth::Share& share : shares) {
        auto owned = std::make_unique<Owned>();
        owned->segment = Segment::create(*memory_, directory().header, shape_, take_number(),
                                         share.first_entry, share.end_entry, share.bucket_count);
        owned->segment->mapping().populate_for_writing();
        next.push_back(std::move(owned));
        stores_.step();
      }
      announce(next);
      if (copy_rows(old, next, directory().horizon.load(std::memory_order_relaxed))) return next;
      discard(next);  // the rows of one part are more than its share: a small segment, split unevenly
      for (table_growth::Share& share : shares) share.bucket_count += share.bucket_count / 4 + 1;
    }
  } catch (...) {
    discard(next);
    throw;
  }
}

template <class Stores>
void TableWriter<Stores>::discard(std::vector<std::unique_ptr<Owned>>& segments) {
  announce({});
  for (const auto& owned : segments) memory_->remove(Segment::file_name(owned->segment->number()));
  segments.clear();
}

// Tells readers which files will serve soon (the first two: a rebuild makes no more), so that they can map
// them.
template <class Stores>
void TableWriter<Stores>::announce(const std::vector<std::unique_ptr<Owned>>& segments) {
  Directory& shared = directory();
  for (std::size_t i = 0; i < std::size(shared.announced); ++i) {
    stores_.store(shared.announced[i], i < segments.size() ? segments[i]->segment->number() : 0);
  }
  stores_.store(shared.signal, shared.signal.load(std::memory_order_relaxed) + 1);
  wake_followers(shared);
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

// ---- after another writer ----

template <class Stores>
std::unique_ptr<TableWriter<Stores>> TableWriter<Stores>::recover(std::unique_ptr<TableMemory> memory,
                                                                  const TableOrigin& origin, Stores stores) {
  Mapping mapping = open_directory(*memory, origin);
  const RowShape shape = shape_of(directory_in(mapping).header);
  auto writer = std::unique_ptr<TableWriter>(
      new TableWriter(shape, std::move(memory), std::move(mapping), std::move(stores)));
  writer->redo_unfinished();
  writer->adopt_segments();
  writer->end_batch();
  return writer;
}

template <class Stores>
void TableWriter<Stores>::redo_unfinished() {
  const RedoRecord& redo = directory().redo;
  const std::uint64_t word = redo.operation.load(std::memory_order_acquire);
  if (word == static_cast<std::uint64_t>(RedoOperation::kNone)) return;
  const std::string what = memory_->describe(kDirectoryFile);
  const auto operation = static_cast<RedoOperation>(word);
  const std::uint64_t number = redo.segment.load(std::memory_order_relaxed);
  const std::uint64_t ordinal = redo.ordinal.load(std::memory_order_relaxed);
  const Place place{redo.bucket.load(std::memory_order_relaxed), redo.slot.load(std::memory_order_relaxed)};
  if ((operation != RedoOperation::kUpsert && operation != RedoOperation::kErase) || number > 0xffffffffu ||
      ordinal > 0xffffffffu || place.slot >= kSlots) {
    throw TableError(what + ": its redo record is damaged");
  }
  const std::shared_ptr<Segment> segment =
      Segment::open(*memory_, directory().header, shape_, static_cast<std::uint32_t>(number));
  if (!segment) {
    throw TableError(what + ": its redo record names " +
                     Segment::file_name(static_cast<std::uint32_t>(number)) + ", which is missing");
  }
  if (place.bucket >= segment->bucket_count()) throw TableError(what + ": its redo record is damaged");
  const std::uint64_t sign = redo.sign.load(std::memory_order_relaxed);
  const std::uint64_t before = redo.header_before.load(std::memory_order_relaxed);
  const std::uint64_t after = redo.header_after.load(std::memory_order_relaxed);
  if (after != header_after(before, place.slot, operation) || !segment->serves(entry_of(sign_hash(sign)))) {
    throw TableError(what + ": its redo record is damaged");
  }
  const std::uint64_t now = segment->bucket(place.bucket).header.load(std::memory_order_relaxed);
  if (now == after) return;
  if (now != before && now != bucket_header::advanced(before, 1)) {
    throw TableError(what + ": its redo record does not fit to its bucket");
  }
  const bool is_used = (bucket_header::used(before) >> place.slot) & 1;
  std::vector<std::uint64_t> row(shape_.words());
  for (std::size_t i = 0; i < row.size(); ++i) row[i] = redo.row[i].load(std::memory_order_relaxed);
  complete(*segment, {place, before, is_used, false}, operation, after, sign,
           static_cast<std::uint32_t>(ordinal), row.data());
}

// Finds the segments that the directory names, undoes a switch that was not completed, removes other files.
template <class Stores>
void TableWriter<Stores>::adopt_segments() {
  Directory& shared = directory();
  const std::string directory_name = memory_->describe(kDirectoryFile);
  std::vector<std::uint32_t> numbers;
  for (const auto& word : shared.words) {
    const std::uint32_t number = word.load(std::memory_order_relaxed);
    if (std::find(numbers.begin(), numbers.end(), number) == numbers.end()) numbers.push_back(number);
  }
  // Of two segments that claim the same entries the older one is complete: nothing is written to the newer
  // one before every word has been switched. So in the order of their numbers, each takes what no older one
  // has.
  std::sort(numbers.begin(), numbers.end());
  std::array<std::uint32_t, kEntries> serves{};
  bool undone = false;
  for (const std::uint32_t number : numbers) {
    const std::string what = memory_->describe(Segment::file_name(number));
    std::shared_ptr<Segment> segment = Segment::open(*memory_, shared.header, shape_, number);
    if (!segment) throw TableError(what + ": is missing");
    if (number >= shared.next_segment.load(std::memory_order_relaxed)) {
      throw TableError(directory_name + ": the next segment's number is one that is in use");
    }
    for (std::size_t entry = 0; entry < kEntries; ++entry) {
      if (shared.words[entry].load(std::memory_order_relaxed) == number)
        check_serves(*memory_, *segment, entry);
    }
    const auto begin = serves.begin() + segment->first_entry(), end = serves.begin() + segment->end_entry();
    if (std::any_of(begin, end, [](std::uint32_t older) { return older != 0; })) {
      if (std::any_of(begin, end, [](std::uint32_t older) { return older == 0; })) {
        throw TableError(what + ": overlaps another segment");
      }
      undone = true;
      continue;
    }
    std::fill(begin, end, number);
    auto owned = std::make_unique<Owned>();
    owned->segment = std::move(segment);
    owned->segment->mapping().populate_for_writing();
    count(*owned, what);
    rows_.fetch_add(owned->rows, std::memory_order_relaxed);
    owned_.push_back(std::move(owned));
  }
  if (std::find(serves.begin(), serves.end(), 0u) != serves.end()) {
    throw TableError(directory_name + ": names no segment for some of its entries");
  }
  std::sort(owned_.begin(), owned_.end(), [](const auto& a, const auto& b) {
    return a->segment->first_entry() < b->segment->first_entry();
  });
  index_owned();
  if (undone) {
    for (std::size_t entry = 0; entry < kEntries; ++entry) {
      if (shared.words[entry].load(std::memory_order_relaxed) != serves[entry]) {
        stores_.store(shared.words[entry], serves[entry]);
      }
    }
  }
  // Also when nothing was undone: the old writer may have switched all words and not have said so.
  const std::uint32_t change = shared.change.load(std::memory_order_relaxed) + 1;
  view_->publish(next_snapshot(owned_, change));
  for (auto& announced : shared.announced) stores_.store(announced, 0);
  stores_.store(shared.change, change);
  stores_.store(shared.signal, shared.signal.load(std::memory_order_relaxed) + 1);
  wake_followers(shared);
  remove_unnamed();
}

template <class Stores>
void TableWriter<Stores>::remove_unnamed() {
  for (const std::string& name : memory_->names()) {
    if (!name.starts_with(kSegmentPrefix)) continue;
    if (std::none_of(owned_.begin(), owned_.end(), [&](const auto& owned) {
          return Segment::file_name(owned->segment->number()) == name;
        })) {
      memory_->remove(name);
    }
  }
}

// The counts of a segment as its headers say. Throws TableError if one of them cannot be.
template <class Stores>
void TableWriter<Stores>::count(Owned& owned, const std::string& what) {
  const Segment& segment = *owned.segment;
  for (std::size_t index = 0; index < segment.bucket_count(); ++index) {
    const std::uint64_t header = segment.bucket(index).header.load(std::memory_order_relaxed);
    const std::uint64_t occupied = bucket_header::occupied(header),
                        tombstones = bucket_header::tombstones(header);
    // A search ends at a bucket that has not overflowed, so at one with a free slot at the latest.
    const bool overflows = header & bucket_header::kOverflow;
    if (bucket_header::is_changing(header) || (occupied & tombstones) || (header & bucket_header::kUnused) ||
        (overflows && (occupied | tombstones) != bucket_header::kSlotMask)) {
      throw TableError(what + ": the header of bucket " + std::to_string(index) + " is damaged");
    }
    owned.rows += static_cast<std::size_t>(std::popcount(occupied));
    owned.used += static_cast<std::size_t>(std::popcount(occupied | tombstones));
  }
  if (owned.used >= segment.bucket_count() * kSlots) throw TableError(what + ": has no free slot");
}

}  // namespace satrap

#endif  // SATRAP_TABLE_WRITER_H_
