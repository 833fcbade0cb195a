#include "satrap/table.h"

#include <algorithm>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

#include "table_writer.h"

namespace satrap {

class Table::Parts {
 public:
  explicit Parts(std::unique_ptr<TableWriter<>> own) : writer(std::move(own)) {}

  std::unique_ptr<TableWriter<>> writer;
  std::mutex turn;  // held by whoever writes
};

namespace {

RowShape checked_shape(std::size_t dim, RowType type) {
  if (dim < 1 || dim > kMaxDim) {
    throw std::invalid_argument("dim must be 1 to " + std::to_string(kMaxDim) + ", not " +
                                std::to_string(dim));
  }
  return {dim, type};
}

// Beyond it sizes in bytes would not fit into 64 bits.
std::size_t checked_rows(std::size_t rows) {
  if (rows >> 48) throw TableSpaceError("no machine has memory for " + std::to_string(rows) + " rows");
  return rows;
}

void check_source(RowType source, RowType type) {
  if (source != type && source != RowType::kFloat32) {
    throw std::invalid_argument("a float32 table takes float32 rows only");
  }
}

}  // namespace

Table::Table(RowShape shape, std::unique_ptr<Parts> parts) : shape_(shape), parts_(std::move(parts)) {}

Table::Table(std::size_t dim, RowType type, std::size_t capacity_hint)
    : shape_(checked_shape(dim, type)),
      parts_(std::make_unique<Parts>(
          TableWriter<>::create(shape_, checked_rows(capacity_hint), private_memory(), {}, 1))) {}

Table::~Table() = default;

std::shared_ptr<Table> Table::create(std::size_t dim, RowType type, std::size_t capacity_hint,
                                     std::unique_ptr<TableMemory> memory, const TableOrigin& origin,
                                     unsigned threads) {
  const RowShape shape = checked_shape(dim, type);
  auto writer = TableWriter<>::create(shape, checked_rows(capacity_hint), std::move(memory), origin, threads);
  return std::shared_ptr<Table>(new Table(shape, std::make_unique<Parts>(std::move(writer))));
}

std::shared_ptr<Table> Table::recover(std::unique_ptr<TableMemory> memory, const TableOrigin& origin) {
  auto writer = TableWriter<>::recover(std::move(memory), origin);
  const RowShape shape = writer->shape();
  return std::shared_ptr<Table>(new Table(shape, std::make_unique<Parts>(std::move(writer))));
}

std::size_t Table::size() const { return parts_->writer->size(); }

std::size_t Table::bytes() const { return parts_->writer->view().bytes(); }

bool Table::huge_pages() const { return parts_->writer->view().huge_pages(); }

std::size_t Table::lookup(const std::byte* signs, std::size_t n, std::byte* out, std::uint8_t* found) const {
  return parts_->writer->view().lookup(signs, n, out, found);
}

std::size_t Table::contains(const std::byte* signs, std::size_t n, std::uint8_t* found) const {
  return parts_->writer->view().contains(signs, n, found);
}

std::size_t Table::upsert(const std::byte* signs, const std::byte* const* rows, std::size_t n, RowType source,
                          std::uint32_t ordinal) {
  check_source(source, type());
  const std::lock_guard turn(parts_->turn);
  return parts_->writer->upsert(signs, rows, n, source, ordinal);
}

std::size_t Table::upsert(const std::byte* signs, const std::byte* rows, std::size_t n, RowType source,
                          std::uint32_t ordinal) {
  constexpr std::size_t kChunk = 4096;
  std::vector<const std::byte*> pointers(std::min(n, kChunk));
  const std::size_t width = dim() * item_size(source);
  std::size_t written = 0;
  for (std::size_t begin = 0; begin < n; begin += kChunk) {
    const std::size_t count = std::min(kChunk, n - begin);
    for (std::size_t i = 0; i < count; ++i) pointers[i] = rows + (begin + i) * width;
    written += upsert(signs + begin * sizeof(std::uint64_t), pointers.data(), count, source, ordinal);
  }
  return written;
}

std::size_t Table::erase(const std::byte* signs, std::size_t n, std::uint32_t ordinal) {
  const std::lock_guard turn(parts_->turn);
  return parts_->writer->erase(signs, n, ordinal);
}

void Table::capture(const std::byte* signs, std::size_t n, SignState* states, std::uint32_t* ordinals,
                    std::byte* rows) const {
  const std::lock_guard turn(parts_->turn);
  parts_->writer->capture(signs, n, states, ordinals, rows);
}

std::size_t Table::restore(const std::byte* signs, const SignState* states, const std::byte* ordinals,
                           const std::byte* rows, std::size_t n) {
  if (std::any_of(states, states + n, [](SignState state) { return state > SignState::kTombstone; })) {
    throw std::invalid_argument("a state is 0 (absent), 1 (present) or 2 (tombstone)");
  }
  const std::lock_guard turn(parts_->turn);
  return parts_->writer->restore(signs, states, ordinals, rows, n);
}

void Table::forget_tombstones(std::uint32_t horizon) {
  const std::lock_guard turn(parts_->turn);
  parts_->writer->forget_tombstones(horizon);
}

void Table::reserve(std::size_t rows) {
  const std::lock_guard turn(parts_->turn);
  parts_->writer->reserve(checked_rows(rows));
}

std::size_t Table::bulk_insert(const std::byte* signs, const std::byte* const* rows, std::size_t n,
                               RowType source, std::uint32_t ordinal) {
  check_source(source, type());
  return parts_->writer->bulk_insert(signs, rows, n, source, ordinal);
}

void Table::finish_bulk() {
  const std::lock_guard turn(parts_->turn);
  parts_->writer->finish_bulk();
}

TablePage Table::scan(std::uint64_t start, std::size_t limit) const {
  return parts_->writer->view().scan(start, limit);
}

TablePage Table::tombstones(std::uint64_t start, std::size_t limit) const {
  const std::lock_guard turn(parts_->turn);
  return parts_->writer->view().scan_tombstones(start, limit);
}

}  // namespace satrap
