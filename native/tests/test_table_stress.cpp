// Many readers beside one writer that overwrites a few hot rows as fast as it can, inserts until the table
// has grown many times over, and erases. Every row tells whose it is and of which version, in every word.
//
// A reader's answer must be whole, of the sign that was asked for, not older than what was acknowledged
// before the lookup began, and not older than what the same reader saw before.
//
//   test_table_stress [rows to read]      also from SATRAP_STRESS_READS
#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "satrap/table.h"
#include "table_support.h"

namespace {

using namespace satrap;
using namespace satrap::testing;

constexpr std::uint64_t kReads = kBuild == Build::kPlain              ? 100'000'000
                                 : kBuild == Build::kAddressSanitizer ? 20'000'000
                                                                      : 2'000'000;
constexpr std::size_t kLeastRounds = kBuild == Build::kPlain ? 200 : 50;

// Classes of signs, each a range of its own.
constexpr std::uint64_t kHot = 0;                // overwritten all the time
constexpr std::uint64_t kHots = 24;              //
constexpr std::uint64_t kSteady = 1'000;         // overwritten in turn
constexpr std::uint64_t kSteadies = 20'000;      //
constexpr std::uint64_t kGrowing = 1'000'000;    // inserted, one after another
constexpr std::uint64_t kPassing = 100'000'000;  // inserted, and erased some time later
constexpr std::uint64_t kWindow = 10'000;        // how many of those there are at a time
constexpr std::uint64_t kGrowings = 1'000'000;   // how many are inserted in the end

// Words 0 and 1 say whose row it is and of which version; every other one follows from both.
std::uint64_t word_of(std::uint64_t sign, std::uint64_t version, std::size_t i) {
  return i == 0 ? sign : i == 1 ? version : (sign * 0x9e3779b97f4a7c15u + version) * (2 * i + 1);
}

bool is_whole(const std::uint64_t* row, std::size_t words, std::uint64_t sign) {
  bool whole = row[0] == sign;
  for (std::size_t i = 2; i < words; ++i) whole &= row[i] == word_of(sign, row[1], i);
  return whole;
}

// What the writer has acknowledged, for readers to compare with.
struct Acknowledged {
  std::atomic<std::uint64_t> hot{0};       // version that all hot signs have at least
  std::atomic<std::uint64_t> round{0};     // the same of steady ones
  std::atomic<std::uint64_t> growing{0};   // how many are there
  std::atomic<std::uint64_t> inserted{0};  // of passing ones
  std::atomic<std::uint64_t> erased{0};    // of passing ones: a call that erases them has begun
  std::atomic<std::uint64_t> gone{0};      // and has ended
};

class Random {  // xorshift
 public:
  explicit Random(std::uint64_t seed) : state_(mixed(seed) | 1) {}
  std::uint64_t operator()() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }

 private:
  std::uint64_t state_;
};

class Writer {
 public:
  Writer(Table& table, Acknowledged& acknowledged)
      : table_(table), words_(table.row_bytes() / 8), acknowledged_(acknowledged) {
    put(kHot, kHots, 1);
    put(kSteady, kSteadies, 1);
    acknowledged.hot = acknowledged.round = 1;
  }

  // One round of everything.
  void write() {
    ++version_;
    for (int i = 0; i < 20; ++i) {
      put(kHot, kHots, ++hot_);
      acknowledged_.hot.store(hot_, std::memory_order_release);
    }
    // A part of the steady ones; a new version begins when all have the present one.
    constexpr std::uint64_t kPart = 200;
    put(kSteady + steady_, kPart, round_ + 1);
    steady_ += kPart;
    if (steady_ == kSteadies) {
      steady_ = 0;
      acknowledged_.round.store(++round_, std::memory_order_release);
    }
    if (growing_ < kGrowings) {
      put(kGrowing + growing_, 300, version_);
      growing_ += 300;
      acknowledged_.growing.store(growing_, std::memory_order_release);
    }
    put(kPassing + passing_, 100, version_);
    passing_ += 100;
    acknowledged_.inserted.store(passing_, std::memory_order_release);
    if (passing_ > kWindow) {
      const std::uint64_t end = passing_ - kWindow;
      acknowledged_.erased.store(end, std::memory_order_release);
      signs_.clear();
      for (std::uint64_t i = end - 100; i < end; ++i) signs_.push_back(kPassing + i);
      CHECK(table_.erase(bytes_of(signs_), signs_.size(), ordinal_) == signs_.size());
      acknowledged_.gone.store(end, std::memory_order_release);
      table_.forget_tombstones(ordinal_);
    }
    ++ordinal_;
  }

  std::size_t rows() const {
    return kHots + kSteadies + growing_ + std::min<std::uint64_t>(passing_, kWindow);
  }

 private:
  void put(std::uint64_t first, std::uint64_t n, std::uint64_t version) {
    signs_.clear();
    rows_.clear();
    for (std::uint64_t sign = first; sign < first + n; ++sign) {
      signs_.push_back(sign);
      for (std::size_t i = 0; i < words_; ++i) rows_.push_back(word_of(sign, version, i));
    }
    CHECK(table_.upsert(bytes_of(signs_), reinterpret_cast<const std::byte*>(rows_.data()), n, table_.type(),
                        ordinal_) == n);
  }

  Table& table_;
  const std::size_t words_;
  Acknowledged& acknowledged_;
  std::vector<std::uint64_t> signs_, rows_;
  std::uint64_t version_ = 1, hot_ = 1, round_ = 1, steady_ = 0, growing_ = 0, passing_ = 0;
  std::uint32_t ordinal_ = 1;
};

// `Read` is lookup(signs, n, out, found).
template <class Read>
class Reader {
 public:
  Reader(Read read, std::size_t words, std::uint64_t seed, const Acknowledged& acknowledged)
      : read_(std::move(read)), words_(words), random_(seed), acknowledged_(acknowledged) {}

  // One lookup; returns how many rows it asked for.
  std::uint64_t read() {
    constexpr std::size_t kBatch = 512;
    const std::uint64_t hot = acknowledged_.hot.load(std::memory_order_acquire);
    const std::uint64_t round = acknowledged_.round.load(std::memory_order_acquire);
    const std::uint64_t growing = acknowledged_.growing.load(std::memory_order_acquire);
    const std::uint64_t inserted = acknowledged_.inserted.load(std::memory_order_acquire);
    const std::uint64_t gone = acknowledged_.gone.load(std::memory_order_acquire);
    signs_.resize(kBatch);
    rows_.resize(kBatch * words_);
    found_.resize(kBatch);
    for (std::uint64_t& sign : signs_) {
      const std::uint64_t draw = random_();
      switch (draw % 8) {
        case 0:
        case 1:
          sign = kHot + (draw >> 8) % kHots;
          break;
        case 2:
        case 3:
        case 4:
          sign = kSteady + (draw >> 8) % kSteadies;
          break;
        case 5:
        case 6:
          sign = kGrowing + (draw >> 8) % (growing + 1000);
          break;
        default:  // around the window
          sign = kPassing + (gone > 500 ? gone - 500 : 0) + (draw >> 8) % (kWindow + 1000);
      }
    }
    const std::size_t missing =
        read_(bytes_of(signs_), kBatch, reinterpret_cast<std::byte*>(rows_.data()), found_.data());
    const std::uint64_t erased = acknowledged_.erased.load(std::memory_order_acquire);
    std::size_t absent = 0;
    for (std::size_t i = 0; i < kBatch; ++i) {
      const std::uint64_t sign = signs_[i];
      const std::uint64_t* const row = rows_.data() + i * words_;
      if (found_[i]) {
        CHECK(is_whole(row, words_, sign));
      } else {
        ++absent;
        for (std::size_t word = 0; word < words_; ++word) CHECK(row[word] == 0);
      }
      if (sign < kHot + kHots) {
        CHECK(found_[i] && row[1] >= hot && row[1] >= newest_[sign]);
      } else if (sign < kGrowing) {
        CHECK(found_[i] && row[1] >= round && row[1] >= steady_[sign - kSteady]);
      } else if (sign < kPassing) {
        CHECK(found_[i] || sign >= kGrowing + growing);
      } else {
        const std::uint64_t number = sign - kPassing;
        if (number < gone) CHECK(!found_[i]);
        if (number >= erased && number < inserted) CHECK(found_[i]);
      }
    }
    CHECK(missing == absent);
    // Only now: the same sign may be there twice, and rows of a batch are not read in its order.
    for (std::size_t i = 0; i < kBatch; ++i) {
      if (signs_[i] >= kGrowing) continue;
      std::uint64_t& newest =
          signs_[i] < kHot + kHots ? newest_[signs_[i] - kHot] : steady_[signs_[i] - kSteady];
      newest = std::max(newest, rows_[i * words_ + 1]);
    }
    return kBatch;
  }

 private:
  Read read_;
  const std::size_t words_;
  Random random_;
  const Acknowledged& acknowledged_;
  std::vector<std::uint64_t> signs_, rows_;
  std::vector<std::uint8_t> found_;
  std::array<std::uint64_t, kHots> newest_{};
  std::vector<std::uint64_t> steady_ = std::vector<std::uint64_t>(kSteadies);
};

template <class Scanned>
std::uint64_t scan(const Scanned& table, std::size_t words, const Acknowledged& acknowledged) {
  const std::uint64_t growing = acknowledged.growing.load(std::memory_order_acquire);
  std::vector<bool> seen(growing);
  std::uint64_t rows = 0, steady = 0;
  for (std::uint64_t at = 0; at != TablePage::kEnd;) {
    const TablePage page = table.scan(at, 1000);
    for (std::size_t i = 0; i < page.signs.size(); ++i) {
      const auto* const row = reinterpret_cast<const std::uint64_t*>(page.rows.data()) + i * words;
      CHECK(is_whole(row, words, page.signs[i]));
      if (page.signs[i] >= kGrowing && page.signs[i] < kGrowing + growing)
        seen[page.signs[i] - kGrowing] = true;
      steady += page.signs[i] >= kSteady && page.signs[i] < kSteady + kSteadies;
    }
    rows += page.signs.size();
    at = page.next;
  }
  CHECK(std::find(seen.begin(), seen.end(), false) == seen.end());
  CHECK(steady >= kSteadies);
  return rows;
}

void stress(std::size_t dim, std::uint64_t reads) {
  const auto begin = std::chrono::steady_clock::now();
  Folder folder;
  const std::size_t words = dim / 2;
  auto table = Table::create(dim, RowType::kFloat32, 1000, folder_memory(folder.path()), some_boot());
  Acknowledged acknowledged;
  Writer writer(*table, acknowledged);
  const auto attached = TableView::attach(read_only_folder_memory(folder.path()), some_boot());

  std::atomic<std::uint64_t> rows_read{0};
  std::atomic<bool> done{false};
  const auto reading = [&](auto lookup, std::uint64_t seed) {
    Reader reader(std::move(lookup), words, seed, acknowledged);
    while (!done.load(std::memory_order_relaxed)) rows_read.fetch_add(reader.read());
  };
  std::vector<std::thread> threads;
  threads.emplace_back(reading, [&](auto... arguments) { return table->lookup(arguments...); }, 1);
  std::uint64_t seed = 2;
  for (const CopyForm form : copy_forms()) {
    threads.emplace_back(
        reading, [&, form](auto... arguments) { return attached->lookup(arguments..., form); }, seed++);
  }
  threads.emplace_back([&] {
    while (!done.load(std::memory_order_relaxed)) {
      scan(*table, words, acknowledged);
      scan(*attached, words, acknowledged);
    }
  });
  threads.emplace_back([&] {
    while (!done.load(std::memory_order_relaxed)) {
      attached->wait_for_signal(std::chrono::milliseconds(10));
      attached->follow();
    }
  });
  std::size_t rounds = 0, most = 0;
  for (; rows_read.load(std::memory_order_relaxed) < reads || rounds < kLeastRounds; ++rounds) {
    writer.write();
    most = std::max(most, table->bytes());
  }
  done = true;
  for (std::thread& thread : threads) thread.join();

  CHECK(table->size() == writer.rows());
  // Passing rows and their tombstones do not make it grow for ever.
  const double per_row = static_cast<double>(most) / static_cast<double>(writer.rows());
  CHECK(per_row < 2.0 * static_cast<double>(8 + table->row_bytes()));
  table.reset();
  table = Table::recover(folder_memory(folder.path()), some_boot());
  CHECK(table->size() == writer.rows());
  Reader again([&](auto... arguments) { return table->lookup(arguments...); }, words, 9, acknowledged);
  for (int i = 0; i < 100; ++i) again.read();
  CHECK(scan(*table, words, acknowledged) == writer.rows());
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  std::printf("  dim %zu: %llu rows read, %zu rounds written, %zu rows, %.0f bytes a row, %.1f s\n", dim,
              static_cast<unsigned long long>(rows_read.load()), rounds, table->size(), per_row,
              time.count());
}

}  // namespace

int main(int argc, char** argv) {
  const char* const asked = argc > 1 ? argv[1] : std::getenv("SATRAP_STRESS_READS");
  const std::uint64_t reads = asked ? std::stoull(asked) : kReads;
  stress(16, reads - reads / 10);
  stress(26, reads / 10);  // vectors end inside the row
  std::puts("table_stress: ok");
}
