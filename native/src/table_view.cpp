#include "table_view.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <functional>
#include <thread>
#include <utility>

#include "bucket_reader.h"
#include "table_lookup.h"

namespace satrap {
namespace {

std::unique_ptr<Snapshot> make_snapshot(RowShape shape, const Directory& directory, std::uint32_t change) {
  auto snapshot = std::make_unique<Snapshot>();
  snapshot->change = change;
  snapshot->shape = shape;
  snapshot->redo = &directory.redo;
  return snapshot;
}

std::uint16_t add(Snapshot& snapshot, std::shared_ptr<const Segment> segment) {
  snapshot.views.push_back(
      {segment->buckets(), reinterpret_cast<const std::byte*>(segment->rows()), segment->bucket_count()});
  snapshot.segments.push_back(std::move(segment));
  return static_cast<std::uint16_t>(snapshot.segments.size() - 1);
}

// A cursor of a scan: where the segment begins in the directory, which file it was, and the next bucket in
// it.
struct Cursor {
  std::size_t entry;
  std::uint32_t number;
  std::size_t bucket;

  static constexpr unsigned kNumberBits =
      20;  // of the file's number: enough to notice a rebuild between two pages
  static constexpr std::uint32_t kNumberMask = (1u << kNumberBits) - 1;

  static Cursor from(std::uint64_t word) {
    return {static_cast<std::size_t>(word >> 52), static_cast<std::uint32_t>(word >> 32) & kNumberMask,
            static_cast<std::size_t>(word & 0xffffffffu)};
  }
  std::uint64_t word() const {
    return static_cast<std::uint64_t>(entry) << 52 | static_cast<std::uint64_t>(number & kNumberMask) << 32 |
           bucket;
  }
};

}  // namespace

bool Pins::has_older(std::uint64_t epoch) const {
  return std::any_of(slots_.begin(), slots_.end(), [epoch](const Slot& slot) {
    const std::uint64_t pinned = slot.epoch.load();
    return pinned != 0 && pinned <= epoch;
  });
}

std::atomic<std::uint64_t>* Pins::take() const {
  // Every thread begins to look at a place of its own, and nearly always finds it free.
  thread_local const std::size_t first =
      std::hash<std::thread::id>{}(std::this_thread::get_id()) * 0x9e3779b9u;
  for (std::size_t i = first;; ++i) {
    Slot& slot = slots_[i % kCount];
    std::uint64_t free = 0;
    if (slot.epoch.load(std::memory_order_relaxed) == 0 &&
        slot.epoch.compare_exchange_strong(free, epoch_.load())) {
      return &slot.epoch;
    }
    if (i - first >= kCount) std::this_thread::yield();
  }
}

TableView::TableView(RowShape shape, Directory& directory)
    : shape_(shape), form_(copy_forms().back()), directory_(&directory) {}

std::unique_ptr<TableView> TableView::attach(std::unique_ptr<TableMemory> memory, const TableOrigin& origin) {
  Mapping mapping = open_directory(*memory, origin);
  Directory& directory = directory_in(mapping);
  auto view = std::make_unique<TableView>(shape_of(directory.header), directory);
  view->memory_ = std::move(memory);
  view->directory_mapping_ = std::move(mapping);
  view->refresh();
  for (const auto& segment : view->snapshot_.load()->segments) segment->mapping().populate_for_reading();
  return view;
}

TableView::~TableView() { delete snapshot_.load(); }

template <class Read>
auto TableView::with_snapshot(Read&& read) const {
  for (;;) {
    {
      const Pins::Pin pin(pins_);
      const Snapshot& snapshot = *snapshot_.load();
      if (!is_stale(snapshot)) return read(snapshot);
    }
    refresh();
  }
}

std::size_t TableView::lookup(const std::byte* signs, std::size_t n, std::byte* out, std::uint8_t* found,
                              CopyForm form) const {
  return with_snapshot(
      [&](const Snapshot& snapshot) { return lookup_rows(snapshot, form, signs, n, out, found); });
}

std::size_t TableView::contains(const std::byte* signs, std::size_t n, std::uint8_t* found) const {
  return with_snapshot([&](const Snapshot& snapshot) {
    std::size_t present = 0;
    for (std::size_t i = 0; i < n; ++i) {
      std::uint64_t sign;
      std::memcpy(&sign, signs + i * sizeof(sign), sizeof(sign));
      found[i] = read_row(snapshot.segment_at(sign_hash(sign)), *snapshot.redo, sign, 0, nullptr);
      present += found[i];
    }
    return present;
  });
}

// Appends buckets from cursor `start` on to a page: read(segment, redo, bucket, page).
template <class Read>
TablePage TableView::page_of(std::uint64_t start, std::size_t limit, Read&& read) const {
  if (start == TablePage::kEnd) return {{}, {}, {}, TablePage::kEnd};
  return with_snapshot([&](const Snapshot& snapshot) {
    TablePage page{{}, {}, {}, TablePage::kEnd};
    Cursor cursor = Cursor::from(start);
    while (cursor.entry < kEntries) {
      const Segment& segment = *snapshot.segments[snapshot.segment_of[cursor.entry]];
      if (cursor.number != (segment.number() & Cursor::kNumberMask))
        cursor.bucket = 0;  // rebuilt since, or new here
      cursor.number = segment.number();
      for (; cursor.bucket < segment.bucket_count(); ++cursor.bucket) {
        // A page ends at a bucket's end, so it may hold a few rows more than asked.
        if (page.signs.size() >= limit) {
          page.next = cursor.word();
          return page;
        }
        read(segment, *snapshot.redo, cursor.bucket, page);
      }
      cursor = {segment.end_entry(), 0, 0};
    }
    return page;
  });
}

TablePage TableView::scan(std::uint64_t start, std::size_t limit) const {
  const std::size_t row_bytes = shape_.bytes();
  std::uint64_t signs[kSlots];
  std::uint32_t ordinals[kSlots];
  std::vector<std::byte> rows(kSlots * row_bytes);
  return page_of(
      start, limit, [&](const Segment& segment, const RedoRecord& redo, std::size_t bucket, TablePage& page) {
        const std::size_t n = read_bucket(segment, redo, bucket, row_bytes, signs, rows.data(), ordinals);
        page.signs.insert(page.signs.end(), signs, signs + n);
        page.ordinals.insert(page.ordinals.end(), ordinals, ordinals + n);
        page.rows.insert(page.rows.end(), rows.data(), rows.data() + n * row_bytes);
      });
}

TablePage TableView::scan_tombstones(std::uint64_t start, std::size_t limit) const {
  return page_of(
      start, limit, [](const Segment& segment, const RedoRecord&, std::size_t bucket, TablePage& page) {
        const Bucket& line = segment.bucket(bucket);
        std::uint64_t left = bucket_header::tombstones(line.header.load(std::memory_order_acquire));
        for (; left; left &= left - 1) {
          const Place place{bucket, static_cast<std::size_t>(std::countr_zero(left))};
          page.signs.push_back(line.keys[place.slot].load(std::memory_order_acquire));
          page.ordinals.push_back(segment.ordinal(place).load(std::memory_order_acquire));
        }
      });
}

std::size_t TableView::bytes() const {
  return with_snapshot([](const Snapshot& snapshot) {
    std::size_t sum = kDirectoryBytes;
    for (const auto& segment : snapshot.segments) sum += segment->mapping().bytes();
    return sum;
  });
}

bool TableView::huge_pages() const {
  return with_snapshot([](const Snapshot& snapshot) {
    return std::all_of(snapshot.segments.begin(), snapshot.segments.end(), [](const auto& segment) {
      return segment->mapping().is_huge() || segment->mapping().bytes() < std::size_t{2} << 20;
    });
  });
}

std::unique_ptr<const Snapshot> TableView::prepare(
    const std::vector<std::shared_ptr<const Segment>>& segments, std::uint32_t change) const {
  std::unique_ptr<Snapshot> snapshot = make_snapshot(shape_, *directory_, change);
  for (const auto& segment : segments) {
    std::fill(snapshot->segment_of.begin() + static_cast<std::ptrdiff_t>(segment->first_entry()),
              snapshot->segment_of.begin() + static_cast<std::ptrdiff_t>(segment->end_entry()),
              add(*snapshot, segment));
  }
  const std::lock_guard lock(mutex_);
  retired_.reserve(retired_.size() + 1);
  return snapshot;
}

void TableView::publish(std::unique_ptr<const Snapshot> snapshot) {
  std::vector<Retired> unread;
  const std::lock_guard lock(mutex_);
  unread = install(std::move(snapshot));
}

std::vector<TableView::Retired> TableView::install(std::unique_ptr<const Snapshot> snapshot) const {
  std::unique_ptr<const Snapshot> old(snapshot_.exchange(snapshot.release()));
  if (old) retired_.push_back({std::move(old), pins_.advance()});
  return take_unread();
}

void TableView::reclaim() const {
  std::vector<Retired> unread;
  const std::lock_guard lock(mutex_);
  unread = take_unread();
}

std::vector<TableView::Retired> TableView::take_unread() const {
  const auto first = std::stable_partition(retired_.begin(), retired_.end(), [this](const Retired& retired) {
    return pins_.has_older(retired.epoch);
  });
  std::vector<Retired> unread(std::make_move_iterator(first), std::make_move_iterator(retired_.end()));
  retired_.erase(first, retired_.end());
  return unread;
}

std::shared_ptr<const Segment> TableView::mapped(std::uint32_t number, const Snapshot* present) const {
  const auto is_it = [number](const auto& segment) { return segment->number() == number; };
  if (present) {
    const auto at = std::find_if(present->segments.begin(), present->segments.end(), is_it);
    if (at != present->segments.end()) return *at;
  }
  const auto at = std::find_if(ahead_.begin(), ahead_.end(), is_it);
  if (at != ahead_.end()) return *at;
  return Segment::open(*memory_, directory_->header, shape_, number);
}

void TableView::refresh() const {
  std::vector<Retired> unread;
  const std::lock_guard lock(mutex_);
  const Snapshot* const present = snapshot_.load();
  while (!present || is_stale(*present)) {
    // What is read after this count may be newer than it says: then the next batch comes here again.
    std::unique_ptr<Snapshot> next =
        make_snapshot(shape_, *directory_, directory_->change.load(std::memory_order_acquire));
    std::size_t entry = 0;
    std::uint32_t last = 0;
    for (; entry < kEntries; ++entry) {
      const std::uint32_t number = directory_->words[entry].load(std::memory_order_acquire);
      if (entry > 0 && number == last) {
        check_serves(*memory_, *next->segments.back(), entry);
        next->segment_of[entry] = next->segment_of[entry - 1];
        continue;
      }
      last = number;
      std::shared_ptr<const Segment> segment = mapped(number, present);
      if (!segment) break;
      check_serves(*memory_, *segment, entry);
      next->segment_of[entry] = add(*next, std::move(segment));
    }
    if (entry == kEntries) {
      retired_.reserve(retired_.size() + 1);
      unread = install(std::move(next));
      return;
    }
    // A file goes after its words have changed, and numbers are not used again: a word that still names it is
    // damage.
    if (directory_->words[entry].load(std::memory_order_acquire) == last) {
      throw TableError(memory_->describe(Segment::file_name(last)) + ": is missing");
    }
  }
}

void TableView::follow() {
  const std::uint32_t signal = directory_->signal.load(std::memory_order_acquire);
  {
    const std::lock_guard lock(mutex_);
    const Snapshot* const present = snapshot_.load();
    std::vector<std::shared_ptr<const Segment>> ahead;
    for (const auto& announced : directory_->announced) {
      const std::uint32_t number = announced.load(std::memory_order_acquire);
      if (number == 0) continue;
      // Given up again before it was opened: nothing is lost.
      if (std::shared_ptr<const Segment> segment = mapped(number, present))
        ahead.push_back(std::move(segment));
    }
    ahead_.swap(ahead);
  }
  std::vector<std::shared_ptr<const Segment>> ahead;
  {
    const std::lock_guard lock(mutex_);
    ahead = ahead_;
  }
  for (const auto& segment : ahead) segment->mapping().populate_for_reading();
  bool stale;
  {
    const Pins::Pin pin(pins_);  // a lookup may replace the snapshot meanwhile
    stale = is_stale(*snapshot_.load());
  }
  if (stale) refresh();
  std::vector<Retired> unread;
  const std::lock_guard lock(mutex_);
  unread = take_unread();
  followed_ = signal;
}

void TableView::wait_for_signal(std::chrono::milliseconds timeout) const {
  const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(timeout);
  const timespec wait{seconds.count(), std::chrono::nanoseconds(timeout - seconds).count()};
  std::uint32_t followed;
  {
    const std::lock_guard lock(mutex_);
    followed = followed_;
  }
  // Returns at once if the word is another one already.
  static_cast<void>(::syscall(SYS_futex, &directory_->signal, FUTEX_WAIT, followed, &wait, nullptr, 0));
}

void TableView::wake() const { wake_followers(*directory_); }

}  // namespace satrap
