#include "satrap/table.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>

#include "satrap/half.h"
#include "table_storage.h"

namespace satrap {
namespace {

constexpr std::size_t kGrowth = 3;   // the next capacity is 3/2 of this one
constexpr std::size_t kWindow = 24;  // ids between two stages of a pipeline: enough to cover memory's latency
constexpr std::size_t kRing = 128;   // ids on their way: at least three windows, a power of two

void no_more(const TableStorage::Probe&) {}

// Runs visit(probe, i) over a batch, three windows behind the start of each probe and two behind its first
// look; every step waits for lines that were prefetched a window ago. peek(probe) may prefetch more in
// between.
template <class Peek, class Visit>
void pipelined(const TableStorage& storage, const std::byte* signs, std::size_t n, Peek&& peek,
               Visit&& visit) {
  static_assert(kRing >= 3 * kWindow + 1 && (kRing & (kRing - 1)) == 0);
  using Probe = TableStorage::Probe;
  Probe probes[kRing];
  for (std::size_t step = 0; step < n + 3 * kWindow; ++step) {
    if (step < n) probes[step % kRing] = storage.start(load_sign(signs, step));
    if (const std::size_t i = step - kWindow; i < n) storage.look(probes[i % kRing]);
    if (const std::size_t i = step - 2 * kWindow; i < n) {
      storage.look_on(probes[i % kRing]);
      peek(probes[i % kRing]);
    }
    if (const std::size_t i = step - 3 * kWindow; i < n) visit(probes[i % kRing], i);
  }
}

// `dim` values of type `source` as the words of a row of type `type`; the padding of the last word is zero.
void pack_row(const std::byte* values, std::size_t dim, RowType source, RowType type,
              std::vector<std::uint64_t>& words) {
  if (source == type) {
    std::memcpy(words.data(), values, dim * item_size(type));
    return;
  }
  auto* halves = reinterpret_cast<std::byte*>(words.data());
  for (std::size_t i = 0; i < dim; ++i) {
    float value;
    std::memcpy(&value, values + i * sizeof(value), sizeof(value));
    const std::uint16_t half = half_from_float(value);
    std::memcpy(halves + i * sizeof(half), &half, sizeof(half));
  }
}

}  // namespace

Table::Table(std::size_t dim, RowType type, std::size_t capacity_hint) : dim_(dim), type_(type) {
  if (dim < 1 || dim > kMaxDim) {
    throw std::invalid_argument("dim must be 1 to " + std::to_string(kMaxDim) + ", not " +
                                std::to_string(dim));
  }
  storage_ = std::make_shared<TableStorage>(buckets_for(capacity_hint), row_bytes());
}

Table::~Table() = default;

std::shared_ptr<TableStorage> Table::pin() const {
  const std::lock_guard lock(publication_);
  return storage_;
}

void Table::publish(std::shared_ptr<TableStorage> storage) {
  const std::lock_guard lock(publication_);
  storage_.swap(storage);
}

std::size_t Table::bytes() const { return pin()->bytes() + sizeof(*this); }

std::size_t Table::lookup(const std::byte* signs, std::size_t n, std::byte* out, std::uint8_t* found) const {
  const auto storage = pin();
  const std::size_t width = row_bytes();
  std::size_t missing = 0;
  pipelined(*storage, signs, n, no_more, [&](const TableStorage::Probe& probe, std::size_t i) {
    std::byte* target = out + i * width;
    const bool there =
        (probe.slot != TableStorage::Probe::kUnknown && storage->read_at(probe, target)) ||
        storage->read(probe.sign, [&](TableStorage::Place place) { storage->copy_row(place, target); });
    if (!there) {
      std::memset(target, 0, width);
      ++missing;
    }
    if (found) found[i] = there;
  });
  return missing;
}

std::size_t Table::contains(const std::byte* signs, std::size_t n, std::uint8_t* found) const {
  const auto storage = pin();
  std::size_t present = 0;
  pipelined(*storage, signs, n, no_more, [&](const TableStorage::Probe& probe, std::size_t i) {
    found[i] = storage->read(probe.sign, [](TableStorage::Place) {});
    present += found[i];
  });
  return present;
}

std::size_t Table::upsert(const std::byte* signs, const std::byte* const* rows, std::size_t n, RowType source,
                          std::uint32_t ordinal) {
  if (source != type_ && source != RowType::kFloat32) {
    throw std::invalid_argument("a float32 table takes float32 rows only");
  }
  const std::lock_guard lock(writer_);
  const std::shared_ptr<TableStorage> first = storage_;  // the pipeline prefetches in it even after a growth
  std::shared_ptr<TableStorage> storage = first;
  std::vector<std::uint64_t> words(storage->row_words());
  std::size_t written = 0;
  pipelined(
      *first, signs, n, [&](const TableStorage::Probe& probe) { first->prefetch_for_write(probe); },
      [&](const TableStorage::Probe& probe, std::size_t i) {
        const std::uint64_t sign = probe.sign;
        const TableStorage::Place place = storage->locate(sign);
        const bool there = place.bucket != TableStorage::kNowhere.bucket;
        if (there && storage->ordinal_at(place) > ordinal) return;
        pack_row(rows[i], dim_, source, type_, words);
        if (there) {
          storage->overwrite(place, words.data(), ordinal);
        } else {
          const std::size_t rows_now = size();
          if (rows_now >= storage->max_rows()) {
            storage = rebuilt(*storage, rows_now / 2 * kGrowth + kSlots);
            publish(storage);
          }
          storage->insert(sign, words.data(), ordinal);
          size_.store(rows_now + 1, std::memory_order_relaxed);
        }
        ++written;
      });
  return written;
}

std::size_t Table::upsert(const std::byte* signs, const std::byte* rows, std::size_t n, RowType source,
                          std::uint32_t ordinal) {
  constexpr std::size_t kChunk = 1024;
  const std::byte* pointers[kChunk];
  const std::size_t width = dim_ * item_size(source);
  std::size_t written = 0;
  for (std::size_t begin = 0; begin < n; begin += kChunk) {
    const std::size_t count = std::min(kChunk, n - begin);
    for (std::size_t i = 0; i < count; ++i) pointers[i] = rows + (begin + i) * width;
    written += upsert(signs + begin * sizeof(std::uint64_t), pointers, count, source, ordinal);
  }
  return written;
}

std::size_t Table::erase(const std::byte* signs, std::size_t n, std::uint32_t ordinal) {
  const std::lock_guard lock(writer_);
  std::size_t erased = 0;
  pipelined(*storage_, signs, n, no_more, [&](const TableStorage::Probe& probe, std::size_t) {
    const TableStorage::Place place = storage_->locate(probe.sign);
    if (place.bucket == TableStorage::kNowhere.bucket || storage_->ordinal_at(place) > ordinal) return;
    storage_->remove(place);
    ++erased;
  });
  size_.store(size() - erased, std::memory_order_relaxed);
  return erased;
}

void Table::reserve(std::size_t rows) {
  const std::lock_guard lock(writer_);
  if (rows > storage_->max_rows()) publish(rebuilt(*storage_, rows));
}

std::shared_ptr<TableStorage> Table::rebuilt(const TableStorage& old, std::size_t rows) const {
  auto storage = std::make_shared<TableStorage>(buckets_for(rows), row_bytes());
  std::uint64_t signs[kSlots];
  std::uint32_t ordinals[kSlots];
  std::vector<std::byte> values(kSlots * row_bytes());
  std::vector<std::uint64_t> words(storage->row_words());
  // Old and new buckets are in the order of the hash, so both sides are walked front to back.
  for (std::size_t index = 0; index < old.bucket_count(); ++index) {
    const std::size_t n = old.read_bucket(index, signs, values.data(), ordinals);
    for (std::size_t i = 0; i < n; ++i) {
      pack_row(values.data() + i * row_bytes(), dim_, type_, type_, words);
      storage->insert(signs[i], words.data(), ordinals[i]);
    }
  }
  return storage;
}

Table::Page Table::scan(std::size_t start, std::size_t limit) const {
  const auto storage = pin();
  Page page{{}, {}, {}, kEnd};
  std::uint64_t signs[kSlots];
  std::uint32_t ordinals[kSlots];
  std::vector<std::byte> rows(kSlots * row_bytes());
  // A position is a bucket here: a page ends at a bucket's end, so it may hold a few rows more or less than
  // asked.
  for (std::size_t index = start; index < storage->bucket_count(); ++index) {
    if (page.signs.size() >= limit) {
      page.next = index;
      break;
    }
    const std::size_t n = storage->read_bucket(index, signs, rows.data(), ordinals);
    page.signs.insert(page.signs.end(), signs, signs + n);
    page.ordinals.insert(page.ordinals.end(), ordinals, ordinals + n);
    page.rows.insert(page.rows.end(), rows.data(), rows.data() + n * row_bytes());
  }
  return page;
}

}  // namespace satrap
