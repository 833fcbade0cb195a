// A generation read by others than its writer: rows, growth, new tables, the writer's death, and all that is
// refused.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <thread>
#include <vector>

#include "check.h"
#include "satrap/table.h"
#include "satrap/table_control.h"
#include "satrap/table_generation.h"
#include "satrap/table_reader.h"

#if defined(__SANITIZE_THREAD__)
// A child of a fork starts threads here, which is the point.
extern "C" const char* __tsan_default_options() { return "die_after_fork=0"; }
#endif

namespace fs = std::filesystem;
using satrap::GenerationState;
using satrap::ReaderState;
using satrap::RowType;
using satrap::Table;
using satrap::TableError;
using satrap::TableGeneration;
using satrap::TableReader;
using satrap::TableSpaceError;

namespace {

// A folder in shared memory that is removed with its owner.
struct Folder {
  Folder() {
    char name[] = "/dev/shm/satrap-reader-XXXXXX";
    CHECK(::mkdtemp(name));
    path = name;
  }
  ~Folder() { fs::remove_all(path); }
  std::string generation() const { return path + "/00000001"; }
  std::string path;
};

satrap::InstanceId instance(int number = 7) {
  satrap::InstanceId id;
  id.fill(static_cast<std::byte>(number));
  return id;
}

std::unique_ptr<TableGeneration> make(const std::string& folder) {
  return TableGeneration::create(
      folder, {.instance = instance(), .boot = satrap::present_boot(), .replica_index = 0, .replica_size = 1},
      {}, {});
}

std::unique_ptr<TableGeneration> recover(const std::string& folder) {
  return TableGeneration::recover(folder, satrap::present_boot(), 0, 1);
}

std::vector<std::uint64_t> numbers(std::uint64_t first, std::size_t n) {
  std::vector<std::uint64_t> signs(n);
  std::iota(signs.begin(), signs.end(), first);
  return signs;
}

const std::byte* bytes(const std::vector<std::uint64_t>& signs) {
  return reinterpret_cast<const std::byte*>(signs.data());
}

// Row of a sign: all its values are sign + version.
float value(std::uint64_t sign, unsigned version) {
  return static_cast<float>(sign % 100'000) + static_cast<float>(version);
}

void write(Table& table, const std::vector<std::uint64_t>& signs, unsigned version = 0) {
  std::vector<float> rows(signs.size() * table.dim());
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = value(signs[i / table.dim()], version);
  CHECK(table.upsert(bytes(signs), reinterpret_cast<const std::byte*>(rows.data()), signs.size(),
                     RowType::kFloat32, version) == signs.size());
}

struct Rows {
  std::vector<float> values;
  TableReader::Counts counts;
};

Rows look_up(const TableReader& reader, std::size_t dim, const std::vector<std::uint64_t>& signs) {
  const TableReader::Use use(reader);
  CHECK(use.type_of(dim) == RowType::kFloat32);
  Rows rows{std::vector<float>(signs.size() * dim, -1.0f), {}};
  rows.counts =
      use.lookup({dim, bytes(signs), signs.size()}, reinterpret_cast<std::byte*>(rows.values.data()));
  return rows;
}

void check_rows(const TableReader& reader, std::size_t dim, const std::vector<std::uint64_t>& signs,
                unsigned version = 0) {
  const Rows rows = look_up(reader, dim, signs);
  CHECK(rows.counts.missing == 0 && rows.counts.dim_mismatch == 0);
  for (std::size_t i = 0; i < rows.values.size(); ++i)
    CHECK(rows.values[i] == value(signs[i / dim], version));
}

template <class Condition>
void wait_until(const Condition& condition, std::chrono::milliseconds limit = std::chrono::seconds(10)) {
  const auto deadline = std::chrono::steady_clock::now() + limit;
  while (!condition()) {
    CHECK(std::chrono::steady_clock::now() < deadline);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

// The statement must throw a TableError that says `reason`.
template <class Statement>
void check_refused(const std::string& reason, const Statement& statement) {
  try {
    statement();
  } catch (const TableError& error) {
    if (std::string(error.what()).find(reason) == std::string::npos)
      std::fprintf(stderr, "said: %s\n", error.what());
    CHECK(std::string(error.what()).find(reason) != std::string::npos);
    return;
  }
  CHECK(!"TableError expected");
}

void test_the_rules_of_life() {
  const auto never = [] {
    CHECK(!"the lock is not asked for");
    return false;
  };
  const auto locked = [] { return true; };
  const auto unlocked = [] { return false; };
  using enum GenerationState;
  CHECK(satrap::judge(kServing, 0, never) == ReaderState::kLive);
  CHECK(satrap::judge(kServing, 250'000'000, never) == ReaderState::kLive);
  CHECK(satrap::judge(kServing, 250'000'001, locked) == ReaderState::kLive);
  CHECK(satrap::judge(kServing, 250'000'001, unlocked) == ReaderState::kOrphaned);
  CHECK(satrap::judge(kServing, 1'000'000'000, locked) == ReaderState::kLive);
  CHECK(satrap::judge(kServing, 1'000'000'001, never) == ReaderState::kOrphaned);
  CHECK(satrap::judge(kServing, -1, never) == ReaderState::kOrphaned);
  CHECK(satrap::judge(kAbandoned, 0, never) == ReaderState::kAbandoned);
}

void test_rows_of_all_tables() {
  const Folder folder;
  const auto generation = make(folder.generation());
  const auto small = generation->add_table(4, RowType::kFloat32, 1000, 1);
  const auto large = generation->add_table(16, RowType::kFloat32, 1000, 1);
  write(*small, numbers(0, 1000));
  write(*large, numbers(5000, 1000));
  generation->serve();
  const TableReader reader(folder.generation(), instance(), ::getuid());
  check_rows(reader, 4, numbers(0, 1000));
  check_rows(reader, 16, numbers(5000, 1000));
  CHECK(reader.condition().state == ReaderState::kLive);

  // Of dim 4: two that nobody has, three that dim 16 has, one that is there.
  const Rows mixed = look_up(reader, 4, {999, 4000, 4001, 5000, 5001, 5999});
  CHECK(mixed.counts.missing == 2 && mixed.counts.dim_mismatch == 3);
  for (std::size_t i = 0; i < mixed.values.size(); ++i) CHECK(mixed.values[i] == (i < 4 ? 999.0f : 0.0f));
  // Of a dim that has no table.
  const Rows none = look_up(reader, 8, {1, 2, 5000, 7000});
  CHECK(none.counts.missing == 1 && none.counts.dim_mismatch == 3);
  for (const float each : none.values) CHECK(each == 0.0f);
  CHECK(look_up(reader, 4, {}).counts.missing == 0);

  generation->set_watermark({17, 123'456});
  CHECK((reader.watermark() == satrap::Watermark{17, 123'456}));
}

void test_a_generation_without_tables() {
  const Folder folder;
  const auto generation = make(folder.generation());
  generation->serve();
  const TableReader reader(folder.generation(), instance(), ::getuid());
  const Rows rows = look_up(reader, 4, {1, 2});
  CHECK(rows.counts.missing == 2 && rows.values == std::vector<float>(8, 0.0f));
}

void test_half_rows() {
  const Folder folder;
  const auto generation = make(folder.generation());
  const auto table = generation->add_table(6, RowType::kFloat16, 100, 1);
  write(*table, numbers(1, 100));
  generation->serve();
  const TableReader reader(folder.generation(), instance(), ::getuid());
  const TableReader::Use use(reader);
  CHECK(use.type_of(6) == RowType::kFloat16);
  CHECK(use.type_of(8) == RowType::kFloat16);
  const auto signs = numbers(1, 100);
  std::vector<std::uint16_t> rows(600), expected(600);
  CHECK(use.lookup({6, bytes(signs), 100}, reinterpret_cast<std::byte*>(rows.data())).missing == 0);
  CHECK(table->lookup(bytes(signs), 100, reinterpret_cast<std::byte*>(expected.data()), nullptr) == 0);
  CHECK(rows == expected);
}

// Every batch that was written is there at once, whatever segments it went into.
void test_growth_is_followed() {
  const Folder folder;
  const auto generation = make(folder.generation());
  const auto table = generation->add_table(16, RowType::kFloat32, 1000, 1);
  generation->serve();
  const TableReader reader(folder.generation(), instance(), ::getuid());
  std::atomic<bool> done{false};
  // One that reads what is there all the time, beside the one that checks.
  std::thread other([&] {
    const auto early = numbers(0, 100);
    while (!done.load()) {
      const Rows rows = look_up(reader, 16, early);
      for (std::size_t i = 0; i < rows.values.size(); ++i) {
        CHECK(rows.values[i] == 0.0f || rows.values[i] == value(early[i / 16], 0));
      }
    }
  });
  for (std::uint64_t first = 0; first < 200'000; first += 5000) {
    write(*table, numbers(first, 5000));
    check_rows(reader, 16, numbers(first, 5000));
  }
  check_rows(reader, 16, numbers(0, 200'000));
  done.store(true);
  other.join();
  // What was replaced is unmapped: only files that are there are mapped (deleted ones are marked so).
  const std::string marker = " (deleted)";
  wait_until([&] {
    std::FILE* maps = std::fopen("/proc/self/maps", "r");
    CHECK(maps);
    char line[512];
    std::size_t gone = 0;
    while (std::fgets(line, sizeof line, maps)) {
      const std::string text(line);
      // The writer maps read-write, the reader read-only.
      gone += text.find(folder.path) != std::string::npos && text.find(marker) != std::string::npos &&
              text.find("r--s") != std::string::npos;
    }
    std::fclose(maps);
    return gone == 0;
  });
}

void test_tables_that_are_added_later() {
  const Folder folder;
  const auto generation = make(folder.generation());
  generation->serve();
  const TableReader reader(folder.generation(), instance(), ::getuid());
  CHECK(look_up(reader, 4, {1}).counts.missing == 1);
  for (const std::size_t dim : {4, 8, 12}) {
    const auto table = generation->add_table(dim, RowType::kFloat32, 10, 1);
    write(*table, numbers(dim, 3));
    check_rows(reader, dim, numbers(dim, 3));
  }
  CHECK(look_up(reader, 4, {8, 100}).counts.dim_mismatch == 1);
}

void test_a_writer_that_goes_and_comes_back() {
  const Folder folder;
  auto generation = make(folder.generation());
  write(*generation->add_table(4, RowType::kFloat32, 10, 1), {1, 2, 3});
  generation->serve();
  const TableReader reader(folder.generation(), instance(), ::getuid());
  CHECK(reader.condition().state == ReaderState::kLive);
  generation.reset();
  wait_until([&] { return reader.condition().state == ReaderState::kOrphaned; },
             std::chrono::milliseconds(900));
  CHECK(reader.condition().silent_ns > 250'000'000);
  check_rows(reader, 4, {1, 2, 3});
  generation = recover(folder.generation());
  wait_until([&] { return reader.condition().state == ReaderState::kLive; });
  write(*generation->tables().at(4), {4, 5});
  check_rows(reader, 4, {1, 2, 3, 4, 5});
  generation->abandon();
  CHECK(reader.condition().state == ReaderState::kAbandoned);
  generation->remove();
  CHECK(reader.condition().state == ReaderState::kAbandoned);
  check_rows(reader, 4, {1, 2, 3, 4, 5});  // still mapped
  check_refused("", [&] { TableReader(folder.generation(), instance(), ::getuid()); });
}

// A writer in a process of its own, killed in the middle of its work.
void test_a_writer_that_is_killed() {
  const Folder folder;
  int ready[2];
  CHECK(::pipe(ready) == 0);
  const pid_t writer = ::fork();
  CHECK(writer >= 0);
  if (writer == 0) {
    const auto generation = make(folder.generation());
    const auto table = generation->add_table(8, RowType::kFloat32, 1000, 1);
    const auto signs = numbers(0, 1000);
    write(*table, signs);
    generation->serve();
    CHECK(::write(ready[1], "r", 1) == 1);
    for (unsigned version = 1;; ++version) write(*table, signs, version);
  }
  char byte;
  CHECK(::read(ready[0], &byte, 1) == 1);
  const TableReader reader(folder.generation(), instance(), ::getuid());
  const auto signs = numbers(0, 1000);
  const auto check_whole = [&] {
    const Rows rows = look_up(reader, 8, signs);
    CHECK(rows.counts.missing == 0);
    for (std::size_t i = 0; i < rows.values.size(); ++i) CHECK(rows.values[i] == rows.values[i / 8 * 8]);
  };
  for (int i = 0; i < 200; ++i) check_whole();
  CHECK(reader.condition().state == ReaderState::kLive);
  CHECK(::kill(writer, SIGKILL) == 0);
  CHECK(::waitpid(writer, nullptr, 0) == writer);
  const auto killed = std::chrono::steady_clock::now();
  wait_until([&] { return reader.condition().state == ReaderState::kOrphaned; });
  CHECK(std::chrono::steady_clock::now() - killed < std::chrono::milliseconds(700));
  for (int i = 0; i < 200; ++i) check_whole();  // nobody waits for the row that it was in
  ::close(ready[0]);
  ::close(ready[1]);
}

// A stopped writer holds its lock; its silence tells.
void test_a_writer_that_is_stopped() {
  const Folder folder;
  int ready[2];
  CHECK(::pipe(ready) == 0);
  const pid_t writer = ::fork();
  CHECK(writer >= 0);
  if (writer == 0) {
    const auto generation = make(folder.generation());
    write(*generation->add_table(4, RowType::kFloat32, 10, 1), {1});
    generation->serve();
    CHECK(::write(ready[1], "r", 1) == 1);
    for (;;) ::pause();
  }
  char byte;
  CHECK(::read(ready[0], &byte, 1) == 1);
  const TableReader reader(folder.generation(), instance(), ::getuid());
  CHECK(::kill(writer, SIGSTOP) == 0);
  CHECK(::waitpid(writer, nullptr, WUNTRACED) == writer);
  wait_until([&] { return reader.condition().state == ReaderState::kOrphaned; });
  CHECK(reader.condition().silent_ns >= 1'000'000'000);
  CHECK(::kill(writer, SIGCONT) == 0);
  wait_until([&] { return reader.condition().state == ReaderState::kLive; });
  CHECK(::kill(writer, SIGKILL) == 0);
  CHECK(::waitpid(writer, nullptr, 0) == writer);
  ::close(ready[0]);
  ::close(ready[1]);
}

void test_close_while_others_look_up() {
  const Folder folder;
  const auto generation = make(folder.generation());
  write(*generation->add_table(16, RowType::kFloat32, 20'000, 1), numbers(0, 20'000));
  generation->serve();
  for (int round = 0; round < 20; ++round) {
    TableReader reader(folder.generation(), instance(), ::getuid());
    std::atomic<int> running{0};
    std::vector<std::thread> threads;
    for (int i = 0; i < 3; ++i) {
      threads.emplace_back([&] {
        const auto signs = numbers(0, 20'000);
        try {
          for (;;) {
            check_rows(reader, 16, signs);
            ++running;
          }
        } catch (const TableError& error) {
          CHECK(std::string(error.what()).find("closed") != std::string::npos);
        }
      });
    }
    wait_until([&] { return running.load() > 3; });
    reader.close();
    reader.close();
    for (std::thread& thread : threads) thread.join();
    check_refused("closed", [&] { reader.condition(); });
    check_refused("closed", [&] { reader.watermark(); });
  }
}

// A child of a fork uses nothing that its parent attached; it attaches for itself.
void test_attach_in_a_forks_child() {
  const Folder folder;
  const auto generation = make(folder.generation());
  const auto table = generation->add_table(4, RowType::kFloat32, 1000, 1);
  write(*table, numbers(0, 1000));
  generation->serve();
  auto inherited = std::make_unique<TableReader>(folder.generation(), instance(), ::getuid());
  int step[2];
  CHECK(::pipe(step) == 0);
  const pid_t child = ::fork();
  CHECK(child >= 0);
  if (child == 0) {
    inherited.reset();
    const TableReader reader(folder.generation(), instance(), ::getuid());
    check_rows(reader, 4, numbers(0, 1000));
    char byte;
    CHECK(::read(step[0], &byte, 1) == 1);
    check_rows(reader, 4, numbers(0, 50'000));
    CHECK(reader.condition().state == ReaderState::kLive);
    std::_Exit(0);
  }
  write(*table, numbers(1000, 49'000));
  CHECK(::write(step[1], "w", 1) == 1);
  int status = 0;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  check_rows(*inherited, 4, numbers(0, 50'000));
  ::close(step[0]);
  ::close(step[1]);
}

// ---- what is refused --------------------------------------------------------------------------------------

struct Served : Folder {
  Served() : generation_(make(generation())) {
    write(*generation_->add_table(4, RowType::kFloat32, 1000, 1), numbers(0, 1000));
    generation_->serve();
  }
  void attach() const { TableReader(generation(), instance(), ::getuid()); }
  std::string control() const { return generation() + "/control"; }
  std::string table() const { return generation() + "/4-float32"; }
  std::string segment() const {
    for (const auto& file : fs::directory_iterator(table())) {
      if (file.path().filename().string().starts_with("segment-")) return file.path();
    }
    CHECK(!"there is a segment");
    return {};
  }
  std::unique_ptr<TableGeneration> generation_;
};

void flip(const std::string& path, off_t at) {
  const int file = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  CHECK(file >= 0);
  unsigned char byte;
  CHECK(::pread(file, &byte, 1, at) == 1);
  byte ^= 0x10;
  CHECK(::pwrite(file, &byte, 1, at) == 1);
  ::close(file);
}

void test_others_are_refused() {
  const Served served;
  served.attach();
  check_refused("of another instance", [&] { TableReader(served.generation(), instance(8), ::getuid()); });
  check_refused("cannot be examined",
                [&] { TableReader(served.path + "/00000002", instance(), ::getuid()); });
  check_refused("no folder", [&] { TableReader(served.control(), instance(), ::getuid()); });
  fs::create_directory_symlink(served.generation(), served.path + "/link");
  check_refused("no folder", [&] { TableReader(served.path + "/link", instance(), ::getuid()); });
  if (::getuid() == 0) {
    // Root's tables are everybody's; another user's are not.
    TableReader(served.generation(), instance(), 12345);
    CHECK(::chown(served.control().c_str(), 54321, static_cast<gid_t>(-1)) == 0);
    check_refused("belongs to user 54321", [&] { TableReader(served.generation(), instance(), 12345); });
    TableReader(served.generation(), instance(), 54321);
    CHECK(::chown(served.control().c_str(), 0, static_cast<gid_t>(-1)) == 0);
    CHECK(::chown(served.table().c_str(), 54321, static_cast<gid_t>(-1)) == 0);
    check_refused("belongs to user 54321", [&] { TableReader(served.generation(), instance(), 12345); });
    CHECK(::chown(served.table().c_str(), 0, static_cast<gid_t>(-1)) == 0);
  } else {
    check_refused("belongs to user", [&] { TableReader(served.generation(), instance(), ::getuid() + 1); });
  }
  served.attach();
  const std::string moved = served.path + "/control";
  fs::rename(served.control(), moved);
  check_refused("control", [&] { served.attach(); });
  fs::create_symlink(moved, served.control());
  check_refused("refused", [&] { served.attach(); });
}

void test_generations_that_are_not_served_are_refused() {
  const Folder folder;
  const auto generation = make(folder.generation());
  check_refused("is loading", [&] { TableReader(folder.generation(), instance(), ::getuid()); });
  generation->serve();
  generation->abandon();
  check_refused("is abandoned", [&] { TableReader(folder.generation(), instance(), ::getuid()); });
}

void test_damage_is_refused() {
  {
    const Served served;
    for (off_t at = 0; at < static_cast<off_t>(sizeof(satrap::ControlHeader)); at += 3) {
      flip(served.control(), at);
      check_refused("control", [&] { served.attach(); });
      flip(served.control(), at);
    }
    served.attach();
    flip(served.control(), offsetof(satrap::ControlPage, state));
    check_refused("state is damaged", [&] { served.attach(); });
    flip(served.control(), offsetof(satrap::ControlPage, state));
    for (off_t at = 0; at < static_cast<off_t>(sizeof(satrap::DirectoryHeader)); at += 3) {
      flip(served.table() + "/directory", at);
      check_refused("directory", [&] { served.attach(); });
      flip(served.table() + "/directory", at);
    }
    for (off_t at = 0; at < static_cast<off_t>(sizeof(satrap::SegmentHeader)); at += 3) {
      flip(served.segment(), at);
      check_refused("segment-", [&] { served.attach(); });
      flip(served.segment(), at);
    }
    served.attach();
  }
  for (const auto& file : {&Served::control, &Served::segment}) {
    const Served served;
    const std::string path = (served.*file)();
    // A copy: cutting the writer's own file would kill the writer, which is this process.
    const std::string whole = path + ".whole";
    fs::rename(path, whole);
    for (const std::uintmax_t keep : {std::uintmax_t{0}, std::uintmax_t{40}, fs::file_size(whole) - 1}) {
      fs::copy_file(whole, path, fs::copy_options::overwrite_existing);
      fs::resize_file(path, keep);
      check_refused("", [&] { served.attach(); });
    }
    fs::rename(whole, path);
    served.attach();
    fs::remove(path);
    check_refused("", [&] { served.attach(); });
  }
}

// A table that appears and cannot be used: an error for that lookup, and for the next, until it can.
void test_a_damaged_table_that_is_added() {
  const Served served;
  const TableReader reader(served.generation(), instance(), ::getuid());
  const auto added = served.generation_->add_table(8, RowType::kFloat32, 10, 1);
  write(*added, {1});
  const std::string directory = served.generation() + "/8-float32/directory";
  flip(directory, 3);
  check_refused("directory", [&] { look_up(reader, 4, {1}); });
  check_refused("directory", [&] { look_up(reader, 8, {1}); });
  CHECK(reader.condition().state == ReaderState::kLive);
  flip(directory, 3);
  check_rows(reader, 8, {1});
  check_rows(reader, 4, {1});
}

void test_no_descriptors() {
  const Served served;
  const TableReader before(served.generation(), instance(), ::getuid());
  rlimit limit;
  CHECK(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const int next = ::dup(0);
  ::close(next);
  for (int spare = 0; spare < 2; ++spare) {
    const rlimit few{static_cast<rlim_t>(next + spare), limit.rlim_max};
    CHECK(::setrlimit(RLIMIT_NOFILE, &few) == 0);
    std::exception_ptr error;
    try {
      served.attach();
    } catch (...) {
      error = std::current_exception();
    }
    CHECK(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
    // Looked at now: a sanitizer needs descriptors to look at an object.
    bool thrown = false;
    try {
      CHECK(error);
      std::rethrow_exception(error);
    } catch (const TableSpaceError& space) {
      thrown = std::string(space.what()).find("ulimit -n") != std::string::npos;
    }
    CHECK(thrown);
  }
  check_rows(before, 4, {1, 2});
  served.attach();
}

}  // namespace

int main() {
  test_the_rules_of_life();
  test_rows_of_all_tables();
  test_a_generation_without_tables();
  test_half_rows();
  test_growth_is_followed();
  test_tables_that_are_added_later();
  test_a_writer_that_goes_and_comes_back();
  test_a_writer_that_is_killed();
  test_a_writer_that_is_stopped();
  test_close_while_others_look_up();
  test_attach_in_a_forks_child();
  test_others_are_refused();
  test_generations_that_are_not_served_are_refused();
  test_damage_is_refused();
  test_a_damaged_table_that_is_added();
  test_no_descriptors();
  std::puts("table_reader ok");
}
