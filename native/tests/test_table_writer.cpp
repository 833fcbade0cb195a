// The writer is stopped before every single store and every change of a file, and at each of these moments
// three things are looked at, as if it had been killed there:
//
//   readers    one that attached before, one that attaches now, and the writer's own: each answers every sign
//              old or new, in every copy form, by lookup, contains and scan; what was seen new is never old
//              again. They run on the thread that the writer is stopped on, so one that waited for it would
//              hang.
//   recovery   of a copy of the folder: every row of earlier calls is there, every row of the call in flight
//              is old or new, no file is left that no word names, counts are right, the call sent again ends
//              in the model's state; a reader that attached before it follows.
//   recovery   is itself stopped before each of its stores, and a second one does the same.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <utility>

#include "../src/table_growth.h"
#include "../src/table_writer.h"
#include "table_support.h"

namespace {

using namespace satrap;
using namespace satrap::testing;

// Under a sanitizer, long runs of like stores (the words of a row, the 4,096 words of the directory) are
// stopped in at their ends and now and then between.
constexpr std::size_t kStride = kBuild == Build::kPlain ? 1 : 401;

// Calls `look` before every store and around every change of a file.
class Stops {
 public:
  Stops(std::size_t stride, std::function<void()> look) : stride_(stride), look_(std::move(look)) {}

  // A store to `word`, of `bytes`, comes next.
  void before(const void* word, std::size_t bytes) {
    const auto at = reinterpret_cast<std::uintptr_t>(word);
    const bool continues = word != nullptr && at == last_ + bytes;
    run_ = continues ? run_ + 1 : 0;
    last_ = at;
    if (run_ < 3 || run_ % stride_ == 0) stop();
  }
  void stop() {
    ++count_;
    look_();
  }
  std::size_t count() const { return count_; }

 private:
  const std::size_t stride_;
  const std::function<void()> look_;
  std::uintptr_t last_ = 0;
  std::size_t run_ = 0;
  std::size_t count_ = 0;
};

struct StoppingStores {
  Stops* stops = nullptr;

  template <class Word, class Value>
  void store(std::atomic<Word>& word, Value value) {
    if (stops) stops->before(&word, sizeof(word));
    word.store(static_cast<Word>(value), std::memory_order_release);
  }
  void step() {
    if (stops) stops->stop();
  }
};

using Writer = TableWriter<StoppingStores>;

// A folder whose changes are stops, too: also in the middle of making a file.
class StoppingMemory final : public TableMemory {
 public:
  StoppingMemory(const Folder& folder, Stops* stops)
      : folder_(folder), stops_(stops), files_(folder_memory(folder.path())) {}

  Mapping create(const std::string& name, std::size_t bytes) override {
    if (stops_) {
      stops_->stop();
      const std::string path = folder_.file(name);
      std::ofstream(path).close();
      stops_->stop();  // it is empty
      CHECK(::truncate(path.c_str(), static_cast<off_t>(bytes)) == 0);
      stops_->stop();  // it has its size, and no header
      CHECK(::unlink(path.c_str()) == 0);
    }
    Mapping mapping = files_->create(name, bytes);
    if (stops_) stops_->stop();
    return mapping;
  }
  std::optional<Mapping> open(const std::string& name) override { return files_->open(name); }
  void rename(const std::string& from, const std::string& to) override {
    if (stops_) stops_->stop();
    files_->rename(from, to);
    if (stops_) stops_->stop();
  }
  void remove(const std::string& name) override {
    if (stops_) stops_->stop();
    files_->remove(name);
    if (stops_) stops_->stop();
  }
  std::vector<std::string> names() const override { return files_->names(); }
  std::string describe(const std::string& name) const override { return files_->describe(name); }

 private:
  const Folder& folder_;
  Stops* stops_;
  std::unique_ptr<TableMemory> files_;
};

std::unique_ptr<TableView> attach(const Folder& folder) {
  return TableView::attach(read_only_folder_memory(folder.path()), some_boot());
}

std::unique_ptr<Writer> recover(const Folder& folder, Stops* stops = nullptr) {
  return Writer::recover(std::make_unique<StoppingMemory>(folder, stops), some_boot(), {stops});
}

void copy_files(const Folder& from, const Folder& to) {
  for (const std::string& name : to.names()) CHECK(::unlink(to.file(name).c_str()) == 0);
  std::vector<char> buffer;
  for (const std::string& name : from.names()) {
    const int source = ::open(from.file(name).c_str(), O_RDONLY | O_CLOEXEC);
    const int target = ::open(to.file(name).c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    CHECK(source >= 0 && target >= 0);
    buffer.resize(std::size_t{1} << 20);
    for (ssize_t n; (n = ::read(source, buffer.data(), buffer.size())) > 0;) {
      CHECK(::write(target, buffer.data(), static_cast<std::size_t>(n)) == n);
    }
    CHECK(::close(source) == 0 && ::close(target) == 0);
  }
}

// What each sign may be, in the order in which it may become that; and how far it was seen.
class History {
 public:
  History(const Model& before, const std::vector<Call>& calls, RowShape shape, bool forgets)
      : shape_(shape), forgets_(forgets), last_(before) {
    for (const auto& [sign, known] : before.known()) states_[sign] = {known};
    for (const Call& call : calls) {
      for (const std::uint64_t sign : call.signs) {
        std::vector<std::optional<Known>>& states = states_[sign];
        if (states.empty()) states.push_back(std::nullopt);
        if (last_.apply(call, sign) || states.back() != last_.of(sign)) states.push_back(last_.of(sign));
      }
    }
    for (std::uint64_t sign = 1; sign < 4; ++sign) {
      states_.try_emplace(mixed(sign), 1, std::nullopt);  // never there
    }
    for (const auto& [sign, states] : states_) signs_.push_back(sign);
    seen_.assign(signs_.size(), 0);
  }

  const std::vector<std::uint64_t>& signs() const { return signs_; }
  const Model& last() const { return last_; }
  RowShape shape() const { return shape_; }

  // A reader's answer for a sign: the row, or null if there is none.
  void see(std::size_t i, const std::byte* row, const std::uint32_t* ordinal = nullptr) {
    const std::vector<std::optional<Known>>& states = states_.at(signs_[i]);
    // Of equal states the earliest that is allowed: that claims the least.
    std::size_t at = seen_[i];
    while (at < states.size() && !is(states[at], signs_[i], row, ordinal)) ++at;
    if (at == states.size()) {
      std::fprintf(stderr, "sign %llu: %s is none of what it may be from state %zu of %zu on\n",
                   static_cast<unsigned long long>(signs_[i]), row ? "this row" : "no row", seen_[i],
                   states.size());
    }
    CHECK(at < states.size());
    seen_[i] = at;
  }

  // Everything that `view` says about all signs.
  void look_at(const TableView& view) {
    const std::size_t n = signs_.size(), row_bytes = shape_.bytes();
    std::vector<std::uint8_t> found(n);
    rows_.resize(n * row_bytes);
    for (const CopyForm form : copy_forms()) {
      std::fill(rows_.begin(), rows_.end(), std::byte{1});
      const std::size_t missing = view.lookup(bytes_of(signs_), n, rows_.data(), found.data(), form);
      CHECK(missing == static_cast<std::size_t>(std::count(found.begin(), found.end(), 0)));
      for (std::size_t i = 0; i < n; ++i) {
        const std::byte* const row = rows_.data() + i * row_bytes;
        if (!found[i]) CHECK(std::all_of(row, row + row_bytes, [](std::byte b) { return b == std::byte{}; }));
        see(i, found[i] ? row : nullptr);
      }
    }
    const std::vector<std::uint8_t> same = found;
    CHECK(view.contains(bytes_of(signs_), n, found.data()) ==
          static_cast<std::size_t>(std::count(same.begin(), same.end(), 1)));
    CHECK(found == same);
    const auto rows = scan_all(view, row_bytes, 5);
    for (std::size_t i = 0; i < n; ++i) {
      const auto at = rows.find(signs_[i]);
      if (at == rows.end()) {
        see(i, nullptr);
      } else {
        see(i, at->second.second.data(), &at->second.first);
      }
    }
    for (const auto& [sign, row] : rows) CHECK(states_.contains(sign));
  }

  // Whether a table's tombstones may have been dropped by a rebuild.
  bool forgets() const { return forgets_; }

 private:
  bool is(const std::optional<Known>& known, std::uint64_t sign, const std::byte* row,
          const std::uint32_t* ordinal) {
    if (!known || !known->is_row) return row == nullptr;
    if (row == nullptr || (ordinal && *ordinal != known->ordinal)) return false;
    std::vector<std::byte>& wanted = (*made_)[{sign, known->version}];
    if (wanted.empty()) wanted = row_of(sign, known->version, shape_.bytes());
    return std::memcmp(row, wanted.data(), wanted.size()) == 0;
  }

  RowShape shape_;
  bool forgets_;
  Model last_;
  std::map<std::uint64_t, std::vector<std::optional<Known>>> states_;
  std::vector<std::uint64_t> signs_;
  std::vector<std::size_t> seen_;
  std::vector<std::byte> rows_;
  using Rows = std::map<std::pair<std::uint64_t, std::uint64_t>, std::vector<std::byte>>;
  std::shared_ptr<Rows> made_ = std::make_shared<Rows>();  // shared by copies: making them takes time
};

// Files, words and counts of a table that nobody is changing.
void check_folder(const Folder& folder, const Writer& writer) {
  const Mapping mapping = std::move(*read_only_folder_memory(folder.path())->open(kDirectoryFile));
  const Directory& directory = directory_in(mapping);
  std::set<std::string> named{kDirectoryFile};
  for (const auto& word : directory.words) named.insert(Segment::file_name(word.load()));
  CHECK(folder.names() == named);
  CHECK(directory.rows.load() == writer.size() && writer.view().size() == writer.size());
  CHECK(directory.redo.operation.load() == 0);
  CHECK(directory.announced[0].load() == 0 && directory.announced[1].load() == 0);
  for (const auto& word : directory.words) CHECK(word.load() < directory.next_segment.load());
  CHECK(writer.view().bytes() == folder.bytes());
}

// Every sign of `model`, its ordinal, and nothing else.
void check_state(Writer& writer, const TableView& other, const Model& model, RowShape shape, bool forgets) {
  for (const TableView* view : {&writer.view(), &other}) {
    const auto rows = scan_all(*view, shape.bytes());
    CHECK(rows.size() == model.rows() && writer.size() == model.rows());
    for (const auto& [sign, known] : model.known()) {
      const auto at = rows.find(sign);
      CHECK((at != rows.end()) == known.is_row);
      if (!known.is_row) continue;
      CHECK(at->second.first == known.ordinal);
      CHECK(at->second.second == row_of(sign, known.version, shape.bytes()));
    }
  }
  // Tombstones are there: nothing older comes back.
  if (forgets) return;
  for (const auto& [sign, known] : model.known()) {
    if (known.ordinal == 0) continue;
    CHECK(run(writer, {Call::kUpsert, {sign}, known.ordinal - 1, 999}, shape) == 0);
  }
}

// A recovery of `folder`, as if the writer had been killed now; then its calls again. `stops`: is stopped.
void check_recovery(const Folder& folder, History& history, const std::vector<Call>& calls, Stops* stops) {
  const std::unique_ptr<TableView> before = attach(folder);
  history.look_at(*before);
  const std::unique_ptr<Writer> writer = recover(folder, stops);
  history.look_at(*before);
  history.look_at(writer->view());
  check_folder(folder, *writer);
  CHECK(writer->size() == scan_all(writer->view(), history.shape().bytes()).size());
  if (calls.empty()) return;
  for (const Call& call : calls) run(*writer, call, history.shape());
  history.look_at(*before);
  check_folder(folder, *writer);
  check_state(*writer, *before, history.last(), history.shape(), history.forgets());
}

struct Scenario {
  const char* name;
  RowShape shape;
  std::vector<Call> before;
  std::vector<Call> calls;
  std::size_t stride = 1;           // of stops in runs of like stores
  std::size_t recovery_stride = 0;  // every how many stops a recovery is stopped itself; 0: none
  std::size_t least_files = 1;      // segments in the end
};

std::size_t recovery_stride(const Scenario& scenario) {
  switch (kBuild) {
    case Build::kPlain:
      return scenario.recovery_stride;
    case Build::kAddressSanitizer:
      return scenario.recovery_stride * 10;
    default:
      return 0;
  }
}

void step_through(const Scenario& scenario) {
  const auto begin = std::chrono::steady_clock::now();
  const RowShape shape = scenario.shape;
  Folder live, copy, second;
  std::size_t looks = 0, recoveries = 0;

  Model before;
  bool forgets = false;
  std::unique_ptr<TableView> attached, own;
  std::unique_ptr<Writer> writer;
  {
    writer = Writer::create(shape, 0, folder_memory(live.path()), some_boot(), 1);
    for (const Call& call : scenario.before) {
      const std::size_t count = run(*writer, call, shape);
      CHECK(count == before.run(call));
    }
    for (const Call& call : scenario.calls) forgets |= call.kind == Call::kForget;
    for (const Call& call : scenario.before) forgets |= call.kind == Call::kForget;
  }
  writer.reset();
  History history(before, scenario.calls, shape, forgets);

  const auto look = [&] {
    ++looks;
    if (!attached) return;  // while the writer is made
    if (kBuild != Build::kPlain && shape.dim > 1000 && looks % 7 != 0) return;
    history.look_at(*attached);
    history.look_at(*attach(live));
    if (writer) history.look_at(writer->view());
    copy_files(live, copy);
    // What is seen of the copy's recovery is no promise for the live table.
    History later = history;
    check_recovery(copy, later, scenario.calls, nullptr);
    const std::size_t every = recovery_stride(scenario);
    if (every && looks % every == 0) {
      copy_files(live, copy);
      History halfway = history;
      const auto look_again = [&] {
        ++recoveries;
        halfway.look_at(*attach(copy));
        copy_files(copy, second);
        History end = halfway;
        check_recovery(second, end, scenario.calls, nullptr);
      };
      Stops again(std::max(scenario.stride, kStride), look_again);
      check_recovery(copy, halfway, {}, &again);
    }
  };
  Stops all(std::max(scenario.stride, kStride), look);
  writer = recover(live, &all);
  attached = attach(live);
  Model after = before;
  for (const Call& call : scenario.calls) {
    const std::size_t count = run(*writer, call, shape);
    CHECK(count == after.run(call));
  }
  look();
  check_folder(live, *writer);
  CHECK(live.names().size() >= scenario.least_files + 1);
  check_state(*writer, *attached, after, shape, forgets);
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - begin;
  std::printf("  %-40s %6zu stops, %6zu of recoveries, %5.1f s\n", scenario.name, looks, recoveries,
              time.count());
}

std::vector<std::uint64_t> numbers(std::uint64_t from, std::size_t n) {
  std::vector<std::uint64_t> signs(n);
  for (std::size_t i = 0; i < n; ++i) signs[i] = from + i;
  return signs;
}

// Of the one segment of a table that was made for no rows.
std::size_t first_buckets(RowShape shape) {
  const auto shares = table_growth::initial_shares(0, shape.words());
  CHECK(shares.size() == 1);
  return shares[0].bucket_count;
}

std::vector<std::uint64_t> joined(std::vector<std::uint64_t> one, const std::vector<std::uint64_t>& two) {
  one.insert(one.end(), two.begin(), two.end());
  return one;
}

// Operations on single buckets, for one shape.
void step_through_operations(RowShape shape) {
  const std::size_t buckets = first_buckets(shape);
  const std::vector<std::uint64_t> extremes{0, ~std::uint64_t{0}, 5};
  const auto at = [&](const char* name, std::vector<Call> before, std::vector<Call> calls) {
    // Recoveries are stopped everywhere for one shape: the others differ in the length of rows only.
    const std::size_t recoveries = shape == RowShape{13, RowType::kFloat16} ? 1 : 7;
    step_through(
        {name, shape, std::move(before), std::move(calls), shape.words() > 100 ? 97u : 1u, recoveries});
  };
  at("insert", {}, {{Call::kUpsert, extremes, 3, 1}});
  at("overwrite, a sign twice", {{Call::kUpsert, extremes, 3, 1}},
     {{Call::kUpsert, {0, 5}, 3, 2}, {Call::kUpsert, {5, ~std::uint64_t{0}, 5}, 4, 3}});
  at("older", {{Call::kUpsert, extremes, 3, 1}}, {{Call::kUpsert, {0, 7}, 2, 2}, {Call::kErase, {5}, 2}});
  at("erase", {{Call::kUpsert, extremes, 3, 1}}, {{Call::kErase, {5, 8, 0, 5}, 3}});
  at("revive", {{Call::kUpsert, extremes, 3, 1}, {Call::kErase, {5, 9}, 4}},
     {{Call::kUpsert, {5, 9, 11}, 4, 2}, {Call::kErase, {9}, 5}});
  // Back to what was before: older rows, tombstones, and signs that were not there.
  at("restore", {{Call::kUpsert, extremes, 3, 1}, {Call::kErase, {5, 9}, 4}},
     {{Call::kUpsert, {0, 5, 11}, 6, 2},
      {Call::kErase, {~std::uint64_t{0}}, 6},
      {Call::kRestore,
       {0, 5, 11, ~std::uint64_t{0}, 12},
       0,
       0,
       0,
       {Known{true, 3, 1}, Known{false, 4, 0}, std::nullopt, Known{true, 3, 1}, std::nullopt}}});
  at("restore what is not there", {{Call::kUpsert, {1}, 3, 1}},
     {{Call::kRestore, {5, 6, 7}, 0, 0, 0, {Known{true, 2, 1}, Known{false, 8, 0}, std::nullopt}}});
  if (buckets < 4) return;
  // A chain of three buckets that begins in the last but one, so that it goes on in the first. Call by call
  // and in one batch: there the record of the insertion that fills a bucket is in force when the next one
  // marks it as overflowed.
  const std::vector<std::uint64_t> chain = signs_at_home(buckets - 2, buckets, 24);
  const std::vector<std::uint64_t> next = signs_at_home(buckets - 1, buckets, 3);
  const std::vector<std::uint64_t> some(chain.begin(), chain.begin() + 6);
  at("chain", {{Call::kUpsert, some, 1, 1}},
     {{Call::kUpsert, {chain.begin() + 6, chain.begin() + 9}, 2, 2},
      {Call::kUpsert, joined({chain.begin() + 9, chain.begin() + 16}, next), 3, 3},
      {Call::kErase, {chain[0], chain[8], chain[15], chain[16]}, 3},
      {Call::kUpsert, {chain[15], chain[17], chain[0]}, 4, 4}});
}

Call filling(RowShape shape, std::uint32_t ordinal = 1) {
  return {Call::kUpsert, numbers(100, table_growth::max_used(first_buckets(shape))), ordinal, 1};
}

// How many of `signs` a new table takes with one segment.
std::size_t rows_before_split(RowShape shape, const std::vector<std::uint64_t>& signs) {
  Folder folder;
  const auto writer = Writer::create(shape, 0, folder_memory(folder.path()), some_boot(), 1);
  std::size_t rows = 0;
  while (folder.names().size() == 2) run(*writer, {Call::kUpsert, {signs.at(rows++)}}, shape);
  return rows - 1;
}

// Rebuilds: a segment grows, is split, unevenly, by reserve(); tombstones are dropped.
void step_through_growth() {
  const RowShape small{1, RowType::kFloat32}, large{4096, RowType::kFloat32};
  const Call full = filling(small);
  const std::vector<std::uint64_t> some(full.signs.begin(), full.signs.begin() + 20);
  step_through({"grow", small, {full}, {{Call::kUpsert, {1, 100, 2}, 2, 2}}, 7, 37});
  step_through({"grow with an erasure",
                {13, RowType::kFloat16},
                {filling({13, RowType::kFloat16}), {Call::kErase, {103}, 2}},
                {{Call::kErase, {1, 101}, 2, 2}},
                67,
                11});
  step_through(
      {"grow by a restoration",
       small,
       {full},
       {{Call::kRestore, {1, 100, 2}, 0, 0, 0, {Known{true, 9, 2}, Known{true, 0, 3}, Known{false, 1, 0}}}},
       67,
       37});
  step_through({"grow and forget tombstones",
                small,
                {full, {Call::kErase, some, 4}, {Call::kForget, {}, 4}, {Call::kErase, {101, 102}, 5}},
                {{Call::kForget, {}, 5}, {Call::kUpsert, {1, 2, 101}, 6, 2}},
                67,
                11});
  step_through({"reserve", small, {full}, {{Call::kReserve, {}, 0, 0, 1000}}, 67, 31});
  step_through({"reserve, in parts",
                large,
                {{Call::kUpsert, {1, 2, 3, 4, 5}, 1, 1}},
                {{Call::kReserve, {}, 0, 0, 200}, {Call::kUpsert, {3, 6}, 2, 2}},
                1021,
                11,
                2});
  // A segment that comes to 2 MiB is split. The signs of the second case all belong to one half, which then
  // is too small.
  std::vector<std::uint64_t> lower;
  for (std::uint64_t sign = 0; lower.size() < 300; ++sign) {
    if (entry_of(sign_hash(sign)) < kEntries / 2) lower.push_back(sign);
  }
  for (const auto& [name, signs] :
       {std::pair{"split in two", numbers(100, 300)}, std::pair{"split unevenly", lower}}) {
    const auto all = static_cast<std::ptrdiff_t>(rows_before_split(large, signs));
    step_through({name,
                  large,
                  {{Call::kUpsert, {signs.begin(), signs.begin() + all}, 1, 1}},
                  {{Call::kUpsert, {signs.begin() + all, signs.begin() + all + 2}, 2, 2}},
                  1021,
                  41,
                  2});
  }
}

// Creation: there is no table, or an empty one; and then one can be made.
void step_through_creation(RowShape shape, std::size_t rows) {
  Folder live, copy;
  std::size_t looks = 0, tables = 0;
  const auto look = [&] {
    ++looks;
    copy_files(live, copy);
    if (copy.names().contains(kDirectoryFile)) {
      ++tables;
      CHECK(attach(copy)->size() == 0);
      const std::unique_ptr<Writer> writer = recover(copy);
      check_folder(copy, *writer);
      CHECK(writer->size() == 0 && run(*writer, {Call::kUpsert, {1, 2}, 1, 1}, shape) == 2);
    } else {
      CHECK_THROWS(TableError, attach(copy));
      CHECK_THROWS(TableError, recover(copy));
      const auto writer = Writer::create(shape, rows, folder_memory(copy.path()), some_boot(), 1);
      check_folder(copy, *writer);
      CHECK(run(*writer, {Call::kUpsert, {1, 2}, 1, 1}, shape) == 2);
    }
  };
  Stops stops(std::max<std::size_t>(67, kStride), look);
  const auto writer =
      Writer::create(shape, rows, std::make_unique<StoppingMemory>(live, &stops), some_boot(), 1, {&stops});
  look();
  check_folder(live, *writer);
  CHECK(tables >= 2 && looks > tables + 10);
}

}  // namespace

int main() {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  ::alarm(600);  // a reader that waits for a writer that is stopped would wait for ever
  std::vector<RowShape> shapes{{13, RowType::kFloat16}};
  if (kBuild != Build::kThreadSanitizer) {
    shapes = {{1, RowType::kFloat32},
              {13, RowType::kFloat16},
              {13, RowType::kFloat32},
              {16, RowType::kFloat32},
              {4096, RowType::kFloat16}};
  }
  for (const RowShape shape : shapes) {
    std::printf("dim %zu, %s\n", shape.dim, shape.type == RowType::kFloat32 ? "float32" : "float16");
    step_through_operations(shape);
  }
  if (kBuild != Build::kThreadSanitizer) {
    std::printf("growth\n");
    step_through_growth();
    step_through_creation({16, RowType::kFloat32}, 0);
    step_through_creation({16, RowType::kFloat32}, 70'000);
  }
  std::puts("table_writer: ok");
}
