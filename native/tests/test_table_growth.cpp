// How large segments are: the pure functions, tables as numbers alone, and real ones.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <vector>

#include "../src/table_growth.h"
#include "../src/table_writer.h"
#include "satrap/table.h"
#include "table_support.h"

namespace {

using namespace satrap;
using namespace satrap::testing;
namespace growth = satrap::table_growth;

constexpr std::size_t kMiB = std::size_t{1} << 20;

std::size_t words_of(std::size_t dim, RowType type) { return RowShape{dim, type}.words(); }

double per_row(std::size_t bytes, double rows) { return static_cast<double>(bytes) / rows; }

// Row counts from 1 to 200 million, dense enough to meet bad roundings.
std::vector<std::size_t> row_counts(std::size_t from, std::size_t to, double factor) {
  std::vector<std::size_t> counts;
  for (auto rows = static_cast<double>(from); rows <= static_cast<double>(to); rows *= factor) {
    counts.push_back(static_cast<std::size_t>(rows));
  }
  counts.push_back(to);
  return counts;
}

void test_initial_shares_cover_all_entries_once() {
  for (const std::size_t dim : {1, 13, 16, 64, 4096}) {
    for (const RowType type : {RowType::kFloat32, RowType::kFloat16}) {
      const std::size_t words = words_of(dim, type);
      std::vector<std::size_t> counts = row_counts(1, 200'000'000, 1.9);
      counts.push_back(0);
      for (const std::size_t rows : counts) {
        const std::vector<growth::Share> shares = growth::initial_shares(rows, words);
        std::uint32_t next = 0;
        for (const growth::Share& share : shares) {
          CHECK(share.first_entry == next && share.end_entry > share.first_entry);
          next = share.end_entry;
          // Three standard deviations of what is expected have room.
          const double expected =
              static_cast<double>(rows) * (share.end_entry - share.first_entry) / kEntries;
          CHECK(static_cast<double>(growth::max_used(share.bucket_count)) + 1 >=
                expected + 3 * std::sqrt(expected));
          CHECK(share.bucket_count >= 1);
        }
        CHECK(next == kEntries);
      }
    }
  }
}

std::size_t bytes_of_shares(const std::vector<growth::Share>& shares, std::size_t words) {
  std::size_t bytes = kDirectoryBytes;
  for (const growth::Share& share : shares) bytes += segment_layout(share.bucket_count, words).end;
  return bytes;
}

void test_memory_of_a_table_made_for_its_rows() {
  double worst = 0;
  for (const std::size_t rows : row_counts(1'000'000, 200'000'000, 1.013)) {
    const std::size_t bytes = bytes_of_shares(growth::initial_shares(rows, 8), 8);
    worst = std::max(worst, per_row(bytes, static_cast<double>(rows) * (8 + 64)));
  }
  std::printf("  made for its rows: at most %.3f x rows x (8 + 64)\n", worst);
  CHECK(worst <= 1.30);
}

void test_growth_is_bounded() {
  for (const std::size_t words : {1, 4, 8, 13, 64, 2048}) {
    std::size_t buckets = 1;
    for (std::uint32_t number = 1; buckets < 2'000'000; ++number) {
      const std::size_t next = growth::grown(growth::max_used(buckets), words, number);
      CHECK(next > buckets);
      const std::size_t before = segment_layout(buckets, words).end, after = segment_layout(next, words).end;
      if (before >= growth::kDoublingBelow) {
        CHECK(static_cast<double>(after) <= 1.36 * static_cast<double>(before) + 2 * 120'000);
      }
      // As many as the pages hold.
      CHECK(segment_layout(next + 1, words).end > after);
      buckets = next;
    }
  }
  CHECK(growth::segment_limit(0) == 2 * kMiB && growth::segment_limit(kMiB << 20) == 32 * kMiB);
  CHECK(growth::segment_limit(160 * kMiB) == 10 * kMiB);
  for (const std::size_t buckets : {1, 2, 100, 1'000'000}) {
    CHECK(growth::max_used(buckets) < buckets * kSlots && growth::max_used(buckets) > 0);
  }
}

// A table as numbers: how many rows each segment has, grown as the writer grows it.
class Simulated {
 public:
  Simulated(std::size_t rows, std::size_t words, std::uint64_t seed) : words_(words) {
    std::mt19937_64 random(seed);
    std::normal_distribution<double> normal;
    for (double& deviation : deviations_) deviation = normal(random);
    for (const growth::Share& share : growth::initial_shares(rows, words)) {
      segments_.push_back({share.first_entry, share.end_entry, share.bucket_count, 0, next_++});
      bytes_ += segment_layout(share.bucket_count, words).end;
    }
  }

  // To `rows` in all, spread evenly but for chance. Returns the most bytes per row at any moment.
  double fill(double rows) {
    double worst = 0;
    for (std::size_t i = 0; i < segments_.size(); ++i) {
      Segment& segment = segments_[i];
      // An entry that is ahead stays so by and large, as signs are drawn at random.
      double expected = 0;
      for (std::uint32_t entry = segment.first; entry < segment.end; ++entry) {
        expected += rows / kEntries + deviations_[entry] * std::sqrt(rows / kEntries);
      }
      while (expected >= static_cast<double>(growth::max_used(segment.buckets))) {
        const std::size_t next = growth::grown(growth::max_used(segment.buckets), words_, segment.number);
        const std::size_t limit = growth::segment_limit(bytes_);
        const std::size_t old = segment_layout(segment.buckets, words_).end;
        if (segment.end - segment.first > 1 && segment_layout(next, words_).end > limit) {
          const std::uint32_t middle = segment.first + (segment.end - segment.first) / 2;
          const std::size_t half = growth::fill_pages(
              std::max<std::size_t>(1, next * (middle - segment.first) / (segment.end - segment.first)),
              words_);
          const std::size_t made = 2 * segment_layout(half, words_).end;
          worst = std::max(worst, static_cast<double>(bytes_ + made) / rows);
          bytes_ += made - old;
          const Segment right{middle, segment.end, half, 0, next_++};
          segment = {segment.first, middle, half, 0, next_++};
          segments_.insert(segments_.begin() + static_cast<std::ptrdiff_t>(i) + 1, right);
          break;  // both halves have room: they are looked at again at the next step
        }
        const std::size_t made = segment_layout(next, words_).end;
        worst = std::max(worst, static_cast<double>(bytes_ + made) / rows);
        bytes_ += made - old;
        segment.buckets = next;
        segment.number = next_++;
      }
    }
    return std::max(worst, static_cast<double>(bytes_) / rows);
  }

 private:
  struct Segment {
    std::uint32_t first, end;
    std::size_t buckets;
    double rows;
    std::uint32_t number;
  };
  const std::size_t words_;
  std::array<double, kEntries> deviations_;  // in standard deviations
  std::vector<Segment> segments_;
  std::size_t bytes_ = kDirectoryBytes;
  std::uint32_t next_ = 1;
};

void test_simulated_growth() {
  double worst = 0, at = 0;
  for (const std::size_t first : {0, 1000, 100'000, 1'000'000, 3'000'000}) {
    Simulated table(first, 8, first + 1);
    double most = 0;
    for (double rows = std::max<double>(1000, static_cast<double>(first)); rows < 100e6; rows *= 1.001) {
      const double bytes = table.fill(rows) / (8 + 64);
      if (rows >= 1e6) most = std::max(most, bytes);
      if (rows >= 1e6 && bytes > worst) worst = bytes, at = rows;
    }
    std::printf("    from %zu: %.3f\n", first, most);
  }
  std::printf("  growth as numbers: at most %.3f x rows x (8 + 64), at %.0f rows\n", worst, at);
  CHECK(worst <= 1.6);
}

// ---- real tables ----

// Folder memory that knows how many bytes there are at any moment, also while a segment is there twice.
class CountingMemory final : public TableMemory {
 public:
  struct Count {
    std::size_t bytes = 0, most = 0, made = 0;
    std::map<std::string, std::size_t> files;
    std::function<void()> on_create;
  };
  CountingMemory(std::unique_ptr<TableMemory> files, Count& count)
      : files_(std::move(files)), count_(count) {}

  Mapping create(const std::string& name, std::size_t bytes) override {
    Mapping mapping = files_->create(name, bytes);
    count_.bytes += bytes;
    count_.files[name] = bytes;
    ++count_.made;
    if (count_.on_create) count_.on_create();
    return mapping;
  }
  std::optional<Mapping> open(const std::string& name) override { return files_->open(name); }
  void rename(const std::string& from, const std::string& to) override {
    count_.files[to] = count_.files.at(from);
    count_.files.erase(from);
    files_->rename(from, to);
  }
  void remove(const std::string& name) override {
    if (const auto at = count_.files.find(name); at != count_.files.end()) {
      count_.bytes -= at->second;
      count_.files.erase(at);
    }
    files_->remove(name);
  }
  std::vector<std::string> names() const override { return files_->names(); }
  std::string describe(const std::string& name) const override { return files_->describe(name); }

 private:
  std::unique_ptr<TableMemory> files_;
  Count& count_;
};

constexpr RowShape kShape{16, RowType::kFloat32};

std::vector<std::uint64_t> numbers(std::uint64_t from, std::size_t n) {
  std::vector<std::uint64_t> signs(n);
  std::iota(signs.begin(), signs.end(), from);
  return signs;
}

void test_a_table_that_grows(std::size_t from, std::size_t to) {
  Folder folder;
  CountingMemory::Count count;
  const auto table =
      Table::create(kShape.dim, kShape.type, from,
                    std::make_unique<CountingMemory>(folder_memory(folder.path()), count), some_boot());
  double worst = 0;
  std::size_t rows = 0;
  count.on_create = [&] {
    const auto present = static_cast<double>(table->size());
    if (present >= 1e6) worst = std::max(worst, per_row(count.bytes, present * (8 + 64)));
  };
  std::vector<std::byte> values(1000 * kShape.bytes(), std::byte{1});
  for (; rows < to; rows += 1000) {
    const std::vector<std::uint64_t> signs = numbers(rows, 1000);
    CHECK(table->upsert(bytes_of(signs), values.data(), signs.size(), kShape.type, 1) == 1000);
    CHECK(table->bytes() == count.bytes);
    if (rows + 1000 >= 1'000'000) {
      worst = std::max(worst, per_row(count.bytes, static_cast<double>(rows + 1000) * (8 + 64)));
    }
  }
  CHECK(table->size() == to && folder.bytes() == count.bytes);
  std::printf("  %zu rows to %zu: %zu segments made, %zu there, at most %.3f x rows x (8 + 64)\n", from, to,
              count.made, count.files.size() - 1, worst);
  CHECK(worst <= 1.6);
}

// Rows that come and go leave tombstones; as long as those are forgotten, the table stays as large as its
// rows need.
void test_a_table_whose_rows_come_and_go() {
  Folder folder;
  const auto table = Table::create(kShape.dim, kShape.type, 0, folder_memory(folder.path()), some_boot());
  constexpr std::size_t kStep = 1000, kPresent = 50'000;
  std::vector<std::byte> values(kStep * kShape.bytes());
  std::size_t most = 0;
  constexpr std::uint64_t kTimes = kBuild == Build::kPlain ? 40 : 6;
  for (std::uint64_t begin = 0; begin < kTimes * kPresent; begin += kStep) {
    const auto ordinal = static_cast<std::uint32_t>(begin / kStep + 1);
    const std::vector<std::uint64_t> come = numbers(begin, kStep);
    CHECK(table->upsert(bytes_of(come), values.data(), kStep, kShape.type, ordinal) == kStep);
    if (begin >= kPresent) {
      const std::vector<std::uint64_t> go = numbers(begin - kPresent, kStep);
      CHECK(table->erase(bytes_of(go), kStep, ordinal) == kStep);
      CHECK(table->size() == kPresent);
      table->forget_tombstones(ordinal);
    }
    most = std::max(most, table->bytes());
  }
  const double ratio = per_row(most, kPresent * (8 + 64));
  std::printf("  rows that come and go: at most %.3f x rows x (8 + 64)\n", ratio);
  CHECK(ratio <= 2);
  // Nearly all are erased: what is left needs less.
  const std::vector<std::uint64_t> most_of_them = numbers((kTimes - 1) * kPresent, kPresent - 1000);
  table->erase(bytes_of(most_of_them), most_of_them.size(), 1'000'000);
  table->forget_tombstones(1'000'001);
  CHECK(table->size() == 1000);
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  if (kBuild != Build::kThreadSanitizer) {
    test_initial_shares_cover_all_entries_once();
    test_memory_of_a_table_made_for_its_rows();
    test_growth_is_bounded();
    test_simulated_growth();
  }
  if (kBuild == Build::kPlain) {
    test_a_table_that_grows(100'000, 3'000'000);
    test_a_table_that_grows(1'000'000, 2'500'000);
  } else {
    test_a_table_that_grows(10'000, kBuild == Build::kThreadSanitizer ? 100'000 : 1'100'000);
  }
  test_a_table_whose_rows_come_and_go();
  std::puts("table_growth: ok");
}
