// TableWriter's recovery: what a start makes of the files that another writer left. docs/table.md has the
// crash cases. Included by table_writer.h.
#ifndef SATRAP_TABLE_RECOVERY_H_
#define SATRAP_TABLE_RECOVERY_H_

#include "table_writer.h"

namespace satrap {

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

#endif  // SATRAP_TABLE_RECOVERY_H_
