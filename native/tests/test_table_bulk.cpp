// A bulk load ends in the table that upserts would have made, whatever the number of threads and however
// wrong the size was that the table was made for.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "../src/row_pack.h"
#include "../src/table_bulk.h"
#include "check.h"
#include "satrap/table.h"
#include "table_support.h"

namespace {

using namespace satrap;
using satrap::testing::Build;
using satrap::testing::Folder;
using satrap::testing::kBuild;
using satrap::testing::some_boot;

// Rows whose values follow from sign and version.
struct Rows {
  Rows(std::vector<std::uint64_t> some, std::size_t dim, float version)
      : signs(std::move(some)), values(signs.size() * dim) {
    for (std::size_t i = 0; i < signs.size(); ++i) {
      for (std::size_t j = 0; j < dim; ++j) {
        values[i * dim + j] =
            static_cast<float>(signs[i] % 1000) + static_cast<float>(j) / 4 + version * 1024;
      }
      pointers.push_back(reinterpret_cast<const std::byte*>(values.data() + i * dim));
    }
  }

  std::vector<std::uint64_t> signs;
  std::vector<float> values;
  std::vector<const std::byte*> pointers;

  const std::byte* sign_bytes(std::size_t from = 0) const {
    return reinterpret_cast<const std::byte*>(signs.data() + from);
  }
};

void bulk(Table& table, const Rows& rows, std::size_t from, std::size_t to, std::uint32_t ordinal) {
  CHECK(table.bulk_insert(rows.sign_bytes(from), rows.pointers.data() + from, to - from, RowType::kFloat32,
                          ordinal) <= to - from);
}

std::vector<std::uint64_t> random_signs(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<std::uint64_t> signs(n);
  for (auto& sign : signs) sign = random();
  return signs;
}

// Sign, ordinal and row of everything, sorted.
std::vector<std::vector<std::byte>> contents(const Table& table) {
  std::vector<std::vector<std::byte>> all;
  for (std::uint64_t start = 0; start != TablePage::kEnd;) {
    const TablePage page = table.scan(start, 10'000);
    for (std::size_t i = 0; i < page.signs.size(); ++i) {
      std::vector<std::byte> one(12 + table.row_bytes());
      std::memcpy(one.data(), &page.signs[i], 8);
      std::memcpy(one.data() + 8, &page.ordinals[i], 4);
      std::memcpy(one.data() + 12, page.rows.data() + i * table.row_bytes(), table.row_bytes());
      all.push_back(std::move(one));
    }
    start = page.next;
  }
  std::sort(all.begin(), all.end());
  return all;
}

void check_found(const Table& table, const Rows& rows) {
  std::vector<std::byte> out(rows.signs.size() * table.row_bytes());
  CHECK(table.lookup(rows.sign_bytes(), rows.signs.size(), out.data(), nullptr) == 0);
}

void test_the_same_table_as_by_upserts() {
  for (const RowType type : {RowType::kFloat32, RowType::kFloat16}) {
    for (const std::size_t dim : {1, 2, 3, 8, 16, 17, 32, 48}) {
      const Rows rows(random_signs(kBuild == Build::kPlain ? 30'000 : 6'000, dim), dim, 0);
      for (const std::size_t hint : {std::size_t{0}, std::size_t{30'000}, std::size_t{200'000}}) {
        Table expected(dim, type), loaded(dim, type, hint);
        expected.upsert(rows.sign_bytes(), rows.pointers.data(), rows.signs.size(), RowType::kFloat32, 3);
        bulk(loaded, rows, 0, rows.signs.size(), 3);
        loaded.finish_bulk();
        CHECK(loaded.size() == expected.size());
        CHECK(contents(loaded) == contents(expected));
        check_found(loaded, rows);
      }
    }
  }
}

void test_many_threads_and_a_table_that_has_to_grow() {
  constexpr std::size_t kThreads = 4, kRows = kBuild == Build::kPlain ? 400'000 : 100'000;
  const Rows rows(random_signs(kRows, 7), 16, 0);
  for (const std::size_t hint : {std::size_t{0}, kRows / 3, kRows}) {
    Table table(16, RowType::kFloat32, hint);
    {
      std::vector<std::jthread> threads;
      for (std::size_t thread = 0; thread < kThreads; ++thread) {
        threads.emplace_back([&, thread] {
          // Every row is in the share of two threads.
          const std::size_t from = thread * kRows / kThreads, to = from + 2 * kRows / kThreads;
          for (std::size_t at = from; at < std::min(to, kRows); at += 5'000)
            bulk(table, rows, at, at + 5'000, 0);
        });
      }
    }
    table.finish_bulk();
    CHECK(table.size() == kRows);
    check_found(table, rows);
    Table expected(16, RowType::kFloat32);
    expected.upsert(rows.sign_bytes(), rows.pointers.data(), kRows, RowType::kFloat32, 0);
    CHECK(contents(table) == contents(expected));
  }
}

void test_the_later_of_two_rows_of_a_sign_wins() {
  std::vector<std::uint64_t> signs = random_signs(3'000, 1);
  const Rows first(signs, 16, 0), second(signs, 16, 1);
  std::vector<std::uint64_t> both_signs;
  std::vector<const std::byte*> both;
  for (const Rows* const rows : {&first, &second}) {
    both_signs.insert(both_signs.end(), rows->signs.begin(), rows->signs.end());
    both.insert(both.end(), rows->pointers.begin(), rows->pointers.end());
  }
  Table table(16, RowType::kFloat32), expected(16, RowType::kFloat32);
  table.bulk_insert(reinterpret_cast<const std::byte*>(both_signs.data()), both.data(), both.size(),
                    RowType::kFloat32, 0);
  table.finish_bulk();
  expected.upsert(second.sign_bytes(), second.pointers.data(), signs.size(), RowType::kFloat32, 0);
  CHECK(table.size() == signs.size() && contents(table) == contents(expected));
}

void test_ordinals_and_tombstones_count() {
  const Rows older(random_signs(2'000, 2), 4, 0), newer(older.signs, 4, 1);
  Table table(4, RowType::kFloat32), expected(4, RowType::kFloat32);
  for (Table* const one : {&table, &expected}) {
    one->upsert(newer.sign_bytes(), newer.pointers.data(), 500, RowType::kFloat32, 9);
    one->erase(newer.sign_bytes(500), 500, 9);
    one->erase(newer.sign_bytes(1'000), 500, 2);
  }
  bulk(table, older, 0, 2'000, 5);
  table.finish_bulk();
  expected.upsert(older.sign_bytes(), older.pointers.data(), 2'000, RowType::kFloat32, 5);
  CHECK(table.size() == 1'500 && table.size() == expected.size());
  CHECK(contents(table) == contents(expected));
}

void test_room_that_nothing_came_for_is_given_back() {
  const Rows rows(random_signs(100'000, 3), 16, 0);
  Table table(16, RowType::kFloat32, 1'000'000), fitting(16, RowType::kFloat32, 100'000);
  for (Table* const one : {&table, &fitting}) {
    bulk(*one, rows, 0, rows.signs.size(), 0);
    one->finish_bulk();
  }
  CHECK(table.bytes() < fitting.bytes() * 5 / 4);
  CHECK(contents(table) == contents(fitting));
  check_found(table, rows);
}

void test_a_loaded_table_is_taken_over_whole() {
  const Folder folder;
  const Rows rows(random_signs(50'000, 4), 16, 0);
  std::vector<std::vector<std::byte>> before;
  {
    const auto table =
        Table::create(16, RowType::kFloat32, 60'000, folder_memory(folder.path()), some_boot(), 2);
    bulk(*table, rows, 0, rows.signs.size(), 1);
    table->finish_bulk();
    before = contents(*table);
  }
  const auto table = Table::recover(folder_memory(folder.path()), some_boot());
  CHECK(table->size() == rows.signs.size() && contents(*table) == before);
}

void test_batches_keep_the_order_of_a_segments_rows() {
  constexpr std::size_t kSegments = 13;
  std::vector<Bucket> buckets(kSegments);
  const auto locate = [&](std::uint64_t sign) {
    return std::pair(static_cast<std::size_t>(sign % kSegments), &buckets[sign % kSegments]);
  };
  const auto batch = std::make_unique<BulkBatch>();
  for (const std::size_t n : {std::size_t{0}, std::size_t{1}, std::size_t{500}, BulkBatch::kMost}) {
    const std::vector<std::uint64_t> signs = random_signs(n, n);
    std::vector<std::byte> places(n + 1);
    std::vector<const std::byte*> values;
    for (std::size_t i = 0; i < n; ++i) values.push_back(places.data() + i);
    batch->group(reinterpret_cast<const std::byte*>(signs.data()), values.data(), n, kSegments, locate);
    const auto check = [&](std::size_t from) {
      const auto rows = batch->rows();
      CHECK(rows.size() == n);
      std::vector<bool> left(kSegments), seen(n);
      for (std::size_t i = 0; i < n; ++i) {
        const auto number = static_cast<std::size_t>(rows[i].values - places.data());
        CHECK(!seen[number] && rows[i].sign == signs[number] && rows[i].segment == signs[number] % kSegments);
        CHECK(rows[i].home == &buckets[rows[i].segment]);
        seen[number] = true;
        if (i <= from) continue;
        if (rows[i].segment == rows[i - 1].segment) {
          CHECK(rows[i].values > rows[i - 1].values);
        } else {
          left[rows[i - 1].segment] = true;
          CHECK(!left[rows[i].segment]);
        }
      }
    };
    check(0);
    batch->group_again(n / 3, locate);
    check(n / 3);
  }
}

void test_rounding_is_the_same_in_every_form() {
  std::vector<float> values;
  for (std::uint32_t high = 0; high <= 0xffff; ++high) {
    for (const std::uint32_t low : {0x0000u, 0x0fffu, 0x1000u, 0x1001u, 0x2000u, 0x3000u, 0xffffu}) {
      values.push_back(std::bit_cast<float>(high << 16 | low));
    }
  }
  values.push_back(1);  // a number that no vector divides
  std::vector<std::uint16_t> rounded(values.size());
  const auto* const bytes = reinterpret_cast<const std::byte*>(values.data());
  halves_from_floats(bytes, values.size(), reinterpret_cast<std::byte*>(rounded.data()));
  for (std::size_t i = 0; i < values.size(); i += 100) {
    const std::size_t n = std::min<std::size_t>(100 - i % 9, values.size() - i);
    std::uint64_t words[25];
    pack_row(bytes + i * sizeof(float), RowType::kFloat32, {n, RowType::kFloat16}, words);
    CHECK(std::memcmp(words, rounded.data() + i, n * sizeof(std::uint16_t)) == 0);
  }
}

}  // namespace

int main() {
  test_the_same_table_as_by_upserts();
  test_many_threads_and_a_table_that_has_to_grow();
  test_the_later_of_two_rows_of_a_sign_wins();
  test_ordinals_and_tombstones_count();
  test_room_that_nothing_came_for_is_given_back();
  test_a_loaded_table_is_taken_over_whole();
  test_batches_keep_the_order_of_a_segments_rows();
  test_rounding_is_the_same_in_every_form();
  std::puts("table_bulk: ok");
}
