#include <atomic>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <new>
#include <random>
#include <set>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "satrap/table.h"

namespace {

using satrap::RowType;
using satrap::SignState;
using satrap::Table;
using satrap::TablePage;
using satrap::TableSpaceError;

const std::byte* bytes(const std::vector<std::uint64_t>& signs) {
  return reinterpret_cast<const std::byte*>(signs.data());
}
const std::byte* bytes(const std::vector<float>& rows) {
  return reinterpret_cast<const std::byte*>(rows.data());
}

std::size_t upsert(Table& table, const std::vector<std::uint64_t>& signs, const std::vector<float>& rows,
                   std::uint32_t ordinal = 0) {
  return table.upsert(bytes(signs), bytes(rows), signs.size(), RowType::kFloat32, ordinal);
}

std::size_t lookup(const Table& table, const std::vector<std::uint64_t>& signs, std::vector<float>& rows,
                   std::vector<std::uint8_t>& found) {
  rows.assign(signs.size() * table.dim(), -1.f);
  found.assign(signs.size(), 7);
  return table.lookup(bytes(signs), signs.size(), reinterpret_cast<std::byte*>(rows.data()), found.data());
}

// A row that tells whose it is and of which version, in every value.
float cell(std::uint64_t sign, std::uint32_t version) {
  return static_cast<float>((sign % 1009) * 8192 + version);
}

void fill_row(std::uint64_t sign, std::uint32_t version, std::size_t dim, float* row) {
  for (std::size_t i = 0; i < dim; ++i) row[i] = cell(sign, version);
}

void test_keeps_every_row_while_it_grows() {
  std::mt19937_64 random(1);
  Table table(3, RowType::kFloat32);
  std::map<std::uint64_t, float> model;
  for (int batch = 0; batch < 200; ++batch) {
    std::vector<std::uint64_t> signs;
    std::vector<float> rows;
    for (int i = 0; i < 97; ++i) {
      signs.push_back(random() % 4 ? random() : random() % 50);
      const float value = static_cast<float>(random() % 1000);
      rows.insert(rows.end(), 3, value);
      model[signs.back()] = value;
    }
    CHECK(upsert(table, signs, rows) == signs.size());
  }
  CHECK(table.size() == model.size());
  std::vector<std::uint64_t> signs;
  for (const auto& [sign, value] : model) signs.push_back(sign);
  std::vector<float> rows;
  std::vector<std::uint8_t> found;
  CHECK(lookup(table, signs, rows, found) == 0);
  for (std::size_t i = 0; i < signs.size(); ++i) {
    CHECK(found[i] == 1);
    for (int k = 0; k < 3; ++k) CHECK(rows[i * 3 + static_cast<std::size_t>(k)] == model[signs[i]]);
  }
}

void test_extreme_signs_and_missing_ones() {
  Table table(1, RowType::kFloat32);
  const std::vector<std::uint64_t> signs{0, ~std::uint64_t{0}, 1};
  std::vector<float> rows;
  std::vector<std::uint8_t> found;
  CHECK(lookup(table, signs, rows, found) == 3);
  CHECK((rows == std::vector<float>{0, 0, 0} && found == std::vector<std::uint8_t>{0, 0, 0}));
  upsert(table, {0, ~std::uint64_t{0}}, {5, 6});
  CHECK(lookup(table, signs, rows, found) == 1);
  CHECK((rows == std::vector<float>{5, 6, 0} && found == std::vector<std::uint8_t>{1, 1, 0}));
  CHECK(lookup(table, {}, rows, found) == 0);
}

void test_ordinals_decide() {
  Table table(1, RowType::kFloat32);
  std::vector<float> rows;
  std::vector<std::uint8_t> found;
  CHECK(upsert(table, {9}, {1}, 5) == 1);
  CHECK(upsert(table, {9}, {2}, 4) == 0);
  lookup(table, {9}, rows, found);
  CHECK(rows[0] == 1);
  CHECK(upsert(table, {9}, {3}, 5) == 1);
  lookup(table, {9}, rows, found);
  CHECK(rows[0] == 3);
  CHECK(table.erase(bytes(std::vector<std::uint64_t>{9}), 1, 4) == 0);
  CHECK(table.erase(bytes(std::vector<std::uint64_t>{9}), 1, 5) == 1);
  CHECK(table.size() == 0 && lookup(table, {9}, rows, found) == 1);
  // The tombstone remembers: what is older does not bring the row back, what is not does.
  CHECK(upsert(table, {9}, {4}, 4) == 0);
  CHECK(lookup(table, {9}, rows, found) == 1);
  CHECK(upsert(table, {9}, {6}, 5) == 1);
  CHECK(lookup(table, {9}, rows, found) == 0 && rows[0] == 6 && table.size() == 1);
  // So does one of a sign that was never there.
  CHECK(table.erase(bytes(std::vector<std::uint64_t>{10}), 1, 7) == 0);
  CHECK(upsert(table, {10}, {1}, 6) == 0 && upsert(table, {10}, {1}, 7) == 1);
}

// A rebuild forgets tombstones that nothing can come for, and no others.
void test_tombstones_are_forgotten_below_the_horizon() {
  Table table(1, RowType::kFloat32);
  const std::vector<std::uint64_t> old{1, 2, 3}, recent{4};
  table.erase(bytes(old), old.size(), 5);
  table.erase(bytes(recent), 1, 8);
  table.forget_tombstones(6);
  std::vector<std::uint64_t> signs;
  for (std::uint64_t sign = 100; sign < 20'000; ++sign) signs.push_back(sign);
  upsert(table, signs, std::vector<float>(signs.size(), 1.f), 9);  // grows many times
  CHECK(upsert(table, old, {1, 1, 1}, 4) == 3);
  CHECK(upsert(table, recent, {1}, 7) == 0);
}

// A small table under much churn: overflow bits end up set everywhere, and searches still end.
void test_erase_and_insert_for_long() {
  std::mt19937_64 random(3);
  Table table(2, RowType::kFloat32, 100);
  std::set<std::uint64_t> model;
  for (int i = 0; i < 50'000; ++i) {
    const std::uint64_t sign = random() % 150;
    if (random() % 2) {
      upsert(table, {sign}, {static_cast<float>(sign), 0});
      model.insert(sign);
    } else {
      CHECK(table.erase(bytes(std::vector<std::uint64_t>{sign}), 1, 0) == model.erase(sign));
    }
  }
  CHECK(table.size() == model.size());
  for (std::uint64_t sign = 0; sign < 300; ++sign) {
    std::uint8_t found;
    CHECK(table.contains(bytes(std::vector<std::uint64_t>{sign}), 1, &found) == model.count(sign));
  }
}

// Rows by sign, with their ordinals.
std::map<std::uint64_t, std::pair<std::uint32_t, float>> contents(const Table& table) {
  std::map<std::uint64_t, std::pair<std::uint32_t, float>> rows;
  for (std::uint64_t at = 0; at != TablePage::kEnd;) {
    const TablePage page = table.scan(at, 1000);
    for (std::size_t i = 0; i < page.signs.size(); ++i) {
      float value;
      std::memcpy(&value, page.rows.data() + i * table.row_bytes(), sizeof(value));
      rows[page.signs[i]] = {page.ordinals[i], value};
    }
    at = page.next;
  }
  return rows;
}

// Packets, each captured before it is applied, taken back one by one, while the table has grown on the way.
void test_packets_are_taken_back() {
  struct Undo {
    std::vector<std::uint64_t> signs;
    std::vector<SignState> states;
    std::vector<std::uint32_t> ordinals;
    std::vector<std::byte> rows;
    std::map<std::uint64_t, std::pair<std::uint32_t, float>> before;
  };
  std::mt19937_64 random(11);
  Table table(3, RowType::kFloat32);
  std::vector<Undo> undos;
  for (std::uint32_t packet = 1; packet <= 40; ++packet) {
    std::set<std::uint64_t> signs;
    while (signs.size() < 700) signs.insert(random() % 3 ? random() : random() % 500);
    Undo undo{{signs.begin(), signs.end()}, {}, {}, {}, contents(table)};
    const std::size_t n = signs.size();
    undo.states.resize(n);
    undo.ordinals.resize(n);
    undo.rows.resize(n * table.row_bytes());
    table.capture(bytes(undo.signs), n, undo.states.data(), undo.ordinals.data(), undo.rows.data());
    for (std::size_t i = 0; i < n; ++i) {
      const auto known = undo.before.find(undo.signs[i]);
      CHECK((undo.states[i] == SignState::kPresent) == (known != undo.before.end()));
      if (known != undo.before.end()) CHECK(undo.ordinals[i] == known->second.first);
    }
    std::vector<float> rows(n * 3, static_cast<float>(packet));
    const std::size_t erased = n / 5;
    upsert(table, undo.signs, rows, packet);
    table.erase(bytes(undo.signs), erased, packet);
    undos.push_back(std::move(undo));
  }
  while (!undos.empty()) {
    const Undo& undo = undos.back();
    for (int time = 0; time < 2; ++time) {  // again, as after a crash
      table.restore(bytes(undo.signs), undo.states.data(),
                    reinterpret_cast<const std::byte*>(undo.ordinals.data()), undo.rows.data(),
                    undo.signs.size());
      CHECK(table.size() == undo.before.size());
      CHECK(contents(table) == undo.before);
    }
    undos.pop_back();
  }
  const std::uint64_t sign = 1;
  const SignState none{3};
  const std::uint32_t ordinal = 0;
  const float row[3]{};
  CHECK_THROWS(std::invalid_argument, table.restore(reinterpret_cast<const std::byte*>(&sign), &none,
                                                    reinterpret_cast<const std::byte*>(&ordinal),
                                                    reinterpret_cast<const std::byte*>(row), 1));
}

void test_tombstones_in_pages() {
  Table table(3, RowType::kFloat32);
  std::vector<std::uint64_t> signs(5000);
  for (std::size_t i = 0; i < signs.size(); ++i) signs[i] = i * i;
  upsert(table, signs, std::vector<float>(signs.size() * 3), 1);
  table.erase(bytes(signs), 2000, 7);
  std::map<std::uint64_t, std::uint32_t> found;
  for (std::uint64_t at = 0; at != TablePage::kEnd;) {
    const TablePage page = table.tombstones(at, 100);
    CHECK(page.signs.size() < 100 + 7 && page.rows.empty());
    for (std::size_t i = 0; i < page.signs.size(); ++i)
      CHECK(found.emplace(page.signs[i], page.ordinals[i]).second);
    at = page.next;
  }
  CHECK(found.size() == 2000);
  for (std::size_t i = 0; i < 2000; ++i) CHECK(found.at(signs[i]) == 7);
}

void test_scan_sees_every_row_once() {
  Table table(4, RowType::kFloat16);
  std::vector<std::uint64_t> signs;
  for (std::uint64_t sign = 0; sign < 5000; ++sign) signs.push_back(sign * sign);
  upsert(table, signs, std::vector<float>(signs.size() * 4, 1.5f), 3);
  std::set<std::uint64_t> seen;
  for (std::uint64_t at = 0; at != TablePage::kEnd;) {
    const TablePage page = table.scan(at, 100);
    CHECK(page.rows.size() == page.signs.size() * table.row_bytes());
    for (const std::uint64_t sign : page.signs) CHECK(seen.insert(sign).second);
    for (const std::uint32_t ordinal : page.ordinals) CHECK(ordinal == 3);
    at = page.next;
  }
  CHECK(seen == std::set<std::uint64_t>(signs.begin(), signs.end()));
  CHECK(table.scan(TablePage::kEnd, 10).next == TablePage::kEnd);
}

void test_reserve_prevents_growth_and_keeps_rows() {
  Table table(8, RowType::kFloat32);
  upsert(table, {42}, std::vector<float>(8, 2.f));
  table.reserve(100'000);
  const std::size_t before = table.bytes();
  std::vector<std::uint64_t> signs;
  for (std::uint64_t sign = 1000; sign < 100'000; ++sign) signs.push_back(sign);
  upsert(table, signs, std::vector<float>(signs.size() * 8, 1.f));
  CHECK(table.bytes() == before);
  std::vector<float> rows;
  std::vector<std::uint8_t> found;
  CHECK(lookup(table, {42}, rows, found) == 0 && rows[7] == 2.f);
}

void test_bad_arguments() {
  CHECK_THROWS(std::invalid_argument, Table(0, RowType::kFloat32));
  CHECK_THROWS(std::invalid_argument, Table(satrap::kMaxDim + 1, RowType::kFloat32));
  CHECK_THROWS(TableSpaceError, Table(16, RowType::kFloat32, ~std::size_t{0}));
  Table table(1, RowType::kFloat32);
  upsert(table, {1}, {1});
  CHECK_THROWS(TableSpaceError, table.reserve(~std::size_t{0} / 300));
  CHECK(table.size() == 1);
  const std::uint16_t half = 0;
  CHECK_THROWS(std::invalid_argument,
               table.upsert(bytes(std::vector<std::uint64_t>{1}), reinterpret_cast<const std::byte*>(&half),
                            1, RowType::kFloat16, 0));
}

// Readers run while one thread overwrites, inserts until the table has grown several times, and erases. Every
// row that a reader gets is one that was written: all its values agree, and its version never goes back.
void test_readers_beside_a_writer(RowType type) {
  constexpr std::size_t kDim = 13;  // in either type the row ends inside a word
  constexpr std::uint64_t kStable = 1000;
  constexpr std::uint32_t kVersions = 100;
  Table table(kDim, type, kStable);
  std::atomic<bool> done{false};
  std::atomic<std::uint64_t> rows_read{0};

  const auto write = [&](std::uint64_t begin, std::uint64_t end, std::uint32_t version) {
    std::vector<std::uint64_t> signs;
    std::vector<float> rows;
    for (std::uint64_t sign = begin; sign < end; ++sign) {
      signs.push_back(sign);
      rows.resize(rows.size() + kDim);
      // A float16 holds integers to 2048, so there the cell is the version alone.
      if (type == RowType::kFloat16) {
        std::fill(rows.end() - kDim, rows.end(), static_cast<float>(version));
      } else {
        fill_row(sign, version, kDim, &rows[rows.size() - kDim]);
      }
    }
    upsert(table, signs, rows, version);
  };
  write(0, kStable, 1);

  const auto read = [&](std::uint64_t seed) {
    std::mt19937_64 random(seed);
    constexpr std::size_t kBatch = 64;
    std::vector<std::uint64_t> signs(kBatch);
    std::vector<std::byte> out(kBatch * table.row_bytes());
    std::vector<std::uint8_t> found(kBatch);
    std::vector<std::uint32_t> newest(kStable);
    std::uint64_t count = 0;
    while (!done.load(std::memory_order_relaxed)) {
      for (auto& sign : signs) sign = random() % (4 * kStable);
      table.lookup(bytes(signs), kBatch, out.data(), found.data());
      for (std::size_t i = 0; i < kBatch; ++i) {
        const std::byte* row = out.data() + i * table.row_bytes();
        const std::size_t item = satrap::item_size(type);
        for (std::size_t k = 1; k < kDim; ++k) CHECK(std::memcmp(row, row + k * item, item) == 0);
        CHECK(found[i] || signs[i] >= kStable);
        if (type == RowType::kFloat32 && signs[i] < kStable) {
          float value;
          std::memcpy(&value, row, sizeof(value));
          const auto version = static_cast<std::uint32_t>(value - cell(signs[i], 0));
          CHECK(version >= newest[signs[i]] && version <= kVersions);
          newest[signs[i]] = version;
        }
      }
      count += kBatch;
      std::this_thread::yield();  // the writer shares the core
    }
    rows_read += count;
  };
  const auto scan = [&] {
    while (!done.load(std::memory_order_relaxed)) {
      for (std::uint64_t at = 0; at != TablePage::kEnd;) {
        const TablePage page = table.scan(at, 256);
        for (const std::uint32_t ordinal : page.ordinals) CHECK(ordinal <= kVersions);
        at = page.next;
      }
      std::this_thread::yield();
    }
  };

  std::vector<std::thread> threads;
  for (std::uint64_t seed = 0; seed < 3; ++seed) threads.emplace_back(read, seed);
  threads.emplace_back(scan);
  for (std::uint32_t version = 2; version <= kVersions; ++version) {
    write(0, kStable, version);
    write(kStable + version * 40, kStable + version * 40 + 60, version);
    std::vector<std::uint64_t> gone;
    for (std::uint64_t sign = kStable; sign < kStable + version * 20; sign += 3) gone.push_back(sign);
    table.erase(bytes(gone), gone.size(), version);
  }
  done = true;
  for (auto& thread : threads) thread.join();
  CHECK(rows_read > 0);
}

void test_writers_exclude_each_other() {
  Table table(2, RowType::kFloat32);
  std::vector<std::thread> threads;
  for (std::uint64_t begin = 0; begin < 4; ++begin) {
    threads.emplace_back([&table, begin] {
      for (std::uint64_t sign = begin; sign < 4000; sign += 2)
        upsert(table, {sign}, {1, 1});  // pairs overlap
    });
  }
  for (auto& thread : threads) thread.join();
  CHECK(table.size() == 4000);
}

}  // namespace

int main() {
  test_keeps_every_row_while_it_grows();
  test_extreme_signs_and_missing_ones();
  test_ordinals_decide();
  test_tombstones_are_forgotten_below_the_horizon();
  test_erase_and_insert_for_long();
  test_packets_are_taken_back();
  test_tombstones_in_pages();
  test_scan_sees_every_row_once();
  test_reserve_prevents_growth_and_keeps_rows();
  test_bad_arguments();
  test_readers_beside_a_writer(RowType::kFloat32);
  test_readers_beside_a_writer(RowType::kFloat16);
  test_writers_exclude_each_other();
  std::puts("table: ok");
}
