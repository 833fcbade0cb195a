// TableWriter's growth: segments that are full are replaced by larger ones, or by two. docs/table.md has the
// steps, and what a crash between two of them leaves. Included by table_writer.h.
#ifndef SATRAP_TABLE_REBUILD_H_
#define SATRAP_TABLE_REBUILD_H_

#include "table_writer.h"

namespace satrap {

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
  // The processor does not keep up with so many places that are read and written front to back by itself.
  constexpr std::size_t kBucketsAhead = 16, kRowsAhead = 8;
  const std::size_t row_bytes = std::min<std::size_t>(kSlots * from.row_words() * 8, 1024);
  const auto fetch_source = [&](std::size_t index) {
    if (index + kBucketsAhead >= from.bucket_count()) return;
    __builtin_prefetch(&from.bucket(index + kBucketsAhead));
    const Place ahead{index + kRowsAhead, 0};
    const auto* const rows = reinterpret_cast<const std::byte*>(from.row(ahead));
    for (std::size_t at = 0; at < row_bytes; at += 64) __builtin_prefetch(rows + at);
    __builtin_prefetch(&from.ordinal(ahead));
  };
  const auto fetch_target = [](const Segment& target, std::size_t home, std::size_t slot) {
    if (home + kBucketsAhead >= target.bucket_count()) return;
    __builtin_prefetch(&target.bucket(home + kBucketsAhead), 1);
    __builtin_prefetch(target.row({home + kRowsAhead, slot}), 1);
    __builtin_prefetch(&target.ordinal({home + kRowsAhead, slot}), 1);
  };
  std::vector<Source> displaced;
  for (std::size_t index = 0; index < from.bucket_count(); ++index) {
    fetch_source(index);
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
      const std::size_t home = target.home(hash);
      fetch_target(target, home, slot.slot);
      const std::uint64_t there = target.bucket(home).header.load(std::memory_order_relaxed);
      if (bucket_header::used(there) == bucket_header::kSlotMask) {
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

}  // namespace satrap

#endif  // SATRAP_TABLE_REBUILD_H_
