// A table whose memory ends or whose files are damaged: an error that says which and what to do, and the
// table as it was.
#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fstream>
#include <functional>
#include <new>
#include <string>
#include <utility>

#include "../src/table_growth.h"
#include "../src/table_writer.h"
#include "satrap/table.h"
#include "table_support.h"

namespace {

using namespace satrap;
using namespace satrap::testing;

constexpr RowShape kShape{16, RowType::kFloat32};

std::unique_ptr<TableView> attach(const Folder& folder, const BootId& boot = some_boot()) {
  return TableView::attach(read_only_folder_memory(folder.path()), boot);
}

std::shared_ptr<Table> recover(const Folder& folder, const BootId& boot = some_boot()) {
  return Table::recover(folder_memory(folder.path()), boot);
}

std::vector<std::uint64_t> numbers(std::uint64_t from, std::size_t n) {
  std::vector<std::uint64_t> signs(n);
  for (std::size_t i = 0; i < n; ++i) signs[i] = from + i;
  return signs;
}

// `table` has exactly the model's rows.
template <class Scanned>
void check_rows(const Scanned& table, const Model& model, RowShape shape) {
  const auto rows = scan_all(table, shape.bytes(), 10'000);
  CHECK(rows.size() == model.rows() && table.size() == model.rows());
  for (const auto& [sign, known] : model.known()) {
    const auto at = rows.find(sign);
    CHECK((at != rows.end()) == known.is_row);
    if (known.is_row)
      CHECK(at->second == std::pair(known.ordinal, row_of(sign, known.version, shape.bytes())));
  }
}

void check_files(const Folder& folder, const Table& table) {
  const Mapping mapping = std::move(*read_only_folder_memory(folder.path())->open(kDirectoryFile));
  std::set<std::string> named{kDirectoryFile};
  for (const auto& word : directory_in(mapping).words) named.insert(Segment::file_name(word.load()));
  CHECK(folder.names() == named && folder.bytes() == table.bytes());
}

// The message of the exception that `act` must throw.
template <class Exception>
std::string message_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Exception& error) {
    return error.what();
  }
  CHECK(!"an exception was expected");
  return {};
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// ---- memory that ends ----

enum class Failure { kSpace, kFile, kHeap };

// Fails at the `nth` creation of a file from now on, and at every later one until told otherwise.
struct Limit {
  std::atomic<long> left{1L << 40};
  Failure failure = Failure::kSpace;
};

class FailingMemory final : public TableMemory {
 public:
  FailingMemory(std::unique_ptr<TableMemory> files, Limit& limit) : files_(std::move(files)), limit_(limit) {}

  Mapping create(const std::string& name, std::size_t bytes) override {
    if (limit_.left.fetch_sub(1) <= 0) {
      switch (limit_.failure) {
        case Failure::kSpace:
          throw TableSpaceError("no space");
        case Failure::kFile:
          throw TableError("no file");
        case Failure::kHeap:
          throw std::bad_alloc();
      }
    }
    return files_->create(name, bytes);
  }
  std::optional<Mapping> open(const std::string& name) override { return files_->open(name); }
  void rename(const std::string& from, const std::string& to) override { files_->rename(from, to); }
  void remove(const std::string& name) override { files_->remove(name); }
  std::vector<std::string> names() const override { return files_->names(); }
  std::string describe(const std::string& name) const override { return files_->describe(name); }

 private:
  std::unique_ptr<TableMemory> files_;
  Limit& limit_;
};

bool throws_any(const std::function<void()>& act) {
  try {
    act();
  } catch (const std::exception&) {
    return true;
  }
  return false;
}

// Runs `calls` while memory ends at the n-th file, for every n until it suffices.
void test_no_memory_for_a_call(RowShape shape, const std::vector<Call>& before,
                               const std::vector<Call>& calls, std::size_t least_failures) {
  for (const Failure failure : {Failure::kSpace, Failure::kFile, Failure::kHeap}) {
    if (kBuild == Build::kThreadSanitizer && failure != Failure::kSpace) continue;
    for (const bool is_private : {false, true}) {
      for (long n = 0;; ++n) {
        Folder folder;
        Limit limit;
        limit.failure = failure;
        auto table = Table::create(shape.dim, shape.type, 0,
                                   std::make_unique<FailingMemory>(
                                       is_private ? private_memory() : folder_memory(folder.path()), limit),
                                   some_boot());
        Model model;
        for (const Call& call : before) CHECK(run(*table, call, shape) == model.run(call));
        limit.left = n;
        const std::unique_ptr<TableView> attached = is_private ? nullptr : attach(folder);
        bool failed = false;
        for (const Call& call : calls) {
          const bool fails = throws_any([&] { run(*table, call, shape); });
          failed |= fails;
          // The rows before the one that did not fit are there.
          const std::size_t rows = table->size();
          for (const std::uint64_t sign : call.signs) {
            std::uint8_t found;
            table->contains(reinterpret_cast<const std::byte*>(&sign), 1, &found);
            if (fails && !found) break;
            model.apply(call, sign);
          }
          CHECK(model.rows() == rows);
          check_rows(*table, model, shape);
          if (attached) {
            check_rows(*attached, model, shape);
            check_files(folder, *table);
          }
          // What needs no room still works.
          const Call overwrite{Call::kUpsert, {before[0].signs[0]}, 77, 77};
          CHECK(run(*table, overwrite, shape) == model.run(overwrite));
        }
        limit.left = 1L << 40;
        for (const Call& call : calls) {
          run(*table, call, shape);
          model.run(call);
        }
        check_rows(*table, model, shape);
        if (attached) {
          check_rows(*attached, model, shape);
          check_files(folder, *table);
          table.reset();
          check_rows(*recover(folder), model, shape);
        }
        if (!failed) {
          CHECK(n >= static_cast<long>(least_failures));
          break;
        }
      }
    }
  }
}

void test_no_memory_for_growth() {
  const std::size_t small = table_growth::max_used(table_growth::initial_shares(0, 1)[0].bucket_count);
  // Several rebuilds of one segment.
  test_no_memory_for_a_call({1, RowType::kFloat32}, {{Call::kUpsert, numbers(1, small), 1, 1}},
                            {{Call::kUpsert, numbers(10'000, 600), 2, 2}}, 2);
  test_no_memory_for_a_call({1, RowType::kFloat32}, {{Call::kUpsert, numbers(1, small), 1, 1}},
                            {{Call::kReserve, {}, 0, 0, 5000}}, 1);
  // Splits, and a reservation of several files.
  test_no_memory_for_a_call({4096, RowType::kFloat32}, {{Call::kUpsert, numbers(1, 80), 1, 1}},
                            {{Call::kUpsert, numbers(10'000, 60), 2, 2}}, 3);
  test_no_memory_for_a_call({4096, RowType::kFloat32}, {{Call::kUpsert, numbers(1, 3), 1, 1}},
                            {{Call::kReserve, {}, 0, 0, 200}}, 2);
}

void test_no_memory_for_a_new_table() {
  for (const Failure failure : {Failure::kSpace, Failure::kFile, Failure::kHeap}) {
    for (const unsigned threads : {1u, 3u}) {
      long n = 0;
      for (;; ++n) {
        Folder folder;
        Limit limit;
        limit.failure = failure;
        limit.left = n;
        const auto make = [&] {
          return Table::create(kShape.dim, kShape.type, 100'000,
                               std::make_unique<FailingMemory>(folder_memory(folder.path()), limit),
                               some_boot(), threads);
        };
        if (!throws_any(make)) break;
        CHECK(folder.names().empty());
        CHECK(contains(message_of<TableError>([&] { recover(folder); }), folder.file(kDirectoryFile)));
        limit.left = 1L << 40;
        const auto table = make();
        check_files(folder, *table);
        CHECK(contains(message_of<TableError>([&] { make(); }), "already"));
        check_files(folder, *table);
      }
      CHECK(n >= 4);
    }
  }
}

// In a child process, which says by its exit status whether it went well.
void in_a_child(const std::function<void()>& act) {
  std::fflush(nullptr);
  const pid_t child = ::fork();
  CHECK(child >= 0);
  if (child == 0) {
    act();
    std::fflush(nullptr);
    ::_exit(0);
  }
  int status = 0;
  CHECK(::waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

void write_text(const char* path, const std::string& text) { std::ofstream(path) << text; }

// A file system of 16 MiB, seen by this process alone. False where that is not permitted.
bool mount_small(const std::string& path) {
  const uid_t uid = ::geteuid();
  const gid_t gid = ::getegid();
  if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0) {
    write_text("/proc/self/setgroups", "deny");
    write_text("/proc/self/uid_map", "0 " + std::to_string(uid) + " 1");
    write_text("/proc/self/gid_map", "0 " + std::to_string(gid) + " 1");
  } else if (::unshare(CLONE_NEWNS) != 0) {
    return false;
  }
  return ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
         ::mount("tmpfs", path.c_str(), "tmpfs", 0, "size=16m") == 0;
}

void test_full_file_system() {
  in_a_child([] {
    Folder mounted;
    if (!mount_small(mounted.path())) {
      std::printf("  skipped: no file system may be mounted here (%s)\n", std::strerror(errno));
      return;
    }
    const std::string path = mounted.file("table");
    CHECK(contains(message_of<TableSpaceError>(
                       [&] { Table::create(16, RowType::kFloat32, 1'000'000, folder_memory(path)); }),
                   "--shm-size"));
    CHECK(std::filesystem::is_empty(path));
    auto table = Table::create(16, RowType::kFloat32, 0, folder_memory(path), some_boot());
    const auto attached = TableView::attach(read_only_folder_memory(path), some_boot());
    Model model;
    std::string message;
    for (std::uint64_t from = 0; message.empty(); from += 1000) {
      const Call call{Call::kUpsert, numbers(from, 1000), 1, 1};
      try {
        CHECK(run(*table, call, kShape) == model.run(call));
      } catch (const TableSpaceError& error) {
        message = error.what();
        // Those before the row that found no room.
        const std::size_t rows = table->size();
        for (std::size_t i = 0; model.rows() > rows; ++i) {
          std::uint8_t found;
          table->contains(reinterpret_cast<const std::byte*>(&call.signs[i]), 1, &found);
          CHECK(i < call.signs.size());
        }
        Model shorter;
        for (std::uint64_t sign = 0; sign < rows; ++sign) {
          shorter.run({Call::kUpsert, {sign}, 1, 1});
        }
        model = shorter;
      }
    }
    CHECK(contains(message, path) && contains(message, "--shm-size") && contains(message, "table_directory"));
    CHECK(model.rows() > 50'000);
    check_rows(*table, model, kShape);
    check_rows(*attached, model, kShape);
    const Call again{Call::kUpsert, numbers(0, 100), 2, 2};
    CHECK(run(*table, again, kShape) == model.run(again));
    CHECK(contains(message_of<TableSpaceError>([&] { table->reserve(1'000'000); }), "--shm-size"));
    // It recovers as it is, and grows when there is room.
    table.reset();
    table = Table::recover(folder_memory(path), some_boot());
    check_rows(*table, model, kShape);
    CHECK(::mount("tmpfs", mounted.path().c_str(), "tmpfs", MS_REMOUNT, "size=64m") == 0);
    const Call more{Call::kUpsert, numbers(200'000, 50'000), 1, 1};
    CHECK(run(*table, more, kShape) == model.run(more));
    check_rows(*attached, model, kShape);
    CHECK(::umount2(mounted.path().c_str(), MNT_DETACH) == 0);
  });
}

// No descriptor is free while it lives.
class NoDescriptors {
 public:
  NoDescriptors() {
    CHECK(::getrlimit(RLIMIT_NOFILE, &before_) == 0);
    const int lowest = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
    CHECK(lowest >= 0 && ::close(lowest) == 0);
    set(static_cast<rlim_t>(lowest));
  }
  ~NoDescriptors() { set(before_.rlim_cur); }

 private:
  void set(rlim_t soft) {
    rlimit limit = before_;
    limit.rlim_cur = soft;
    CHECK(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  }
  rlimit before_;
};

void test_no_descriptors() {
  Folder folder;
  const std::size_t full = table_growth::max_used(table_growth::initial_shares(0, 8)[0].bucket_count);
  auto table = Table::create(16, RowType::kFloat32, 0, folder_memory(folder.path()), some_boot());
  const auto attached = attach(folder);
  Model model;
  const Call first{Call::kUpsert, numbers(0, full), 1, 1}, second{Call::kUpsert, {1'000'000}, 1, 1};
  CHECK(run(*table, first, kShape) == model.run(first));
  {
    const NoDescriptors none;
    for (const auto& act : std::vector<std::function<void()>>{
             [&] { run(*table, second, kShape); }, [&] { attach(folder); }, [&] { recover(folder); },
             [&] { Table::create(16, RowType::kFloat32, 0, folder_memory(folder.path()), some_boot()); }}) {
      const std::string message = message_of<TableSpaceError>(act);
      CHECK(contains(message, folder.path()) && contains(message, "ulimit -n"));
    }
    check_rows(*table, model, kShape);
    check_rows(*attached, model, kShape);
  }
  CHECK(run(*table, second, kShape) == model.run(second));
  // A reader that has to follow says the same, and follows later.
  {
    const NoDescriptors none;
    CHECK(contains(message_of<TableSpaceError>([&] { attached->bytes(); }), "ulimit -n"));
  }
  check_rows(*attached, model, kShape);
  check_files(folder, *table);
}

void test_modes() {
  const mode_t before = ::umask(077);
  Folder parent;
  const std::string path = parent.file("table");
  const gid_t group = ::getegid();
  auto table = Table::create(4, RowType::kFloat16, 0, folder_memory(path, {0640, 0750, group}), some_boot());
  run(*table, {Call::kUpsert, numbers(0, 10'000), 1, 1}, {4, RowType::kFloat16});  // grows
  struct stat status;
  CHECK(::stat(path.c_str(), &status) == 0 && (status.st_mode & 07777) == 0750 && status.st_gid == group);
  for (const auto& file : std::filesystem::directory_iterator(path)) {
    CHECK(::stat(file.path().c_str(), &status) == 0 && (status.st_mode & 07777) == 0640);
    CHECK(status.st_gid == group);
  }
  ::umask(0);
  const std::string narrow = parent.file("narrow");
  table = Table::create(4, RowType::kFloat16, 0, folder_memory(narrow), some_boot());
  CHECK(::stat(narrow.c_str(), &status) == 0 && (status.st_mode & 07777) == 0700);
  for (const auto& file : std::filesystem::directory_iterator(narrow)) {
    CHECK(::stat(file.path().c_str(), &status) == 0 && (status.st_mode & 07777) == 0600);
  }
  ::umask(before);
  // Who may only read it cannot change it, and links are not followed.
  const auto reader = read_only_folder_memory(path);
  CHECK_THROWS(std::logic_error, reader->create("x", kPageBytes));
  CHECK_THROWS(std::logic_error, reader->remove(kDirectoryFile));
  CHECK_THROWS(std::logic_error, reader->rename(kDirectoryFile, "x"));
  std::filesystem::create_symlink(path + "/" + kDirectoryFile, parent.file("link"));
  CHECK_THROWS(TableError, folder_memory(parent.path())->open("link"));
  CHECK_THROWS(TableError, folder_memory(parent.path())->open("narrow"));
  CHECK(!folder_memory(parent.path())->open("nothing"));
}

// ---- files that are damaged ----

// A table of several segments in a folder, with its model, which tests damage and restore.
class Damaged {
 public:
  Damaged() {
    const auto table =
        Table::create(kShape.dim, kShape.type, 50'000, folder_memory(folder_.path()), some_boot());
    const Call call{Call::kUpsert, numbers(0, 500), 3, 1};
    CHECK(run(*table, call, kShape) == model_.run(call));
    const Call gone{Call::kErase, numbers(100, 50), 3};
    CHECK(run(*table, gone, kShape) == model_.run(gone));
    const Mapping mapping = std::move(*read_only_folder_memory(folder_.path())->open(kDirectoryFile));
    for (const auto& word : directory_in(mapping).words) {
      if (numbers_.empty() || numbers_.back() != word.load()) numbers_.push_back(word.load());
    }
    CHECK(numbers_.size() >= 3);
  }

  const Folder& folder() const { return folder_; }
  // Of the segments, in the order of their entries.
  const std::vector<std::uint32_t>& numbers_of_segments() const { return numbers_; }
  std::string segment(std::size_t i) const { return Segment::file_name(numbers_[i]); }

  std::vector<char> read(const std::string& name) const {
    std::ifstream file(folder_.file(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void write(const std::string& name, const std::vector<char>& bytes) const {
    std::ofstream file(folder_.file(name), std::ios::binary | std::ios::trunc);
    file.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    CHECK(file.good());
  }
  void patch(const std::string& name, std::size_t at, const void* bytes, std::size_t n) const {
    std::fstream file(folder_.file(name), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(static_cast<std::streamoff>(at));
    file.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(n));
    CHECK(file.good());
  }

  // Both a new reader and a new writer refuse the table, naming `culprit` and saying `why`.
  void refused(const std::string& culprit, const std::string& why) const {
    refused_by([&] { attach(folder_); }, culprit, why);
    refused_by([&] { satrap_recover(); }, culprit, why);
  }
  void refused_by_writer(const std::string& culprit, const std::string& why) const {
    refused_by([&] { satrap_recover(); }, culprit, why);
  }
  // It is whole again.
  void accepted() const {
    check_rows(*attach(folder_), model_, kShape);
    const auto table = recover(folder_);
    check_rows(*table, model_, kShape);
    check_files(folder_, *table);
  }

 private:
  void satrap_recover() const { recover(folder_); }
  void refused_by(const std::function<void()>& act, const std::string& culprit,
                  const std::string& why) const {
    const std::string message = message_of<TableError>(act);
    if (!contains(message, folder_.file(culprit)) || !contains(message, why)) {
      std::fprintf(stderr, "'%s' does not tell of %s: %s\n", message.c_str(), culprit.c_str(), why.c_str());
    }
    CHECK(contains(message, folder_.file(culprit)) && contains(message, why));
  }

  Folder folder_;
  Model model_;
  std::vector<std::uint32_t> numbers_;
};

void test_every_bit_of_both_headers() {
  const Damaged table;
  for (const auto& [name, bytes] : {std::pair{std::string(kDirectoryFile), sizeof(DirectoryHeader)},
                                    std::pair{table.segment(1), sizeof(SegmentHeader)}}) {
    const std::vector<char> whole = table.read(name);
    for (std::size_t bit = 0; bit < bytes * 8; bit += kBuild == Build::kThreadSanitizer ? 13 : 1) {
      const char flipped = static_cast<char>(whole[bit / 8] ^ (1 << bit % 8));
      table.patch(name, bit / 8, &flipped, 1);
      table.refused(name, "");
      table.patch(name, bit / 8, &whole[bit / 8], 1);
    }
    table.accepted();
  }
}

void test_truncated_and_missing_files() {
  const Damaged table;
  for (const std::string& name : {std::string(kDirectoryFile), table.segment(0), table.segment(2)}) {
    const std::vector<char> whole = table.read(name);
    const auto size = static_cast<off_t>(whole.size());
    for (const off_t bytes : {off_t{0}, off_t{1}, off_t{71}, off_t{4095}, off_t{4096}, size / 2, size - 4096,
                              size - 1, size + 1, size + 4096, size * 2}) {
      if (bytes == size) continue;
      CHECK(::truncate(table.folder().file(name).c_str(), bytes) == 0);
      table.refused(name, bytes == 0 ? "is empty" : "truncated");
      table.write(name, whole);
    }
    CHECK(::unlink(table.folder().file(name).c_str()) == 0);
    table.refused(name, "is missing");
    CHECK(::mkdir(table.folder().file(name).c_str(), 0700) == 0);
    table.refused(name, "");
    CHECK(::rmdir(table.folder().file(name).c_str()) == 0);
    CHECK(::symlink("/dev/null", table.folder().file(name).c_str()) == 0);
    table.refused(name, "");
    CHECK(::unlink(table.folder().file(name).c_str()) == 0);
    table.write(name, whole);
    table.accepted();
  }
}

template <class Header>
std::vector<char> with_header(std::vector<char> file, const std::function<void(Header&)>& change) {
  Header header;
  std::memcpy(&header, file.data(), sizeof header);
  change(header);
  header.sum = checksum({reinterpret_cast<const std::byte*>(&header), offsetof(Header, sum)});
  std::memcpy(file.data(), &header, sizeof header);
  return file;
}

// Headers whose checksums are right, but which are of something else.
void test_foreign_files() {
  const Damaged table, other;
  const std::string directory = kDirectoryFile;
  const auto with_directory = [&](const char* why, const std::function<void(DirectoryHeader&)>& change) {
    const std::vector<char> whole = table.read(directory);
    table.write(directory, with_header<DirectoryHeader>(whole, change));
    table.refused(directory, why);
    table.write(directory, whole);
  };
  with_directory("layout 2, this version of satrap knows layout 1", [](auto& header) { header.layout = 2; });
  with_directory("no file of a satrap table", [](auto& header) { header.magic[0] = 'X'; });
  with_directory("before the machine's last start", [](auto& header) { header.boot[3] = std::byte{1}; });
  with_directory("contradicts itself", [](auto& header) { header.dim = 0; });
  with_directory("contradicts itself", [](auto& header) { header.dim = kMaxDim + 1; });
  with_directory("contradicts itself", [](auto& header) { header.row_type = 2; });
  with_directory("truncated", [](auto& header) { header.file_bytes += kPageBytes; });

  const std::string name = table.segment(1);
  const auto with_segment = [&](const char* why, const std::function<void(SegmentHeader&)>& change) {
    const std::vector<char> whole = table.read(name);
    table.write(name, with_header<SegmentHeader>(whole, change));
    table.refused(name, why);
    table.write(name, whole);
  };
  with_segment("layout 9", [](auto& header) { header.layout = 9; });
  with_segment("no file of a satrap table", [](auto& header) { header.magic = DirectoryHeader::kMagic; });
  with_segment("before the machine's last start", [](auto& header) { header.boot.fill(std::byte{}); });
  with_segment("another table", [](auto& header) { header.table[0] ^= std::byte{1}; });
  with_segment("contradicts itself", [](auto& header) { ++header.number; });
  with_segment("contradicts itself", [](auto& header) { header.bucket_count /= 2; });
  with_segment("contradicts itself", [](auto& header) { header.bucket_count = 0; });
  with_segment("contradicts itself", [](auto& header) { header.bucket_count = ~std::uint64_t{0} / 64; });
  with_segment("contradicts itself", [](auto& header) { header.row_words *= 2; });
  with_segment("contradicts itself", [](auto& header) { header.end_entry = header.first_entry; });
  with_segment("contradicts itself", [](auto& header) { header.end_entry = kEntries + 1; });
  with_segment("truncated", [](auto& header) { header.file_bytes -= kPageBytes; });

  // Another table's segment of the same number, and this one's under another number.
  const std::vector<char> whole = table.read(name);
  table.write(name, other.read(other.segment(1)));
  table.refused(name, "another table");
  table.write(name, table.read(table.segment(0)));
  table.refused(name, "contradicts itself");
  table.write(name, whole);

  BootId later = some_boot();
  later[0] ^= std::byte{1};
  const auto is_old = [&](const std::string& message) {
    CHECK(contains(message, table.folder().file(directory)) && contains(message, "last start"));
  };
  is_old(message_of<TableError>([&] { attach(table.folder(), later); }));
  is_old(message_of<TableError>([&] { recover(table.folder(), later); }));
  table.accepted();
}

// Segments that are whole, and words that are not.
void test_directory_words() {
  const Damaged table;
  const std::string directory = kDirectoryFile;
  const std::vector<char> whole = table.read(directory);
  const auto with_word = [&](std::size_t entry, std::uint32_t word, const std::string& culprit,
                             const std::string& why) {
    table.patch(directory, offsetof(Directory, words) + entry * 4, &word, 4);
    table.refused(culprit, why);
    table.write(directory, whole);
  };
  with_word(5, 0, Segment::file_name(0), "is missing");
  with_word(5, 999, Segment::file_name(999), "is missing");
  // A segment that serves other entries.
  with_word(5, table.numbers_of_segments()[1], directory, "entry 5");
  with_word(kEntries - 1, table.numbers_of_segments()[0], directory, "entry 4095");
  {
    const std::uint32_t next = 1;
    table.patch(directory, offsetof(Directory, next_segment), &next, 4);
    table.refused_by_writer(directory, "next");
    table.write(directory, whole);
  }

  // Segments that overlap in part, and a gap between two.
  const std::string name = table.segment(1);
  const std::vector<char> segment = table.read(name);
  table.write(name, with_header<SegmentHeader>(segment, [](auto& header) { header.first_entry -= 1; }));
  table.refused_by_writer(name, "overlaps");
  table.write(name, with_header<SegmentHeader>(segment, [](auto& header) { header.first_entry += 1; }));
  table.refused(directory, "entry ");
  table.write(name, segment);
  table.accepted();
}

void test_buckets_and_redo_record() {
  const Damaged table;
  const std::string name = table.segment(0), directory = kDirectoryFile;
  const std::vector<char> segment = table.read(name), whole = table.read(directory);
  // Its first bucket, and the first sign in it.
  const std::size_t at = kPageBytes;
  std::uint64_t header, sign;
  std::memcpy(&header, segment.data() + at, 8);
  const auto with_header_word = [&](std::uint64_t word) {
    table.patch(name, at, &word, 8);
    table.refused_by_writer(name, "the header of bucket 0 is damaged");
    table.write(name, segment);
  };
  with_header_word(header | 1);  // and no redo record
  for (unsigned bit = 47; bit < 64; ++bit) with_header_word(header | std::uint64_t{1} << bit);
  with_header_word(bucket_header::kOverflow);  // and free slots: a search might never end
  with_header_word(header | std::uint64_t{1} << 32 | std::uint64_t{1} << 40);

  // A redo record that fits to nothing, word by word; then one that does, which recovery completes.
  std::size_t bucket = 0;
  SegmentHeader head;
  std::memcpy(&head, segment.data(), sizeof head);
  for (; bucket < head.bucket_count; ++bucket) {
    std::memcpy(&header, segment.data() + at + bucket * sizeof(Bucket), 8);
    if (bucket_header::occupied(header) & 1) break;
  }
  CHECK(bucket < head.bucket_count);
  std::memcpy(&sign, segment.data() + at + bucket * sizeof(Bucket) + 8, 8);
  struct Record {
    std::uint64_t operation, segment, bucket, slot, before, after, sign, ordinal;
  };
  const Record good{1, head.number, bucket, 0, header, bucket_header::advanced(header, 2), sign, 9};
  const auto with_record = [&](const std::string& culprit, const std::function<void(Record&)>& change) {
    Record record = good;
    change(record);
    table.patch(directory, offsetof(Directory, redo), &record, sizeof record);
    table.refused_by_writer(culprit, "");
    table.write(directory, whole);
  };
  with_record(directory, [](Record& record) { record.operation = 3; });
  with_record(directory, [](Record& record) { record.segment = 1u << 31; });
  with_record(directory, [](Record& record) { record.segment = ~std::uint64_t{0}; });
  with_record(directory, [&](Record& record) { record.bucket = head.bucket_count; });
  with_record(directory, [](Record& record) { record.slot = 7; });
  with_record(directory, [](Record& record) { record.before += 4; });
  with_record(directory, [](Record& record) { record.after += 2; });
  with_record(directory, [](Record& record) { record.after ^= bucket_header::kOverflow; });
  with_record(directory, [](Record& record) { record.after ^= bucket_header::occupied_bit(6); });
  with_record(directory, [](Record& record) { record.sign = ~record.sign; });
  with_record(directory, [](Record& record) { record.ordinal = std::uint64_t{1} << 32; });
  table.accepted();

  table.patch(directory, offsetof(Directory, redo), &good, sizeof good);
  std::vector<std::byte> row = row_of(sign, 55, kShape.bytes());
  table.patch(directory, offsetof(Directory, redo) + offsetof(RedoRecord, row), row.data(), row.size());
  const auto recovered = recover(table.folder());
  std::vector<std::byte> out(kShape.bytes());
  CHECK(recovered->lookup(reinterpret_cast<const std::byte*>(&sign), 1, out.data(), nullptr) == 0);
  CHECK(out == row);
}

// Damage that comes while a reader is attached is met when it follows: an error, again and again, until the
// file is as it should be.
void test_damage_while_attached() {
  Folder folder;
  auto table = Table::create(16, RowType::kFloat32, 0, folder_memory(folder.path()), some_boot());
  const auto attached = attach(folder);
  Model model;
  const Call call{Call::kUpsert, numbers(0, 1000), 1, 1};
  CHECK(run(*table, call, kShape) == model.run(call));  // grows
  std::string name;
  for (const std::string& file : folder.names()) {
    if (file != kDirectoryFile) name = file;
  }
  const std::string path = folder.file(name), kept = folder.file("kept");
  CHECK(::rename(path.c_str(), kept.c_str()) == 0);
  std::vector<std::uint8_t> found(call.signs.size());
  for (int i = 0; i < 3; ++i) {
    CHECK(contains(message_of<TableError>(
                       [&] { attached->contains(bytes_of(call.signs), call.signs.size(), found.data()); }),
                   name + ": is missing"));
  }
  std::filesystem::copy_file(kept, path);
  CHECK(::truncate(path.c_str(), kPageBytes) == 0);
  CHECK(contains(message_of<TableError>([&] { attached->follow(); }), "truncated"));
  CHECK(::unlink(path.c_str()) == 0 && ::rename(kept.c_str(), path.c_str()) == 0);
  attached->follow();
  check_rows(*attached, model, kShape);
}

}  // namespace

int main() {
  test_no_memory_for_growth();
  test_no_memory_for_a_new_table();
  test_full_file_system();
  test_no_descriptors();
  test_modes();
  test_every_bit_of_both_headers();
  test_truncated_and_missing_files();
  test_foreign_files();
  test_directory_words();
  test_buckets_and_redo_record();
  test_damage_while_attached();
  std::puts("table_memory: ok");
}
