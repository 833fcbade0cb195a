#include "cases.h"

#include <sys/vfs.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <utility>
#include <vector>

#include "ablation.h"
#include "json.h"
#include "satrap/table.h"
#include "satrap/table_memory.h"
#include "table_view.h"
#include "workload.h"

namespace satrap::benchmarks {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

void note(const char* what) { std::fprintf(stderr, "%s\n", what); }

constexpr std::uint32_t kLoaded = 1, kUpdated = 2;  // ordinals

// Rows `numbers[0..n)` as arrays that an upsert takes.
struct Rows {
  std::vector<std::uint64_t> signs;
  std::vector<float> values;

  Rows(const std::uint32_t* numbers, std::size_t n) : signs(n), values(n * kDim) {
    for (std::size_t i = 0; i < n; ++i) {
      signs[i] = sign_of(numbers[i]);
      for (std::size_t column = 0; column < kDim; ++column) {
        values[i * kDim + column] = value_of(numbers[i], column);
      }
    }
  }

  const std::byte* sign_bytes() const { return reinterpret_cast<const std::byte*>(signs.data()); }
  const std::byte* value_bytes() const { return reinterpret_cast<const std::byte*>(values.data()); }
};

// A table in a folder that goes with it.
class FolderTable {
 public:
  FolderTable(const std::string& folder, std::size_t capacity)
      : folder_(folder), memory_(folder_memory(folder)) {
    table_ = Table::create(kDim, RowType::kFloat32, capacity, folder_memory(folder));
  }
  ~FolderTable() {
    table_.reset();
    for (const std::string& name : memory_->names()) memory_->remove(name);
    std::remove(folder_.c_str());
  }
  FolderTable(const FolderTable&) = delete;
  FolderTable& operator=(const FolderTable&) = delete;

  Table& operator*() const { return *table_; }
  Table* operator->() const { return table_.get(); }

  // Rows 0 ... rows - 1 in the order given, as a load inserts them.
  void load(const std::vector<std::uint32_t>& order) {
    constexpr std::size_t kChunk = 1 << 16;
    std::vector<const std::byte*> pointers;
    for (std::size_t begin = 0; begin < order.size(); begin += kChunk) {
      const Rows rows(order.data() + begin, std::min(kChunk, order.size() - begin));
      pointers.resize(rows.signs.size());
      for (std::size_t i = 0; i < pointers.size(); ++i) {
        pointers[i] = rows.value_bytes() + i * kRowBytes;
      }
      table_->bulk_insert(rows.sign_bytes(), pointers.data(), pointers.size(), RowType::kFloat32, kLoaded);
    }
    table_->finish_bulk();
  }

 private:
  const std::string folder_;
  const std::unique_ptr<TableMemory> memory_;
  std::shared_ptr<Table> table_;
};

// Throws unless `out` holds the rows of a batch.
void check(const std::string& name, const Batches& batches, std::size_t batch, const std::byte* out) {
  const auto* const values = reinterpret_cast<const float*>(out);
  for (std::size_t i = 0; i < batches.size; ++i) {
    for (std::size_t column = 0; column < kDim; ++column) {
      if (values[i * kDim + column] != value_of(batches.rows_at(batch)[i], column)) {
        throw std::runtime_error(name + " copied a wrong row for id " + std::to_string(i));
      }
    }
  }
}

const char* name_of(CopyForm form) {
  switch (form) {
    case CopyForm::kAvx512:
      return "avx512";
    case CopyForm::kAvx2:
      return "avx2";
    default:
      return "portable";
  }
}

// One way to get the rows of a batch.
struct Way {
  std::string name;
  std::function<void(const Batches&, std::size_t batch, std::byte* out)> run;
};

// ns/id of each way in each round: all batches with one way, then with the next; the first one changes.
Json measured(const std::vector<Way>& ways, const Batches& batches, std::size_t rounds) {
  std::vector<std::byte> out(batches.size * kRowBytes);
  for (const Way& way : ways) {
    for (const std::size_t batch : {std::size_t{0}, batches.count() - 1}) {
      std::fill(out.begin(), out.end(), std::byte{0xff});
      way.run(batches, batch, out.data());
      check(way.name, batches, batch, out.data());
    }
  }
  std::vector<std::vector<double>> times(ways.size());
  for (std::size_t round = 0; round < rounds; ++round) {
    for (std::size_t k = 0; k < ways.size(); ++k) {
      const std::size_t at = (k + round) % ways.size();
      const auto start = Clock::now();
      for (std::size_t batch = 0; batch < batches.count(); ++batch) {
        ways[at].run(batches, batch, out.data());
      }
      times[at].push_back(seconds_since(start) * 1e9 / static_cast<double>(batches.rows.size()));
    }
  }
  Json result;
  for (std::size_t at = 0; at < ways.size(); ++at) result.add(ways[at].name, times[at]);
  return result;
}

std::vector<Batches> both_draws(const Settings& settings, Random& random) {
  constexpr double kExponent = 1.05;
  std::vector<Batches> draws;
  for (const double exponent : {0.0, kExponent}) {
    draws.push_back(draw_batches(settings.rows, exponent, settings.batches, settings.batch_ids, random));
  }
  return draws;
}

}  // namespace

void lookups(const Settings& settings) {
  constexpr double kLoad = 0.85;         // as a load fills a table
  constexpr std::size_t kSegments = 16;  // of such a table
  Random random(settings.seed);
  note("filling tables");
  const std::vector<std::uint32_t> order = permutation(settings.rows, random);
  const auto memory = folder_memory(settings.folder + "/ablation");
  const RowArray array(settings.rows, *memory);
  const Segments one(order, 1, kLoad, *memory), many(order, kSegments, kLoad, *memory);
  FolderTable table(settings.folder + "/table", settings.rows);
  table.load(order);
  const auto view = TableView::attach(read_only_folder_memory(settings.folder + "/table"), {});

  std::vector<Way> ways;
  for (const Gather& gather : gathers()) {
    ways.push_back({"gather, window " + std::to_string(gather.window),
                    [&array, run = gather.run](const Batches& batches, std::size_t batch, std::byte* out) {
                      run(array.data(), batches.rows_at(batch), batches.size, out);
                    }});
  }
  for (const Variant& variant : variants()) {
    ways.push_back({variant.name, [&segments = variant.is_segmented ? many : one, run = variant.run](
                                      const Batches& batches, std::size_t batch, std::byte* out) {
                      run(segments, batches.signs_at(batch), batches.size, out);
                    }});
  }
  ways.push_back({"table", [&table](const Batches& batches, std::size_t batch, std::byte* out) {
                    table->lookup(batches.signs_at(batch), batches.size, out, nullptr);
                  }});
  for (const CopyForm form : copy_forms()) {
    ways.push_back({std::string("attached, ") + name_of(form),
                    [&view, form](const Batches& batches, std::size_t batch, std::byte* out) {
                      view->lookup(batches.signs_at(batch), batches.size, out, nullptr, form);
                    }});
  }
  Json draws;
  for (const Batches& batches : both_draws(settings, random)) {
    note(batches.name.c_str());
    draws.add(batches.name, measured(ways, batches, settings.rounds));
  }
  const double payload = static_cast<double>(settings.rows * (8 + kRowBytes));
  Json()
      .add("ns_per_id", draws)
      .add("displaced", one.displaced())
      .add("array_huge_pages", array.is_huge())
      .add("table_huge_pages", table->huge_pages())
      .add("table_bytes_ratio", static_cast<double>(table->bytes()) / payload)
      .print();
  std::remove((settings.folder + "/ablation").c_str());
}

namespace {

// Ids/s of one thread that looks up all batches, beginning at `first`, until `stop`, at least one.
double rate_until(const Table& table, const Batches& batches, std::size_t first,
                  const std::atomic<bool>& stop) {
  std::vector<std::byte> out(batches.size * kRowBytes);
  std::size_t done = 0;
  const auto start = Clock::now();
  do {
    const std::size_t batch = (first + done++) % batches.count();
    if (table.lookup(batches.signs_at(batch), batches.size, out.data(), nullptr) != 0) {
      throw std::runtime_error("a row that was loaded is missing");
    }
  } while (!stop.load(std::memory_order_relaxed));
  return static_cast<double>(done * batches.size) / seconds_since(start);
}

// Ids/s of `count` threads together for `seconds`.
double rate_of(const Table& table, const Batches& batches, std::size_t count, double seconds) {
  std::atomic<bool> stop{false};
  std::vector<double> rates(count);
  std::vector<std::thread> readers;
  for (std::size_t i = 0; i < count; ++i) {
    readers.emplace_back(
        [&, i] { rates[i] = rate_until(table, batches, i * batches.count() / count, stop); });
  }
  std::this_thread::sleep_for(std::chrono::duration<double>(seconds));
  stop = true;
  for (std::thread& reader : readers) reader.join();
  return std::accumulate(rates.begin(), rates.end(), 0.0);
}

}  // namespace

void threads(const Settings& settings) {
  Random random(settings.seed);
  note("filling a table");
  FolderTable table(settings.folder + "/table", settings.rows);
  table.load(permutation(settings.rows, random));
  Json result;
  for (const Batches& batches : both_draws(settings, random)) {
    note(batches.name.c_str());
    std::vector<double> one, two;
    for (std::size_t round = 0; round < settings.rounds; ++round) {
      one.push_back(rate_of(*table, batches, 1, settings.seconds));
      two.push_back(rate_of(*table, batches, 2, settings.seconds));
    }
    result.add(batches.name, Json().add("one", one).add("two", two));
  }
  result.print();
}

namespace {

// Upserts batches of existing rows on a thread of its own: so many rows each millisecond, and as many more as
// it is behind.
class PacedWriter {
 public:
  PacedWriter(Table& table, const std::vector<Rows>& batches, double rows_per_second)
      : thread_([this, &table, &batches, rows_per_second] {
          const auto start = Clock::now();
          while (!stop_.load(std::memory_order_relaxed)) {
            const double due = seconds_since(start) * rows_per_second;
            while (static_cast<double>(written_) < due && !stop_.load(std::memory_order_relaxed)) {
              const Rows& rows = batches[next_++ % batches.size()];
              table.upsert(rows.sign_bytes(), rows.value_bytes(), rows.signs.size(), RowType::kFloat32,
                           kUpdated);
              written_ += rows.signs.size();
            }
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
          }
          rate_ = static_cast<double>(written_) / seconds_since(start);
        }) {}
  ~PacedWriter() {
    if (thread_.joinable()) stop();
  }

  // Returns the rows/s that it reached.
  double stop() {
    stop_ = true;
    thread_.join();
    return rate_;
  }

 private:
  std::atomic<bool> stop_{false};
  std::size_t next_ = 0;
  std::size_t written_ = 0;
  double rate_ = 0;
  std::thread thread_;  // last: it uses the others
};

std::vector<Rows> batches_of_rows(std::size_t table_rows, std::size_t count, std::size_t size,
                                  Random& random) {
  std::vector<Rows> batches;
  std::vector<std::uint32_t> numbers(size);
  for (std::size_t i = 0; i < count; ++i) {
    for (std::uint32_t& number : numbers) number = static_cast<std::uint32_t>(random.below(table_rows));
    batches.emplace_back(numbers.data(), size);
  }
  return batches;
}

}  // namespace

void writer(const Settings& settings) {
  constexpr double kRowsPerSecond = 1e6;
  constexpr std::size_t kBatch = 1000, kDistinct = 500;
  Random random(settings.seed);
  note("filling a table");
  FolderTable table(settings.folder + "/table", settings.rows);
  table.load(permutation(settings.rows, random));
  const std::vector<Rows> rows = batches_of_rows(settings.rows, kDistinct, kBatch, random);
  Json result;
  for (const Batches& batches : both_draws(settings, random)) {
    note(batches.name.c_str());
    std::vector<double> alone, disturbed, written;
    for (std::size_t round = 0; round < settings.rounds; ++round) {
      alone.push_back(rate_of(*table, batches, 1, settings.seconds));
      PacedWriter paced(*table, rows, kRowsPerSecond);
      disturbed.push_back(rate_of(*table, batches, 1, settings.seconds));
      written.push_back(paced.stop());
    }
    result.add(batches.name, Json().add("alone", alone).add("disturbed", disturbed).add("written", written));
  }
  result.print();
}

void upserts(const Settings& settings) {
  constexpr std::size_t kRows = 1'000'000;
  Random random(settings.seed);
  note("filling a table");
  FolderTable table(settings.folder + "/table", settings.rows);
  table.load(permutation(settings.rows, random));
  const std::vector<Rows> rows = batches_of_rows(settings.rows, 2, kRows, random);
  std::vector<double> rates;
  for (std::size_t round = 0; round <= settings.rounds; ++round) {
    const Rows& some = rows[round % rows.size()];
    const auto start = Clock::now();
    const std::size_t written = table->upsert(some.sign_bytes(), some.value_bytes(), kRows, RowType::kFloat32,
                                              kUpdated + static_cast<std::uint32_t>(round));
    const double seconds = seconds_since(start);
    if (written != kRows) throw std::runtime_error("an upsert of a greater ordinal left rows out");
    if (round > 0) rates.push_back(kRows / seconds);  // the first one is a warm-up
  }
  Json().add("rows_per_second", rates).print();
}

namespace {

// A folder's memory that notes, after each file it has made, what the file system holds for each row of a
// table: a file made is when most is held.
class WatchedMemory : public TableMemory {
 public:
  WatchedMemory(const std::string& folder, std::size_t from_rows, const std::atomic<std::size_t>& rows)
      : inner_(folder_memory(folder)), folder_(folder), from_rows_(from_rows), rows_(rows), before_(held()) {}

  Mapping create(const std::string& name, std::size_t bytes) override {
    Mapping mapping = inner_->create(name, bytes);
    look();
    return mapping;
  }
  std::optional<Mapping> open(const std::string& name) override { return inner_->open(name); }
  void rename(const std::string& from, const std::string& to) override { inner_->rename(from, to); }
  void remove(const std::string& name) override { inner_->remove(name); }
  std::vector<std::string> names() const override { return inner_->names(); }
  std::string describe(const std::string& name) const override { return inner_->describe(name); }

  // The greatest bytes / (rows x (8 + row bytes)) once there were `from_rows`.
  double greatest() const { return greatest_; }
  void look() {
    const std::size_t rows = rows_.load();
    if (rows < from_rows_) return;
    const double ratio = static_cast<double>(held() - before_) / static_cast<double>(rows * (8 + kRowBytes));
    greatest_ = std::max(greatest_, ratio);
  }

 private:
  // Also counts files that are unlinked and still mapped.
  std::size_t held() const {
    struct statfs of;
    if (::statfs(folder_.c_str(), &of) != 0)
      throw std::runtime_error("cannot ask for the size of " + folder_);
    return (of.f_blocks - of.f_bfree) * static_cast<std::size_t>(of.f_bsize);
  }

  const std::unique_ptr<TableMemory> inner_;
  const std::string folder_;
  const std::size_t from_rows_;
  const std::atomic<std::size_t>& rows_;
  const std::size_t before_;
  double greatest_ = 0;
};

// Latencies of lookups in ms: batches of `size` random rows that are there, until `stop`.
template <class Lookup>
std::vector<double> latencies(const Lookup& lookup, std::size_t size, const std::atomic<std::size_t>& rows,
                              const std::atomic<bool>& stop, std::uint64_t seed) {
  Random random(seed);
  std::vector<double> times;
  times.reserve(std::size_t{1} << 22);
  std::vector<std::uint64_t> signs(size);
  std::vector<std::byte> out(size * kRowBytes);
  while (!stop.load(std::memory_order_relaxed)) {
    const std::size_t present = rows.load();
    for (std::uint64_t& sign : signs) sign = sign_of(random.below(present));
    const auto start = Clock::now();
    const std::size_t missing = lookup(reinterpret_cast<const std::byte*>(signs.data()), size, out.data());
    times.push_back(seconds_since(start) * 1e3);
    if (missing != 0) throw std::runtime_error("a row that was acknowledged is missing");
  }
  return times;
}

double quantile(std::vector<double> values, double part) {
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(static_cast<double>(values.size() - 1) * part);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

// A table grows from 10^5 rows to the end while one thread looks up: in the table, or attached to it.
Json grow(const Settings& settings, std::size_t size, bool is_attached) {
  constexpr std::size_t kFirst = 100'000, kBatch = 1000, kRatioFrom = 1'000'000;
  constexpr double kPart = 0.999;
  const std::string folder = settings.folder + "/growing";
  std::atomic<std::size_t> rows{0};
  auto watched = std::make_unique<WatchedMemory>((folder_memory(folder), folder), kRatioFrom, rows);
  WatchedMemory& memory = *watched;
  const std::shared_ptr<Table> table = Table::create(kDim, RowType::kFloat32, kFirst, std::move(watched));
  const auto insert = [&](std::size_t n) {
    std::vector<std::uint32_t> numbers(n);
    std::iota(numbers.begin(), numbers.end(), static_cast<std::uint32_t>(rows.load()));
    const Rows batch(numbers.data(), n);
    table->upsert(batch.sign_bytes(), batch.value_bytes(), n, RowType::kFloat32, kLoaded);
    rows += n;
  };
  while (rows.load() < kFirst) insert(kBatch);

  std::unique_ptr<TableView> view;
  std::atomic<bool> done{false};
  std::thread follower;
  if (is_attached) {
    view = TableView::attach(read_only_folder_memory(folder), {});
    follower = std::thread([&] {
      while (!done.load()) {
        view->follow();
        view->wait_for_signal(std::chrono::milliseconds(100));
      }
    });
  }
  const auto lookup = [&](const std::byte* signs, std::size_t n, std::byte* out) {
    return view ? view->lookup(signs, n, out, nullptr) : table->lookup(signs, n, out, nullptr);
  };
  const auto while_running = [&](const std::function<void()>& work) {
    std::atomic<bool> stop{false};
    std::vector<double> times;
    std::thread reader([&] { times = latencies(lookup, size, rows, stop, settings.seed); });
    work();
    stop = true;
    reader.join();
    return times;
  };
  const auto pause = [&] { std::this_thread::sleep_for(std::chrono::duration<double>(settings.seconds)); };
  const std::vector<double> before = while_running(pause);
  double seconds = 0;
  const std::vector<double> during = while_running([&] {
    const auto start = Clock::now();
    while (rows.load() < settings.last_rows) insert(kBatch);
    seconds = seconds_since(start);
  });
  const std::vector<double> after = while_running(pause);
  memory.look();
  done = true;
  if (follower.joinable()) {
    view->wake();
    follower.join();
  }
  for (const std::string& name : memory.names()) memory.remove(name);
  std::remove(folder.c_str());
  return Json()
      .add("usual_before_ms", quantile(before, kPart))
      .add("usual_after_ms", quantile(after, kPart))
      .add("growing_ms", quantile(during, kPart))
      .add("growing_greatest_ms", quantile(during, 1))
      .add("lookups", during.size())
      .add("rows_per_second", static_cast<double>(settings.last_rows - kFirst) / seconds)
      .add("greatest_bytes_ratio", memory.greatest());
}

}  // namespace

void growth(const Settings& settings) {
  Json result;
  for (const bool is_attached : {false, true}) {
    for (const std::size_t size : {std::size_t{1}, std::size_t{128}}) {
      const std::string name =
          std::string(is_attached ? "attached" : "table") + ", batches of " + std::to_string(size);
      note(name.c_str());
      result.add(name, grow(settings, size, is_attached));
    }
  }
  result.print();
}

}  // namespace satrap::benchmarks
