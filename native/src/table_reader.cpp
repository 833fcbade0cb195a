#include "satrap/table_reader.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <exception>
#include <system_error>
#include <thread>
#include <utility>

#include "table_view.h"

namespace satrap {
namespace {

constexpr std::uint32_t kClosed = std::uint32_t{1} << 31;

// A follower sleeps until the writer announces something; this bounds how long memory of replaced segments
// may stay mapped because a batch was still reading it at that moment.
constexpr std::chrono::milliseconds kFollowEvery{1000};
// After an error that may pass (no descriptor left): lookups meet it too, and say so.
constexpr std::chrono::milliseconds kAfterError{100};

// Throws TableError unless `path` is a directory (no link to one) that `owner` or root owns: nobody else can
// then have put anything into it.
void check_folder(const std::string& path, uid_t owner) {
  struct stat status{};
  if (::lstat(path.c_str(), &status) != 0) {
    throw TableError(path + ": cannot be examined: " + std::strerror(errno));
  }
  if (!S_ISDIR(status.st_mode)) throw TableError(path + ": no folder");
  if (status.st_uid != owner && status.st_uid != 0) {
    throw TableError(path + ": belongs to user " + std::to_string(status.st_uid) + ", not to " +
                     std::to_string(owner));
  }
}

std::vector<std::string> table_names(const std::string& folder) {
  const std::unique_ptr<DIR, int (*)(DIR*)> listing(::opendir(folder.c_str()), &::closedir);
  if (!listing) {
    const std::string reason = folder + ": cannot be listed: " + std::strerror(errno);
    if (errno == EMFILE || errno == ENFILE)
      throw TableSpaceError(reason + "; raise the limit of open files (ulimit -n)");
    throw TableError(reason);
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(listing.get())) {
    if (shape_of_folder(entry->d_name)) names.emplace_back(entry->d_name);
  }
  return names;
}

// Signals are for the threads that the process made itself, Python's main thread above all.
class SignalsBlocked {
 public:
  SignalsBlocked() {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t before_;
};

}  // namespace

// A table, and the thread that follows its writer.
struct TableReader::Attached {
  explicit Attached(std::unique_ptr<TableView> attached) : view(std::move(attached)) {
    const SignalsBlocked blocked;  // the new thread inherits the mask
    try {
      follower = std::thread([this] { follow(); });
    } catch (const std::system_error& error) {
      throw TableSpaceError(std::string("no thread can be made to follow a table: ") + error.what());
    }
  }

  ~Attached() {
    stopping.store(true);
    // A wake before the thread sleeps is lost; the next one is not.
    while (!has_ended.load()) {
      view->wake();
      std::this_thread::sleep_for(std::chrono::microseconds(100));
    }
    follower.join();
  }

  void follow() {
    while (!stopping.load()) {
      std::chrono::milliseconds patience = kFollowEvery;
      try {
        view->follow();
      } catch (const std::exception&) {
        patience = kAfterError;
      }
      if (!stopping.load()) view->wait_for_signal(patience);
    }
    has_ended.store(true);
  }

  const std::unique_ptr<TableView> view;
  std::atomic<bool> stopping{false};
  std::atomic<bool> has_ended{false};
  Attached* next = nullptr;
  std::thread follower;
};

TableReader::TableReader(std::string folder, const InstanceId& instance, uid_t owner)
    : folder_(std::move(folder)), instance_(instance), owner_(owner), process_(::getpid()) {
  check_folder(folder_, owner_);
  control_ = ControlFile::open_for_reading(folder_, owner_);
  const ControlHeader& header = control_->header();
  if (header.instance != instance_) throw TableError(control_->path() + ": of another instance");
  if (header.boot != present_boot()) throw TableError(control_->path() + ": of another run of the machine");
  if (const GenerationState state = control_->state(); state != GenerationState::kServing) {
    throw TableError(control_->path() + ": is " + name_of(state));
  }
  try {
    attach_added_tables();
  } catch (...) {
    close();
    throw;
  }
}

TableReader::~TableReader() {
  if (::getpid() == process_) {
    close();
  } else {
    static_cast<void>(
        tables_.exchange(nullptr));  // their threads are not of this process, and cannot be joined
  }
}

void TableReader::close() {
  std::uint32_t before = uses_.fetch_or(kClosed);
  if (before & kClosed) return;
  // Batches are short, and none can begin any more.
  for (before |= kClosed; before != kClosed; before = uses_.load()) uses_.wait(before);
  for (Attached* table = tables_.exchange(nullptr); table != nullptr;) {
    delete std::exchange(table, table->next);
  }
  control_.reset();
}

TableReader::Hold::Hold(const TableReader& reader) : reader_(reader) {
  if (reader_.uses_.fetch_add(1) & kClosed) {
    leave();
    throw TableError(reader_.folder_ + ": closed");
  }
}

TableReader::Hold::~Hold() { leave(); }

void TableReader::Hold::leave() const {
  if (reader_.uses_.fetch_sub(1) == (kClosed | 1)) reader_.uses_.notify_all();
}

TableReader::Condition TableReader::condition() const {
  const Hold hold(*this);
  const std::uint64_t heartbeat = control_->heartbeat_ns();  // before the clock: never in its future
  const auto silent = static_cast<std::int64_t>(monotonic_ns() - heartbeat);
  const ReaderState state = judge(control_->state(), silent, [this] { return control_->is_locked(); });
  return {state, silent < 0 ? kForeverNs : silent};
}

Watermark TableReader::watermark() const {
  const Hold hold(*this);
  return control_->watermark();
}

void TableReader::attach_added_tables() const {
  const std::lock_guard lock(adding_);
  const std::uint32_t count = control_->tables();
  if (count == known_.load() && count == names_.size()) return;
  for (const std::string& name : table_names(folder_)) {
    if (std::ranges::find(names_, name) != names_.end()) continue;
    const std::string path = folder_ + "/" + name;
    check_folder(path, owner_);
    // One that the writer has not completed has no directory yet; it is not counted either.
    if (::access((path + "/directory").c_str(), F_OK) != 0) continue;
    auto table = std::make_unique<Attached>(
        TableView::attach(read_only_folder_memory(path), {control_->header().boot, instance_}));
    table->next = tables_.load();
    names_.push_back(name);
    tables_.store(table.release());
  }
  if (names_.size() < count) {
    throw TableError(folder_ + ": has " + std::to_string(names_.size()) + " of its " + std::to_string(count) +
                     " tables: the others were removed");
  }
  known_.store(count);
}

const TableView* TableReader::table_of(std::size_t dim) const {
  for (const Attached* table = tables_.load(); table != nullptr; table = table->next) {
    if (table->view->shape().dim == dim) return table->view.get();
  }
  return nullptr;
}

TableReader::Use::Use(const TableReader& reader) : reader_(reader), hold_(reader) {
  if (reader_.control_->tables() != reader_.known_.load()) reader_.attach_added_tables();
}

RowType TableReader::Use::type_of(std::size_t dim) const {
  if (const TableView* table = reader_.table_of(dim)) return table->shape().type;
  const Attached* any = reader_.tables_.load();
  return any == nullptr ? RowType::kFloat32 : any->view->shape().type;
}

TableReader::Counts TableReader::Use::lookup(const Group& group, std::byte* rows) const {
  const TableView* table = reader_.table_of(group.dim);
  const Attached* tables = reader_.tables_.load();
  const bool is_alone = table != nullptr && tables->next == nullptr;
  const auto found = std::make_unique_for_overwrite<std::uint8_t[]>(is_alone ? 0 : group.n);
  std::uint64_t absent = group.n;
  if (table != nullptr) {
    absent = table->lookup(group.signs, group.n, rows, is_alone ? nullptr : found.get());
  } else {
    std::memset(rows, 0, group.n * group.dim * item_size(type_of(group.dim)));
    std::memset(found.get(), 0, group.n);
  }
  if (absent == 0 || is_alone) return {absent, 0};
  const std::uint64_t mismatched = held_elsewhere(group, found.get());
  return {absent - mismatched, mismatched};
}

// How many of the signs that `found` marks as absent are in a table of another dim.
std::uint64_t TableReader::Use::held_elsewhere(const Group& group, const std::uint8_t* found) const {
  std::vector<std::byte> absent;
  for (std::size_t i = 0; i < group.n; ++i) {
    if (!found[i]) absent.insert(absent.end(), group.signs + i * 8, group.signs + (i + 1) * 8);
  }
  const std::size_t n = absent.size() / 8;
  std::vector<std::uint8_t> here(n), anywhere(n);
  for (const Attached* table = reader_.tables_.load(); table != nullptr; table = table->next) {
    if (table->view->shape().dim == group.dim) continue;
    table->view->contains(absent.data(), n, here.data());
    for (std::size_t i = 0; i < n; ++i) anywhere[i] |= here[i];
  }
  return static_cast<std::uint64_t>(std::ranges::count(anywhere, 1));
}

}  // namespace satrap
